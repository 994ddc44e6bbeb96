//! A client disconnect closes the provider connection, charges what was received and frees the
//! hold.

use std::time::{Duration, Instant};

use crate::harness::client::{Request, Response};
use crate::harness::demo::{Gateway, assert_within};
use crate::harness::json::Json;
use crate::harness::openai::{Usage, WORDS, chat, events, reply};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;

const MODEL: &str = "gpt-4o-mini";
const USAGE: Usage = Usage { prompt: 12, completion: 9, cached: 0, reasoning: 0 };
const CLOSE_DELAY_MAX: Duration = Duration::from_millis(100);

struct Fixture {
    gateway: Gateway,
    upstream: Upstream,
    tenant: Tenant,
}

impl Fixture {
    async fn new(plan: impl Fn() -> Plan + Send + Sync + 'static) -> Self {
        let upstream = Upstream::start(move |_| plan()).await;
        let gateway = Gateway::with_upstream(&upstream).await;
        let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
        Self { gateway, upstream, tenant }
    }

    fn call(&self, stream: bool) -> Request {
        Request::chat(&self.tenant.key, chat(MODEL, 50, stream))
    }

    /// Starts a streamed call and reads its first event.
    async fn started_stream(&self) -> Response {
        let mut answer = self.call(true).send(&self.gateway.proxy).await;
        assert_eq!(answer.status, 200);
        let first = answer.piece().await.expect("a whole piece").expect("a first event");
        assert!(first.starts_with(b"data: {"), "{:?}", String::from_utf8_lossy(&first));
        answer
    }

    /// Asserts that an interrupted call is charged by estimate and holds nothing. Returns its log
    /// entry.
    async fn assert_estimated(&self, id: &str, outcome: &str) -> Json {
        let log = self.settled_log(id).await;
        assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
        assert_eq!(log.at("outcome").text(), outcome, "{log}");
        let usage = log.at("usage");
        assert!(usage.at("inputTokens").count() > 0, "the input was read and is charged: {log}");
        let debit = self.tenant.debit(id).await;
        assert!(debit.at("amount").nano() > 0, "a disconnect is not free: {debit}");
        assert_eq!(debit.at("amount").nano(), log.at("cost").nano(), "{debit} {log}");
        assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
        self.tenant.assert_settled().await;
        log
    }

    /// Waits for the log entry of a call, which ends soon after its client has disconnected.
    async fn settled_log(&self, id: &str) -> Json {
        eventually("the call is in the request log", async || {
            let logs = self.tenant.logs().await;
            logs.into_iter().find(|log| log.at("requestLogId").text() == id)
        })
        .await
    }
}

fn flowing_plan() -> Plan {
    let mut words = vec!["more"; 2_000];
    words[0] = "Hello";
    Plan::stream(events(&words, None), Duration::from_millis(20))
}

fn stalling_plan() -> Plan {
    Plan::stream(events(WORDS, None), Duration::ZERO).insert_step(2, Step::Stall)
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_a_flowing_stream_closes_the_provider_within_100_ms() {
    disconnects_after_one_chunk(flowing_plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_a_silent_stream_closes_the_provider_within_100_ms() {
    disconnects_after_one_chunk(stalling_plan).await;
}

async fn disconnects_after_one_chunk(plan: fn() -> Plan) {
    let fixture = Fixture::new(plan).await;
    for round in 0..5 {
        let answer = fixture.started_stream().await;
        let id = answer.id();
        let disconnected = Instant::now();
        drop(answer);
        assert_within(
            CLOSE_DELAY_MAX,
            disconnected,
            fixture.upstream.wait_for_disconnect(round).await,
            "closing the provider",
        );
        let log = fixture.assert_estimated(&id, "Cancelled").await;
        assert!(log.at("usage.outputTokens").count() > 0, "received output is charged: {log}");
    }
    assert_eq!(fixture.tenant.usage().await.at("dailyUsage.requestCount").count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_before_the_response_starts_charges_the_input() {
    let fixture = Fixture::new(|| Plan::json(200, "{}").insert_step(0, Step::Stall)).await;
    for (round, stream) in [false, true].into_iter().enumerate() {
        let (request, proxy) = (fixture.call(stream), fixture.gateway.proxy.clone());
        let call = tokio::spawn(async move { request.try_send(&proxy).await.is_ok() });
        fixture.upstream.wait_for_requests(round + 1).await;
        let disconnected = Instant::now();
        call.abort();
        assert_within(
            CLOSE_DELAY_MAX,
            disconnected,
            fixture.upstream.wait_for_disconnect(round).await,
            "closing the provider",
        );
        let id = eventually("the call is in the request log", async || {
            let logs = fixture.tenant.logs().await;
            (logs.len() == round + 1).then(|| logs[0].at("requestLogId").text())
        })
        .await;
        fixture.assert_estimated(&id, "Cancelled").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_cut_in_mid_stream_reaches_the_client() {
    let cut = || Plan::stream(events(WORDS, None), Duration::ZERO).insert_step(3, Step::Cut);
    let fixture = Fixture::new(cut).await;
    let mut answer = fixture.started_stream().await;
    let id = answer.id();
    let (rest, whole) = answer.read_to_end().await;
    let rest = String::from_utf8_lossy(&rest);
    assert!(!whole || rest.contains(r#"{"error":"#), "the client sees the failure: {rest:?}");
    assert!(!rest.contains("[DONE]"), "{rest:?}");
    fixture.assert_estimated(&id, "Failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_stream_is_relayed_and_settled_by_estimate() {
    let garbage: [&[u8]; 3] =
        [b"data: {\"choices\":[\n\n", b"\xff\xfe\0 data:\n\n", b"data: [DONE]\n\n"];
    let plan = move || Plan::stream(garbage, Duration::ZERO);
    let fixture = Fixture::new(plan).await;
    let mut answer = fixture.call(true).send(&fixture.gateway.proxy).await;
    let id = answer.id();
    let (body, whole) = answer.read_to_end().await;
    assert!(whole, "the provider ended the stream cleanly");
    assert_eq!(body, garbage.concat(), "bytes that cannot be parsed are relayed");
    fixture.assert_estimated(&id, "Completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_provider_costs_nothing_but_counts_as_a_request() {
    let fixture = Fixture::new(|| {
        let mut plan = Plan::json(200, "");
        plan.steps = vec![Step::Cut];
        plan
    })
    .await;
    let answer = fixture.call(false).send(&fixture.gateway.proxy).await;
    assert_eq!(answer.status, 502);
    let id = answer.id();
    let error = answer.json().await.at("error");
    assert_eq!(error.at("type").text(), "upstream_error");
    let log = fixture.settled_log(&id).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    assert_eq!(log.at("settledBy").text(), "none", "{log}");
    fixture.tenant.assert_settled().await;
    assert_eq!(fixture.tenant.wallet().await.at("balance").nano(), 1_000_000_000);
    let usage = fixture.tenant.usage().await;
    assert_eq!(
        usage.at("dailyUsage.requestCount").count(),
        1,
        "the request may have reached the provider"
    );
    assert_eq!(usage.at("dailyUsage.tokenCount").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_disconnects_leave_no_holds() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::from_millis(3))).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let calls: Vec<_> = (0..60)
        .map(|index| {
            let request = Request::chat(&tenant.key, chat(MODEL, 50, index % 4 > 0));
            let proxy = tenant.proxy.clone();
            tokio::spawn(async move {
                let mut answer = request.send(&proxy).await;
                for _ in 0..index % 11 {
                    if !matches!(answer.piece().await, Ok(Some(_))) {
                        break;
                    }
                }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("a caller does not panic");
    }
    eventually("every call is in the log, and nothing is held", async || {
        let settled = tenant.logs().await.len() == 60 && tenant.holds().await.is_empty();
        settled.then_some(())
    })
    .await;
    tenant.assert_settled().await;
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 60);
    let debits = tenant.records().await.len() - 1;
    assert_eq!(debits, 60, "each call was forwarded and charged");
}
