//! Killed at the worst moment, the gateway starts again with whole books.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::client::{Request, Response};
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, WORDS, chat, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::{Tenant, is_debit_of};
use crate::harness::upstream::{Plan, Step, Upstream};

const OPEN: usize = 50;
const USAGE: Usage = Usage { prompt: 20, completion: 7, cached: 0, reasoning: 0 };

/// Streams stall after their first words; other calls are answered at once.
fn plan(stream: bool) -> Plan {
    if stream {
        Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO).insert_step(3, Step::Stall)
    } else {
        Plan::json(200, crate::harness::openai::completion(USAGE))
    }
}

/// A call to its end; its id if that was seen.
pub async fn complete_call(tenant: &Tenant) -> Option<String> {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 30, false));
    let mut answer = request.try_send(&tenant.proxy).await.ok().filter(|a| a.status == 200)?;
    answer.read_to_end().await.1.then(|| answer.id())
}

async fn open_stream(tenant: &Tenant) -> Response {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 30, true));
    let mut answer = request.send(&tenant.proxy).await;
    answer.piece().await.expect("a whole piece").expect("a first event");
    answer
}

/// Calls without a pause until the gateway is gone; the ids of those whose end was seen.
pub async fn call_until_gone(tenant: Tenant, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(id) = complete_call(&tenant).await {
        ids.push(id);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_neither_loses_nor_duplicates_debits() {
    let upstream = Upstream::start(|seen| plan(seen.is_set("stream"))).await;
    let mut gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyRequestLimit":100000}"#).await;
    let mut ended = Vec::new();
    for _ in 0..20 {
        ended.push(complete_call(&tenant).await.expect("a call before the kill"));
    }
    let mut open = Vec::new();
    for _ in 0..OPEN {
        open.push(open_stream(&tenant).await);
    }
    let before = tenant.usage().await;
    let held = before.at("dailyUsage.heldRequests").count();
    assert_eq!(held + before.at("dailyUsage.requestCount").count(), 20 + OPEN as u64, "{before}");

    // The kill strikes in the midst of calls that begin and end.
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> =
        (0..8).map(|_| tokio::spawn(call_until_gone(tenant.clone(), Arc::clone(&stop)))).collect();
    upstream.wait_for_requests(20 + OPEN + 200).await;
    gateway.kill();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        ended.extend(caller.await.expect("a caller ends"));
    }
    let forwarded = upstream.request_count() as u64;

    let (key, token) = (gateway.key.clone(), gateway.token.clone());
    let gateway = gateway.restart().await;
    assert_eq!((&gateway.key, &gateway.token), (&key, &token), "the same key and token");
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    assert_recovered(&tenant, &ended, &open, forwarded).await;

    // A second end and start change nothing: what was recovered is not recovered twice.
    let usage = tenant.usage().await.at("dailyUsage");
    let wallet = tenant.wallet().await;
    let gateway = gateway.restart().await;
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    let again = tenant.usage().await.at("dailyUsage");
    for count in ["requestCount", "tokenCount", "spend"] {
        assert_eq!(again.at(count), usage.at(count), "{count}");
    }
    assert_eq!(tenant.wallet().await.at("balance"), wallet.at("balance"));
    assert_recovered(&tenant, &ended, &open, forwarded).await;

    // The limit stands where it stood.
    let used = again.at("requestCount").count();
    tenant.set_quota(&format!(r#"{{"dailyRequestLimit":{}}}"#, used + 3)).await;
    for room in [true, true, true, false] {
        assert_eq!(complete_call(&tenant).await.is_some(), room, "three calls fit, and no fourth");
    }
    tenant.assert_settled().await;
}

async fn assert_recovered(tenant: &Tenant, ended: &[String], open: &[Response], forwarded: u64) {
    tenant.assert_settled().await;
    let records = tenant.records().await;
    let cost = GPT_4O_MINI.cost(USAGE);
    for id in ended {
        let own: Vec<_> = records.iter().filter(|record| is_debit_of(record, id)).collect();
        assert_eq!(own.len(), 1, "a call whose end was seen has one debit: {own:?}");
        assert_eq!(own[0].at("amount").nano(), cost, "{own:?}");
        assert_eq!(own[0].at("settledBy").text(), "usage", "{own:?}");
    }
    let orphans: HashSet<String> = open.iter().map(Response::id).collect();
    let settled = records.iter().filter(|record| record.at("type").text() == "Consume");
    let settled = settled.filter(|record| orphans.contains(&record.at("requestLogId").text()));
    for debit in settled {
        // What had not been noted as said within its first second may be given back instead.
        assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
        assert!(debit.at("amount").nano() > 0, "{debit}");
    }

    // Calls in flight at the kill may have been held and not yet forwarded: they count as well.
    let usage = tenant.usage().await;
    let requests = usage.at("dailyUsage.requestCount").count();
    assert!(requests >= forwarded && requests <= forwarded + 8, "{forwarded} forwarded: {usage}");
    assert_eq!(usage.at("monthlyUsage.requestCount").count(), requests);
    let tokens = usage.at("dailyUsage.tokenCount").count();
    assert!(tokens >= ended.len() as u64 * USAGE.total(), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpointed_output_is_charged_after_a_kill() {
    let words = ["word"; 400];
    let pace = Duration::from_millis(50);
    let upstream = Upstream::start(move |_| Plan::stream(events(&words, None), pace)).await;
    let mut gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let mut answer = open_stream(&tenant).await;
    // Longer than the second after which its progress is noted at the latest.
    for _ in 0..60 {
        answer.piece().await.expect("no cut").expect("more to come");
    }
    gateway.kill();
    let gateway = gateway.restart().await;
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    let debit = tenant.debit(&answer.id()).await;
    assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
    let log = tenant.log(&answer.id()).await;
    assert!(log.at("usage.outputTokens").count() >= 10, "the words of the first second: {log}");
    assert_eq!(debit.at("amount").nano(), log.at("cost").nano(), "{debit} {log}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_data_folder_exits() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let status = gateway.start_second_process().await;
    assert!(!status.success(), "two writers of one journal: {status}");
    let tenant = Tenant::of_demo(&gateway);
    assert!(complete_call(&tenant).await.is_some());
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_restart_preserves_ledger_and_counters() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let mut gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::of_demo(&gateway);
    for _ in 0..10 {
        complete_call(&tenant).await.expect("a call");
    }
    let (usage, wallet) = (tenant.usage().await, tenant.wallet().await);
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    let gateway = gateway.restart().await;
    let tenant = Tenant::of_demo(&gateway);
    assert_eq!(tenant.usage().await.at("dailyUsage"), usage.at("dailyUsage"));
    assert_eq!(tenant.usage().await.at("monthlyUsage"), usage.at("monthlyUsage"));
    assert_eq!(tenant.wallet().await.at("balance"), wallet.at("balance"));
    tenant.assert_settled().await;
}
