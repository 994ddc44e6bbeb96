//! The real thing as a newcomer runs it: a file, a set-up link, and from there HTTP only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::crash_recovery::{call_until_gone, complete_call};
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{PASSWORD, Place, Served, is_setup_link, model, upstream};
use crate::harness::tenant::{Tenant, is_debit_of};
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 21, completion: 6, cached: 4, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

async fn answering_upstream() -> Upstream {
    Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await
}

/// One upstream and two models of it.
fn rows(provider: &Upstream) -> String {
    let served = "upstream = \"fake\"";
    upstream("fake", &provider.url)
        + &model("gpt-4o-mini", served)
        + &model("gpt-4o-mini-long", served)
}

/// A call of each kind, completed, paid to the nano and recorded.
async fn expect_calls_governed(tenant: &Tenant, provider: &Upstream) {
    let (before, seen) = (tenant.wallet().await.at("balance").nano(), provider.request_count());
    for (paid, (model, stream)) in (1..).zip([("gpt-4o-mini", false), ("gpt-4o-mini-long", true)]) {
        let request = Request::chat(&tenant.key, chat(model, 50, stream));
        let answer = request.send(&tenant.proxy).await;
        assert_eq!(answer.status, 200);
        let id = answer.id();
        assert!(answer.text().await.contains("Hello"));
        let debit = tenant.debit(&id).await;
        let cost = GPT_4O_MINI.cost(USAGE);
        assert_eq!(debit.at("amount").nano(), cost, "{debit}");
        assert_eq!(debit.at("settledBy").text(), "usage", "{debit}");
        assert_eq!(tenant.wallet().await.at("balance").nano(), before - paid * cost);
        let log = tenant.log(&id).await;
        assert_eq!(log.at("outcome").text(), "Completed", "{log}");
        assert_eq!(log.at("model").text(), model, "{log}");
        assert_eq!(log.at("upstream").text(), "fake", "{log}");
    }
    assert_eq!(provider.request_count() - seen, 2, "each call reached the provider once");
    tenant.assert_settled().await;
}

/// How many links were printed; besides them there is only a line for each call.
fn count_links(said: Vec<String>) -> usize {
    let (links, others): (Vec<_>, Vec<_>) = said.into_iter().partition(|line| is_setup_link(line));
    for line in others {
        assert_eq!(Json::new(&line).at("log").text(), "call", "{line}");
    }
    links.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_config_passes_the_check() {
    let place = Place::new(&rows(&answering_upstream().await));
    let checked = place.run(&["check"]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(said.trim_end(), format!("{}: no errors", place.path("gateway.toml").display()));
    assert!(!place.path("data").exists(), "a check makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_serve_report_all_five_config_errors() {
    let place = Place::new(
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
    for words in [&["check"][..], &["serve", "--config"]] {
        let ran = place.run(words);
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success(), "{words:?}: {told}");
        let told = told.strip_prefix("meteor: ").expect("the name of who speaks");
        let paths: Vec<&str> =
            told.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(paths.len(), 5, "one line a fault: {told}");
        assert_eq!(paths.into_iter().collect::<BTreeSet<_>>(), expected, "{told}");
        assert!(!told.contains("hunter2"), "a secret is not told: {told}");
        assert!(ran.stdout.is_empty(), "{words:?}");
    }
    assert!(!place.path("data").exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_config_file_is_reported_by_name() {
    let place = Place::new("");
    std::fs::remove_file(place.path("gateway.toml")).expect("it was made");
    let ran = place.run(&["check"]);
    assert!(!ran.status.success());
    assert!(String::from_utf8_lossy(&ran.stderr).contains("gateway.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_from_an_empty_folder_works_over_http_only() {
    let provider = answering_upstream().await;
    let served = Served::start(Place::new(&rows(&provider))).await;
    let link = served.setup_link().await;
    let wrong = served.complete_setup(&link.chars().rev().collect::<String>()).await;
    assert_eq!(wrong.status, 401, "another link opens nothing");
    let made = served.complete_setup(&link).await;
    assert_eq!(made.status, 200);
    let made = made.json().await.at("data");
    assert!(made.at("user.isOperator").is_true(), "{made}");
    assert_eq!(made.at("user.email").text(), "op@example.com");
    assert_eq!(served.complete_setup(&link).await.status, 401, "a link works once");
    let operator = served.operator(&made.at("token").text()).await;
    let tenant = operator.create_tenant(&served, FUNDS, r#"{"dailyRequestLimit":4}"#).await;
    expect_calls_governed(&tenant, &provider).await;

    // The second start finds all of it, and nobody needs a link any more.
    served.terminate();
    let mut served = served;
    assert_eq!(count_links(served.stdout_lines().await), 1, "the link is printed once");
    let served = served.restart().await;
    let tenant = served.rebind(tenant);
    expect_calls_governed(&tenant, &provider).await;
    let refused = Request::chat(&tenant.key, chat("gpt-4o-mini", 50, false));
    let refused = refused.send(&tenant.proxy).await;
    assert_eq!(refused.status, 429, "the quota is kept: four calls fit, and no fifth");
    let body = format!(r#"{{"email":"Op@Example.com","password":"{PASSWORD}"}}"#);
    let signed_in = Request::post("/api/auth/login", body).send(&served.admin).await;
    assert_eq!(signed_in.status, 200);
    served.terminate();
    let mut served = served;
    assert_eq!(count_links(served.stdout_lines().await), 0, "a second start prints no link");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_setup_link_is_replaced_at_the_next_start() {
    let served = Served::start(Place::new("")).await;
    let first = served.setup_link().await;
    let served = served.restart().await;
    let second = served.setup_link().await;
    assert_ne!(first, second);
    assert_eq!(served.complete_setup(&first).await.status, 401, "the first link is void");
    assert_eq!(served.complete_setup(&second).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_from_the_environment_signs_in_without_a_link() {
    let provider = answering_upstream().await;
    let place = Place::new(&rows(&provider));
    let file = place.write("password", &format!("{PASSWORD}\n"));
    let place = place
        .with("METEOR__ADMIN__OPERATOR_EMAIL", "boss@example.com")
        .with("METEOR__ADMIN__OPERATOR_PASSWORD_FILE", file.display().to_string());
    let served = Served::start(place).await;
    served.hides(PASSWORD);
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
    expect_calls_governed(&tenant, &provider).await;

    // The password is the first one only: a later file changes nobody's.
    std::fs::write(&file, "another horse battery staple\n").expect("the folder can be written");
    let served = served.restart().await;
    assert_eq!(sign_in("boss@example.com", PASSWORD).send(&served.admin).await.status, 200);
    served.terminate();
    let mut served = served;
    assert_eq!(count_links(served.stdout_lines().await), 0, "nobody needs one");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_durable_calls_survive_a_kill() {
    let provider = answering_upstream().await;
    let place = Place::new(&format!("[journal]\ndurability = \"power\"\n{}", rows(&provider)));
    let mut served = Served::start(place).await;
    let tenant = served.tenant(FUNDS, r#"{"dailyRequestLimit":100000}"#).await;
    expect_calls_governed(&tenant, &provider).await;
    let mut ended = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> =
        (0..8).map(|_| tokio::spawn(call_until_gone(tenant.clone(), Arc::clone(&stop)))).collect();
    provider.wait_for_requests(102).await;
    served.kill();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        ended.extend(caller.await.expect("a caller ends"));
    }
    assert!(ended.len() >= 80, "most of what reached the provider had ended: {}", ended.len());

    let served = served.restart().await;
    let tenant = served.rebind(tenant);
    tenant.assert_settled().await;
    let records = tenant.records().await;
    for id in &ended {
        let own: Vec<_> = records.iter().filter(|record| is_debit_of(record, id)).collect();
        assert_eq!(own.len(), 1, "a call whose end was seen has one debit: {own:?}");
        assert_eq!(own[0].at("settledBy").text(), "usage", "{own:?}");
    }
    assert!(complete_call(&tenant).await.is_some(), "it goes on");
    expect_calls_governed(&tenant, &provider).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_the_config_file() {
    let provider = answering_upstream().await;
    let place = Place::new(&rows(&provider));
    let mut served = Served::start(place.clone()).await;
    for words in ["catalog reloaded", "catalog reload failed"] {
        served.hang_up();
        eventually(words, async || served.log().contains(words).then_some(())).await;
        place.write("gateway.toml", "no such section = 1");
    }
    assert!(served.is_running());
}
