//! The first run of `meteor serve`: a config file, a setup link, and from there HTTP only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::crash_recovery::{call_until_gone, complete_call};
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, PASSWORD, Server, is_setup_link, model, upstream};
use crate::harness::tenant::{Tenant, is_debit_of};
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 21, completion: 6, cached: 4, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

async fn answering_upstream() -> Upstream {
    Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await
}

/// One upstream with two models.
fn rows(provider: &Upstream) -> String {
    let served = "upstream = \"fake\"";
    upstream("fake", &provider.url)
        + &model("gpt-4o-mini", served)
        + &model("gpt-4o-mini-long", served)
}

/// Asserts that a plain and a streamed call complete, are charged exactly and are logged.
async fn assert_calls_governed(tenant: &Tenant, provider: &Upstream) {
    let (before, seen) = (tenant.wallet().await.at("balance").nano(), provider.request_count());
    for (count, (model, stream)) in (1..).zip([("gpt-4o-mini", false), ("gpt-4o-mini-long", true)])
    {
        let request = Request::chat(&tenant.key, chat(model, 50, stream));
        let answer = request.send(&tenant.proxy).await;
        assert_eq!(answer.status, 200);
        let id = answer.id();
        assert!(answer.text().await.contains("Hello"));
        let debit = tenant.debit(&id).await;
        let cost = GPT_4O_MINI.cost(USAGE);
        assert_eq!(debit.at("amount").nano(), cost, "{debit}");
        assert_eq!(debit.at("settledBy").text(), "usage", "{debit}");
        assert_eq!(tenant.wallet().await.at("balance").nano(), before - count * cost);
        let log = tenant.log(&id).await;
        assert_eq!(log.at("outcome").text(), "Completed", "{log}");
        assert_eq!(log.at("model").text(), model, "{log}");
        assert_eq!(log.at("upstream").text(), "fake", "{log}");
    }
    assert_eq!(provider.request_count() - seen, 2, "each call reached the provider one time");
    tenant.assert_settled().await;
}

/// The number of setup links in the output; every other line is a call log.
fn count_links(output: Vec<String>) -> usize {
    let (links, others): (Vec<_>, Vec<_>) =
        output.into_iter().partition(|line| is_setup_link(line));
    for line in others {
        assert_eq!(Json::new(&line).at("log").text(), "call", "{line}");
    }
    links.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_config_passes_the_check() {
    let config_dir = ConfigDir::new(&rows(&answering_upstream().await));
    let checked = config_dir.run(&["check"]);
    let stdout = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(
        stdout.trim_end(),
        format!("{}: no errors", config_dir.path("gateway.toml").display())
    );
    assert!(!config_dir.path("data").exists(), "a check creates no files");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_serve_report_all_five_config_errors() {
    let config_dir = ConfigDir::new(
        "colour = \"red\"\n[journal]\ndurability = \"paper\"\n[[upstreams]]\nname = \"a\"\n\
         base_url = \"ftp://a.example\"\nauth = { secret = \"hunter2\" }\n[[models]]\nid = \"m\"\n\
         upstream = \"b\"\nmax_output_tokens = 9\n\
         prices = { inputTokens = \"1\", outputTokens = \"2\" }\n",
    );
    let expected = BTreeSet::from([
        "log.colour",
        "journal.durability",
        "upstreams.0.base_url",
        "upstreams.0.auth.secret",
        "models.0.upstream",
    ]);
    for args in [&["check"][..], &["serve", "--config"]] {
        let output = config_dir.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}: {stderr}");
        let stderr = stderr.strip_prefix("meteor: ").expect("the program name");
        let paths: Vec<&str> =
            stderr.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(paths.len(), 5, "one line per fault: {stderr}");
        assert_eq!(paths.into_iter().collect::<BTreeSet<_>>(), expected, "{stderr}");
        assert!(!stderr.contains("hunter2"), "a secret is not printed: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(!config_dir.path("data").exists(), "no data folder is created");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_config_file_is_reported_by_name() {
    let config_dir = ConfigDir::new("");
    std::fs::remove_file(config_dir.path("gateway.toml")).expect("the file exists");
    let output = config_dir.run(&["check"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("gateway.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_from_an_empty_folder_works_over_http_only() {
    let provider = answering_upstream().await;
    let served = Server::start(ConfigDir::new(&rows(&provider))).await;
    let link = served.setup_link().await;
    let wrong = served.complete_setup(&link.chars().rev().collect::<String>()).await;
    assert_eq!(wrong.status, 401, "a wrong link is refused");
    let created = served.complete_setup(&link).await;
    assert_eq!(created.status, 200);
    let created = created.json().await.at("data");
    assert!(created.at("user.isOperator").is_true(), "{created}");
    assert_eq!(created.at("user.email").text(), "op@example.com");
    assert_eq!(served.complete_setup(&link).await.status, 401, "a link works a single time");
    let operator = served.operator(&created.at("token").text()).await;
    let tenant = operator.create_tenant(&served, FUNDS, r#"{"dailyRequestLimit":4}"#).await;
    assert_calls_governed(&tenant, &provider).await;

    // The second start has the same data and prints no link.
    served.terminate();
    let mut served = served;
    assert_eq!(count_links(served.stdout_lines().await), 1, "the link is printed one time");
    let served = served.restart().await;
    let tenant = served.rebind(tenant);
    assert_calls_governed(&tenant, &provider).await;
    let refused = Request::chat(&tenant.key, chat("gpt-4o-mini", 50, false));
    let refused = refused.send(&tenant.proxy).await;
    assert_eq!(refused.status, 429, "the quota persists: four calls fit, and no fifth");
    let body = format!(r#"{{"email":"Op@Example.com","password":"{PASSWORD}"}}"#);
    let signed_in = Request::post("/api/auth/login", body).send(&served.admin).await;
    assert_eq!(signed_in.status, 200);
    served.terminate();
    let mut served = served;
    assert_eq!(count_links(served.stdout_lines().await), 0, "a second start prints no link");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_setup_link_is_replaced_at_the_next_start() {
    let served = Server::start(ConfigDir::new("")).await;
    let first = served.setup_link().await;
    let served = served.restart().await;
    let second = served.setup_link().await;
    assert_ne!(first, second);
    assert_eq!(served.complete_setup(&first).await.status, 401, "the first link is invalid");
    assert_eq!(served.complete_setup(&second).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_from_the_environment_signs_in_without_a_link() {
    let provider = answering_upstream().await;
    let config_dir = ConfigDir::new(&rows(&provider));
    let file = config_dir.write("password", &format!("{PASSWORD}\n"));
    let config_dir = config_dir
        .with_env("METEOR__ADMIN__OPERATOR_EMAIL", "boss@example.com")
        .with_env("METEOR__ADMIN__OPERATOR_PASSWORD_FILE", file.display().to_string());
    let served = Server::start(config_dir).await;
    served.forbid_in_log(PASSWORD);
    let sign_in = |email: &str, password: &str| {
        let body = format!(r#"{{"email":"{email}","password":"{password}"}}"#);
        Request::post("/api/auth/login", body)
    };
    let wrong = sign_in("boss@example.com", "wrong horse battery staple").send(&served.admin).await;
    assert_eq!(wrong.status, 401);
    let signed_in = sign_in("boss@example.com", PASSWORD).send(&served.admin).await;
    assert_eq!(signed_in.status, 200);
    let session = signed_in.json().await.at("data.token").text();
    let tenant = served.operator(&session).await.create_tenant(&served, FUNDS, "{}").await;
    assert_calls_governed(&tenant, &provider).await;

    // The password file only sets the initial password.
    std::fs::write(&file, "another horse battery staple\n").expect("the folder can be written");
    let served = served.restart().await;
    assert_eq!(sign_in("boss@example.com", PASSWORD).send(&served.admin).await.status, 200);
    served.terminate();
    let mut served = served;
    assert_eq!(count_links(served.stdout_lines().await), 0, "no link is printed");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_durable_calls_survive_a_kill() {
    let provider = answering_upstream().await;
    let config_dir =
        ConfigDir::new(&format!("[journal]\ndurability = \"power\"\n{}", rows(&provider)));
    let mut served = Server::start(config_dir).await;
    let tenant = served.tenant(FUNDS, r#"{"dailyRequestLimit":100000}"#).await;
    assert_calls_governed(&tenant, &provider).await;
    let mut ended = Vec::new();
    let stop_flag = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| tokio::spawn(call_until_gone(tenant.clone(), Arc::clone(&stop_flag))))
        .collect();
    provider.wait_for_requests(102).await;
    served.kill();
    stop_flag.store(true, Ordering::Relaxed);
    for caller in callers {
        ended.extend(caller.await.expect("a caller ends"));
    }
    assert!(ended.len() >= 80, "most forwarded calls have ended: {}", ended.len());

    let served = served.restart().await;
    let tenant = served.rebind(tenant);
    tenant.assert_settled().await;
    let records = tenant.records().await;
    for id in &ended {
        let debits_of_call: Vec<_> =
            records.iter().filter(|record| is_debit_of(record, id)).collect();
        assert_eq!(
            debits_of_call.len(),
            1,
            "a call whose end was seen has one debit: {debits_of_call:?}"
        );
        assert_eq!(debits_of_call[0].at("settledBy").text(), "usage", "{debits_of_call:?}");
    }
    assert!(complete_call(&tenant).await.is_some(), "calls are served again");
    assert_calls_governed(&tenant, &provider).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_the_config_file() {
    let provider = answering_upstream().await;
    let config_dir = ConfigDir::new(&rows(&provider));
    let mut served = Server::start(config_dir.clone()).await;
    for words in ["catalog reloaded", "catalog reload failed"] {
        served.hang_up();
        eventually(words, async || served.log().contains(words).then_some(())).await;
        config_dir.write("gateway.toml", "no such section = 1");
    }
    assert!(served.is_running());
}
