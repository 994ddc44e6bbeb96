//! `meteor verify-ledger` with a running, a killed and a stopped gateway and with a tampered
//! ledger, and the chain auditor of the running gateway.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::crash_recovery::{call_until_gone, complete_call};
use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, WORDS, chat, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::process::meteor_command;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 21, completion: 6, cached: 4, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000_000;

/// How long the ledger is verified under load; `VERIFY_SECONDS` sets another time.
fn load_time() -> Duration {
    let seconds = std::env::var("VERIFY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

fn verify(data: &Path, words: &[&str]) -> Output {
    let mut command = meteor_command();
    command.arg("verify-ledger").args(words).arg("--data").arg(data).env_remove("RUST_LOG");
    command.output().expect("the binary starts")
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn assert_sound(output: &Output) -> String {
    let text = output_text(output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.trim_end().ends_with(", 0 violations"), "{text}");
    text
}

/// The number before these words in the output.
fn number_before(output_text: &str, words: &str) -> u64 {
    let before = output_text.split(words).next().expect("a text").trim_end();
    before.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number")
}

async fn tamper(data: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(data.join("meteor.db"));
    let options = options.foreign_keys(false).busy_timeout(Duration::from_secs(20));
    let mut connection = options.connect().await.expect("a database");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect("the statement runs");
    connection.close().await.expect("closed");
}

/// A metric without labels, in whole units.
async fn metric(admin: &str, name: &str) -> u64 {
    let metrics = Request::get("/metrics").send(admin).await.text().await;
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.split('.').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn verification_under_load_reports_no_false_violation() {
    let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let rows = upstream("fake", &provider.url) + &model("gpt-4o-mini", "upstream = \"fake\"");
    // The smallest segments, deleted as soon as possible, so that they vanish while they are read.
    let config_dir =
        ConfigDir::new(&format!("[journal]\nsegment_bytes = 1048576\nkeep_ms = 0\n{rows}"));
    let served = Server::start(config_dir.clone()).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    let other = tenant.create_tenant(&served, FUNDS, "{}").await;
    let stop_flag = Arc::new(AtomicBool::new(false));
    let tenants = [tenant, other];
    let callers: Vec<_> = (0..16)
        .map(|n| tokio::spawn(call_until_gone(tenants[n % 2].clone(), Arc::clone(&stop_flag))))
        .collect();
    let started = Instant::now();
    let (mut verifications, mut open, mut unprojected) = (0, 0, 0);
    while started.elapsed() < load_time() || verifications < 5 {
        let config_dir = config_dir.clone();
        let verify = move || config_dir.run(&["verify-ledger", "--config"]);
        let output = tokio::task::spawn_blocking(verify).await.expect("a verification");
        let text = assert_sound(&output);
        verifications += 1;
        open += number_before(&text, "open holds");
        unprojected += number_before(&text, "unprojected entries");
    }
    assert!(0 < open && 0 < unprojected, "calls were in flight: {open}, {unprojected}");
    assert_eq!(metric(&served.admin, "meteor_ledger_violations_total").await, 0);
    stop_flag.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("a caller ends").len() as u64;
    }
    for tenant in &tenants {
        assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), 0, "nothing is held");
    }
    let text = assert_sound(&config_dir.run(&["verify-ledger", "--config"]));
    assert!(text.starts_with("2 organizations, "), "{text}");
    assert_eq!(number_before(&text, "records"), calls + 2, "{text}");
    assert_eq!(
        (number_before(&text, "calls"), number_before(&text, "open holds")),
        (calls, 0),
        "{text}"
    );
    println!("{verifications} verifications during {calls} calls");
    // The auditor has checked every record and found nothing.
    eventually("the auditor has checked all records", async || {
        let followed = metric(&served.admin, "meteor_ledger_checked_records_total").await;
        (followed == calls + 2).then_some(())
    })
    .await;
    assert_eq!(metric(&served.admin, "meteor_ledger_violations_total").await, 0);
    assert!(metric(&served.admin, "meteor_ledger_check_age_seconds").await < 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ledger_verifies_and_tampered_records_are_reported() {
    let provider = Upstream::start(|seen| {
        if seen.is_set("stream") {
            Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO).insert_step(3, Step::Stall)
        } else {
            Plan::json(200, crate::harness::openai::completion(USAGE))
        }
    })
    .await;
    let mut gateway = Gateway::with_upstream(&provider).await;
    let (tenant, data) = (Tenant::of_demo(&gateway), gateway.data_folder());
    for _ in 0..10 {
        complete_call(&tenant).await.expect("a call");
    }
    let mut open = Vec::new();
    for _ in 0..5 {
        let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 30, true));
        let mut answer = request.send(&tenant.proxy).await;
        answer.piece().await.expect("a whole piece").expect("a first event");
        open.push(answer);
    }
    let text = assert_sound(&verify(&data, &[]));
    assert_eq!(number_before(&text, "open holds"), 5, "{text}");
    gateway.kill();
    let text = assert_sound(&verify(&data, &[]));
    assert_eq!(number_before(&text, "open holds"), 5, "of a killed gateway: {text}");
    assert!(!text.contains(" 0.00 frozen"), "{text}");
    let mut gateway = gateway.restart().await;
    let text = assert_sound(&verify(&data, &[]));
    assert_eq!(
        (number_before(&text, "calls"), number_before(&text, "open holds")),
        (15, 0),
        "{text}"
    );
    gateway.terminate();
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    let files = || std::fs::read_dir(&data).expect("a folder").count();
    let before = files();
    assert_sound(&verify(&data, &[]));
    assert_eq!(files(), before, "verification leaves no file behind");

    tamper(
        &data,
        "DROP TRIGGER wallet_records_are_never_changed;
         UPDATE wallet_records SET previous_balance_nano = previous_balance_nano + 5,
            current_balance_nano = current_balance_nano + 5 WHERE seq = 4",
    )
    .await;
    let output = verify(&data, &[]);
    let lines = output_lines(&output);
    assert_eq!((output.status.code(), lines.len()), (Some(1), 3), "{lines:?}");
    let row = format!("wallet_records {} seq 4: previous balance ", tenant.organization);
    assert!(lines[0].starts_with(&row) && lines[0].contains("; expected "), "{lines:?}");
    assert!(lines[1].contains(" seq 5: previous balance "), "{lines:?}");
    assert!(lines[2].ends_with(", 2 violations"), "{lines:?}");
    let lines: Vec<Json> =
        output_lines(&verify(&data, &["--json"])).iter().map(|line| Json::new(line)).collect();
    assert_eq!(
        (lines[0].at("type").text(), lines[0].at("row").text()),
        ("violation".into(), "seq 4".into())
    );
    assert_eq!(lines[0].at("organization").text(), tenant.organization);
    assert_eq!(
        (lines[2].at("type").text(), lines[2].at("violations").count()),
        ("summary".into(), 2)
    );
}

fn output_lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_missing_or_foreign_database_cannot_be_verified() {
    let folder = crate::harness::demo::temp_folder();
    for (text, expected) in [
        (None, "does not exist"),
        (Some("no database, but long enough for a look"), "is not a gateway database"),
    ] {
        if let Some(text) = text {
            std::fs::write(folder.path().join("meteor.db"), text).expect("written");
        }
        let output = verify(folder.path(), &[]);
        let text = output_text(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with("meteor: ") && text.contains(expected), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_reports_a_tampered_wallet() {
    let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::of_demo(&gateway);
    complete_call(&tenant).await.expect("a call");
    eventually("the auditor has checked the records", async || {
        let followed = metric(&gateway.admin, "meteor_ledger_checked_records_total").await;
        (followed >= 2).then_some(())
    })
    .await;
    assert_eq!(metric(&gateway.admin, "meteor_ledger_violations_total").await, 0);
    tamper(&gateway.data_folder(), "UPDATE wallets SET balance_nano = balance_nano + 1").await;
    // One violation within the database, and one against the state in memory.
    eventually("the auditor reports violations", async || {
        let violations = metric(&gateway.admin, "meteor_ledger_violations_total").await;
        (violations >= 2).then_some(())
    })
    .await;
    let log = gateway.log();
    let violations: Vec<_> =
        log.lines().filter(|line| line.contains("ledger violation found")).collect();
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations.iter().all(|line| line.contains(&tenant.organization)), "{violations:?}");
    assert!(!tenant.wallet().await.at("ledgerCheck.ok").is_true());
}
