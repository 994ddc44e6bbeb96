//! A gateway that is killed at a bad moment restarts with a consistent ledger.

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

/// Streams stall after their first words; other calls complete at once.
fn plan(stream: bool) -> Plan {
    if stream {
        Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO).insert_step(3, Step::Stall)
    } else {
        Plan::json(200, crate::harness::openai::completion(USAGE))
    }
}

/// Makes a call; returns its id if its end arrived.
pub async fn complete_call(tenant: &Tenant) -> Option<String> {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 30, false));
    let mut response = request.try_send(&tenant.proxy).await.ok().filter(|a| a.status == 200)?;
    response.read_to_end().await.1.then(|| response.id())
}

async fn open_stream(tenant: &Tenant) -> Response {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 30, true));
    let mut response = request.send(&tenant.proxy).await;
    response.piece().await.expect("a whole piece").expect("a first event");
    response
}

/// Calls without pause until the gateway is gone; returns the ids of completed calls.
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
    let mut completed = Vec::new();
    for _ in 0..20 {
        completed.push(complete_call(&tenant).await.expect("a call before the kill"));
    }
    let mut open = Vec::new();
    for _ in 0..OPEN {
        open.push(open_stream(&tenant).await);
    }
    let before = tenant.usage().await;
    let held = before.at("dailyUsage.heldRequests").count();
    assert_eq!(held + before.at("dailyUsage.requestCount").count(), 20 + OPEN as u64, "{before}");

    // Kill while other calls begin and end.
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> =
        (0..8).map(|_| tokio::spawn(call_until_gone(tenant.clone(), Arc::clone(&stop)))).collect();
    upstream.wait_for_requests(20 + OPEN + 200).await;
    gateway.kill();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        completed.extend(caller.await.expect("a caller ends"));
    }
    let forwarded = upstream.request_count() as u64;

    let (key, token) = (gateway.key.clone(), gateway.token.clone());
    let gateway = gateway.restart().await;
    assert_eq!((&gateway.key, &gateway.token), (&key, &token), "the same key and token");
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    assert_recovered(&tenant, &completed, &open, forwarded).await;

    // A second kill and restart change nothing: recovery is idempotent.
    let usage = tenant.usage().await.at("dailyUsage");
    let wallet = tenant.wallet().await;
    let gateway = gateway.restart().await;
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    let usage_again = tenant.usage().await.at("dailyUsage");
    for count in ["requestCount", "tokenCount", "spend"] {
        assert_eq!(usage_again.at(count), usage.at(count), "{count}");
    }
    assert_eq!(tenant.wallet().await.at("balance"), wallet.at("balance"));
    assert_recovered(&tenant, &completed, &open, forwarded).await;

    // The limit still counts what was used.
    let used = usage_again.at("requestCount").count();
    tenant.set_quota(&format!(r#"{{"dailyRequestLimit":{}}}"#, used + 3)).await;
    for fits in [true, true, true, false] {
        assert_eq!(
            complete_call(&tenant).await.is_some(),
            fits,
            "three calls fit, a fourth does not"
        );
    }
    tenant.assert_settled().await;
}

async fn assert_recovered(
    tenant: &Tenant,
    completed: &[String],
    open: &[Response],
    forwarded: u64,
) {
    tenant.assert_settled().await;
    let records = tenant.records().await;
    let cost = GPT_4O_MINI.cost(USAGE);
    for id in completed {
        let debits: Vec<_> = records.iter().filter(|record| is_debit_of(record, id)).collect();
        assert_eq!(debits.len(), 1, "a completed call has one debit: {debits:?}");
        assert_eq!(debits[0].at("amount").nano(), cost, "{debits:?}");
        assert_eq!(debits[0].at("settledBy").text(), "usage", "{debits:?}");
    }
    let orphans: HashSet<String> = open.iter().map(Response::id).collect();
    let settled = records.iter().filter(|record| record.at("type").text() == "Consume");
    let settled = settled.filter(|record| orphans.contains(&record.at("requestLogId").text()));
    for debit in settled {
        // Output of the first second, before any checkpoint, may be released instead.
        assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
        assert!(debit.at("amount").nano() > 0, "{debit}");
    }

    // Calls in flight at the kill may be held and not yet forwarded; they count as requests.
    let usage = tenant.usage().await;
    let requests = usage.at("dailyUsage.requestCount").count();
    assert!(requests >= forwarded && requests <= forwarded + 8, "{forwarded} forwarded: {usage}");
    assert_eq!(usage.at("monthlyUsage.requestCount").count(), requests);
    let tokens = usage.at("dailyUsage.tokenCount").count();
    assert!(tokens >= completed.len() as u64 * USAGE.total(), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpointed_output_is_charged_after_a_kill() {
    let words = ["word"; 400];
    let pace = Duration::from_millis(50);
    let upstream = Upstream::start(move |_| Plan::stream(events(&words, None), pace)).await;
    let mut gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let mut response = open_stream(&tenant).await;
    // Longer than the second after which progress is checkpointed at the latest.
    for _ in 0..60 {
        response.piece().await.expect("no cut").expect("more to come");
    }
    gateway.kill();
    let gateway = gateway.restart().await;
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    let debit = tenant.debit(&response.id()).await;
    assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
    let log = tenant.log(&response.id()).await;
    assert!(log.at("usage.outputTokens").count() >= 10, "the output of the first second: {log}");
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
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    let gateway = gateway.restart().await;
    let tenant = Tenant::of_demo(&gateway);
    assert_eq!(tenant.usage().await.at("dailyUsage"), usage.at("dailyUsage"));
    assert_eq!(tenant.usage().await.at("monthlyUsage"), usage.at("monthlyUsage"));
    assert_eq!(tenant.wallet().await.at("balance"), wallet.at("balance"));
    tenant.assert_settled().await;
}
