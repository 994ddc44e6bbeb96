//! Calls that wait for amounts held by others: in order, up to a timeout, and at almost no CPU
//! cost.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::harness::client::Request;
use crate::harness::demo::{Gateway, assert_within};
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, bound, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Step, Upstream};
use crate::harness::wait::eventually;

/// How long a call waits without progress.
const HOLD_WAIT: Duration = Duration::from_secs(2);
/// Tolerated delay of a test.
const SLACK: Duration = Duration::from_millis(1_500);

/// A provider that answers calls of 1,000 tokens when the test releases them, and others
/// immediately. Every call uses its whole output bound.
async fn provider() -> Upstream {
    Upstream::start(|seen| {
        let max_tokens = seen.json().at("max_tokens").count();
        let plan = reply(seen, usage_of(max_tokens), Duration::ZERO);
        if max_tokens == 1_000 { plan.insert_step(0, Step::Stall) } else { plan }
    })
    .await
}

/// The input is the token count of the body.
fn usage_of(output: u64) -> Usage {
    Usage::of(10, output)
}

fn cost_of(output: u64) -> i128 {
    GPT_4O_MINI.cost(usage_of(output))
}

/// Starts a call with an output bound of `output` tokens in the background.
fn start_call(tenant: &Tenant, output: u64) -> JoinHandle<(FullResponse, Instant)> {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, output, false));
    let proxy = tenant.proxy.clone();
    tokio::spawn(
        async move { (FullResponse::read(request.send(&proxy).await).await, Instant::now()) },
    )
}

/// A tenant with an open call of 1,000 tokens and money for `left` more output tokens.
async fn tenant_with_open_call(
    gateway: &Gateway,
    provider: &Upstream,
    output_left: u64,
) -> (Tenant, JoinHandle<(FullResponse, Instant)>) {
    let byte_bound = bound(&chat(GPT_4O_MINI.model, 1_000, false), 1_000);
    let funds = GPT_4O_MINI.cost(byte_bound) + cost_of(output_left);
    let tenant = Tenant::new(gateway, funds, "{}").await;
    let before = provider.request_count();
    let open = start_call(&tenant, 1_000);
    provider.wait_for_requests(before + 1).await;
    (tenant, open)
}

/// The number of waiting calls in the metrics.
async fn waiting_calls(admin: &str) -> usize {
    let metrics = Request::get("/metrics").send(admin).await.text().await;
    let line = metrics.lines().find(|line| line.starts_with("meteor_waiting_calls "));
    let value = line.and_then(|line| line.split(' ').nth(1)).expect("the metric");
    value.parse().expect("a count")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_waiting_call_blocks_small_ones_until_its_timeout() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let (tenant, open) = tenant_with_open_call(&gateway, &provider, 500).await;
    let start = Instant::now();
    let huge = start_call(&tenant, 900);
    eventually("the call waits", async || (waiting_calls(&gateway.admin).await == 1).then_some(()))
        .await;
    let small = start_call(&tenant, 20);
    let (answer, at) = small.await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(HOLD_WAIT <= at - start + Duration::from_millis(100), "first come, first served");
    assert_within(HOLD_WAIT + SLACK, start, at, "the small call");
    let (refusal, at) = huge.await.expect("an answer");
    let error = refusal.assert_error(402, &["balance_on_hold"]);
    assert!(error.at("transient").is_true(), "{error}");
    assert_eq!(refusal.header("x-should-retry"), "true");
    assert_eq!(refusal.retry_after(), 1);
    assert_within(HOLD_WAIT + SLACK, start, at, "the huge call");
    provider.release();
    assert_eq!(open.await.expect("an answer").0.status, 200);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_wallet_refuses_waiting_calls_immediately() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let (tenant, open) = tenant_with_open_call(&gateway, &provider, 0).await;
    // The first call returns less of its byte-based hold than this call needs.
    let waiting = start_call(&tenant, 300);
    eventually("the call waits", async || (waiting_calls(&gateway.admin).await == 1).then_some(()))
        .await;
    let start = Instant::now();
    provider.release();
    let (refusal, at) = waiting.await.expect("an answer");
    let error = refusal.assert_error(402, &["insufficient_balance"]);
    assert!(!error.at("transient").is_true(), "{error}");
    assert_eq!(refusal.header("x-should-retry"), "false");
    assert_within(SLACK, start, at, "the refusal");
    assert_eq!(open.await.expect("an answer").0.status, 200);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_while_its_call_waits_is_refused() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let (tenant, open) = tenant_with_open_call(&gateway, &provider, 0).await;
    let keys = tenant.get(&format!("/api/projects/{}/api-keys", tenant.project)).await;
    let id = keys.at("data").list()[0].at("id").text();
    let waiting = start_call(&tenant, 600);
    eventually("the call waits", async || (waiting_calls(&gateway.admin).await == 1).then_some(()))
        .await;
    let path = format!("/api/projects/{}/api-keys/{id}", tenant.project);
    let answer = tenant.send(Request::new("DELETE", &path)).await;
    assert_eq!(answer.status, 200);
    tenant.recharge(1_000_000_000).await;
    let (refusal, _) = waiting.await.expect("an answer");
    refusal.assert_error(401, &["invalid_api_key"]);
    assert_eq!(provider.request_count(), 1, "the waiting call was not forwarded");
    provider.release();
    assert_eq!(open.await.expect("an answer").0.status, 200);
}

/// `METEOR_WAITING` sets the number of waiting calls.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_calls_use_almost_no_cpu() {
    let waiting: usize =
        std::env::var("METEOR_WAITING").map_or(500, |text| text.parse().expect("a number"));
    let provider = provider().await;
    let rows = "[admission]\nhold_wait_ms = 60000\n".to_owned()
        + &upstream("one", &provider.url)
        + &model(GPT_4O_MINI.model, "upstream = \"one\"");
    let config_dir = ConfigDir::new(&rows).with_env("METEOR__PROXY__CONNECTIONS_MAX", "100000");
    let served = Server::start(config_dir).await;
    let byte_bound = bound(&chat(GPT_4O_MINI.model, 1_000, false), 1_000);
    let tenant = served.tenant(GPT_4O_MINI.cost(byte_bound), "{}").await;
    start_call(&tenant, 1_000);
    provider.wait_for_requests(1).await;
    let calls: Vec<_> = (0..waiting).map(|_| start_call(&tenant, 600)).collect();
    eventually("all calls wait", async || {
        (waiting_calls(&served.admin).await == waiting).then_some(())
    })
    .await;
    let before = served.cpu_time();
    let time = Duration::from_secs(3);
    tokio::time::sleep(time).await;
    let used = served.cpu_time().saturating_sub(before);
    println!("{waiting} waiting calls took {used:?} of {time:?}");
    assert!(used * 100 < time, "{waiting} waiting calls took {used:?} of {time:?}");
    provider.release();
    for call in calls {
        let (refusal, _) = call.await.expect("an answer");
        refusal.assert_error(402, &["insufficient_balance", "balance_on_hold"]);
    }
}
