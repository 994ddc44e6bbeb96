//! However a call ends, its concurrency slot is freed, and only one time.

use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::client::{Request, Response};
use crate::harness::limit_assertions::{Level, by_field};
use crate::harness::openai::chat;
use crate::harness::scenario_upstream::ScenarioGateway;
use crate::harness::serve::ConfigDir;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

/// Covers many calls of 20 tokens, and none of 16,000.
const FUNDS: i128 = 5_000_000;
const THREE_CONCURRENT: &str = r#"{"concurrentCallsLimit":3}"#;

/// How a call ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The client disconnects before the response,
    DisconnectBeforeResponse,
    /// in the middle of the response,
    DisconnectMidStream,
    /// or while it sends the request.
    DisconnectMidRequest,
    /// A call of this model and output limit has this status.
    Status(&'static str, u64, u16),
    /// The response of this model breaks off.
    BrokenStream(&'static str),
}

const ENDINGS: [Ending; 14] = [
    Ending::DisconnectBeforeResponse,
    Ending::DisconnectMidStream,
    Ending::DisconnectMidRequest,
    Ending::Status("plain", 20, 200),
    Ending::Status("failing", 20, 500),
    Ending::Status("unwelcome", 20, 502),
    Ending::Status("dying", 20, 502),
    Ending::Status("nowhere", 20, 502),
    Ending::Status("late", 20, 504),
    Ending::Status("plain", 16_000, 402),
    Ending::Status("nobody", 20, 404),
    Ending::Status("plain", 1 << 60, 402),
    Ending::BrokenStream("cutting"),
    Ending::BrokenStream("quiet"),
];

impl Ending {
    /// Makes a call that ends in this way; returns after its end.
    async fn run(self, tenant: &Tenant, upstream: &Upstream) {
        match self {
            Self::DisconnectBeforeResponse => {
                let (reached, tenant) = (upstream.request_count(), tenant.clone());
                let call = tokio::spawn(async move { tenant.call("mute", 20).await.status });
                upstream.wait_for_requests(reached + 1).await;
                call.abort();
                assert!(call.await.is_err(), "the call was still open");
            }
            Self::DisconnectMidStream => drop(tenant.open_stream(20).await),
            Self::DisconnectMidRequest => {
                let wire = Request::chat(&tenant.key, chat("plain", 20, true)).to_bytes();
                let mut stream = TcpStream::connect(&tenant.proxy).await.expect("a connection");
                stream.write_all(&wire[..wire.len() - 10]).await.expect("sent");
            }
            Self::Status(model, max_tokens, status) => {
                let refusal = tenant.call_to_end(model, max_tokens).await;
                assert_eq!(refusal.status, status, "{refusal:?}");
            }
            Self::BrokenStream(model) => {
                let mut response = tenant.call(model, 20).await;
                assert_eq!(response.status, 200);
                assert!(!response.read_to_end().await.1, "the response breaks off");
            }
        }
    }
}

/// Asserts that three of four concurrent calls are admitted and their slots are freed.
async fn assert_three_fit(tenant: &Tenant, upstream: &Upstream) {
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let tenant = tenant.clone();
            tokio::spawn(async move { tenant.call("steady", 20).await })
        })
        .collect();
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for call in calls {
        let response = call.await.expect("a response");
        if response.status == 200 { open.push(response) } else { refused.push(response) }
    }
    assert_eq!(
        (open.len(), refused.len()),
        (3, 1),
        "{:?}",
        refused.first().map(|response| response.status)
    );
    let refusal = tenant.call_to_end("steady", 20).await;
    by_field("concurrentCallsLimit").assert_refused(Level::Project, &refusal, (1, 3));
    assert_eq!(tenant.concurrency_headroom().await, 0);
    upstream.release();
    for mut response in open {
        assert!(response.read_to_end().await.1, "the response completes");
    }
    upstream.stall_again();
    assert_eq!(tenant.concurrency_headroom().await, 3, "the slots are free after the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_ending_frees_its_concurrency_slot() {
    let gateway = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, ConfigDir::new).await;
    let (tenant, upstream) = (&gateway.tenant, &gateway.upstream);
    for ending in ENDINGS {
        let what = format!("after {ending:?}");
        tokio::join!(
            Box::pin(ending.run(tenant, upstream)),
            Box::pin(ending.run(tenant, upstream)),
            Box::pin(ending.run(tenant, upstream)),
        );
        tenant.wait_for_headroom(3, Instant::now(), &what).await;
        tenant.assert_settled().await;
        assert_three_fit(tenant, upstream).await;
    }
    // A slot freed twice would admit a fourth call.
    assert_eq!(tenant.concurrency_headroom().await, 3);
    tenant.assert_settled().await;
}

/// Opens three calls; returns after the first piece of each.
async fn open_three(tenant: &Tenant) -> Vec<Response> {
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(tenant.open_stream(20).await);
    }
    assert_eq!(tenant.concurrency_headroom().await, 0);
    open
}

/// Restarts the gateway and asserts that nothing is open or held.
async fn restart_and_check(gateway: ScenarioGateway) -> ScenarioGateway {
    gateway.upstream.stall_again();
    let gateway = gateway.restart().await;
    let tenant = &gateway.tenant;
    assert_eq!(tenant.concurrency_headroom().await, 3, "nothing is open after a start");
    tenant.assert_settled().await;
    assert_three_fit(tenant, &gateway.upstream).await;
    tenant.assert_settled().await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_and_shutdown_free_all_concurrency_slots() {
    let mut gateway = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, ConfigDir::new).await;
    let open = open_three(&gateway.tenant).await;
    gateway.server.kill();
    drop(open);
    let mut gateway = restart_and_check(gateway).await;

    let open = open_three(&gateway.tenant).await;
    gateway.server.terminate();
    gateway.upstream.release();
    for mut response in open {
        assert!(response.read_to_end().await.1, "a shutdown lets open calls finish");
    }
    assert!(gateway.server.wait_exit().await.success());
    let gateway = restart_and_check(gateway).await;
    let requests = gateway.tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 4 * 3, "each of them is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_timeout_frees_all_concurrency_slots() {
    let config_dir =
        |rows: &str| ConfigDir::new(rows).with_env("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    let mut gateway = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, config_dir).await;
    let open = open_three(&gateway.tenant).await;
    gateway.server.terminate();
    gateway.server.wait_exit().await;
    for mut response in open {
        assert!(!response.read_to_end().await.1, "a cut response has no clean end");
    }
    let gateway = restart_and_check(gateway).await;
    let requests = gateway.tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 2 * 3, "each of them is counted");
}

/// An upstream error is free of charge; but its call stays open until its body is complete.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_error_body_occupies_a_concurrency_slot() {
    let gateway = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, ConfigDir::new).await;
    let (tenant, upstream) = (&gateway.tenant, &gateway.upstream);
    let mut open = Vec::new();
    for _ in 0..3 {
        let response = tenant.call("verbose", 20).await;
        assert_eq!(response.status, 500);
        open.push(response);
    }
    assert_eq!(tenant.concurrency_headroom().await, 0, "three calls are open at the upstream");
    upstream.release();
    for mut response in open {
        assert!(response.read_to_end().await.1);
    }
    assert_eq!(tenant.concurrency_headroom().await, 3);
    tenant.assert_settled().await;
}
