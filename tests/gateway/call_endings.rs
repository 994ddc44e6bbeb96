//! However a call ends, its place among the calls at once is free again, and only once.

use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::client::{Request, Response};
use crate::harness::limit_assertions::{LIMITS, Level};
use crate::harness::openai::chat;
use crate::harness::scenario_upstream::ScenarioGateway;
use crate::harness::serve::Place;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

/// Covers many calls of 20 tokens, and none of 16,000.
const FUNDS: i128 = 5_000_000;
const THREE_CONCURRENT: &str = r#"{"concurrentCallsLimit":3}"#;

/// How a call ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The client leaves before the answer begins,
    DisconnectBeforeResponse,
    /// in its midst,
    DisconnectMidStream,
    /// or while it still sends.
    DisconnectMidRequest,
    /// The client is told so, of a call of that model and bound.
    Status(&'static str, u64, u16),
    /// The answer of that model begins and breaks.
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
    /// A call that ends so; what it says is over when it has ended for its client.
    async fn run(self, tenant: &Tenant, upstream: &Upstream) {
        match self {
            Self::DisconnectBeforeResponse => {
                let (reached, tenant) = (upstream.request_count(), tenant.clone());
                let call = tokio::spawn(async move { tenant.call("mute", 20).await.status });
                upstream.wait_for_requests(reached + 1).await;
                call.abort();
                assert!(call.await.is_err(), "it was still open");
            }
            Self::DisconnectMidStream => drop(tenant.open_stream(20).await),
            Self::DisconnectMidRequest => {
                let wire = Request::chat(&tenant.key, chat("plain", 20, true)).to_bytes();
                let mut stream = TcpStream::connect(&tenant.proxy).await.expect("a connection");
                stream.write_all(&wire[..wire.len() - 10]).await.expect("sent");
            }
            Self::Status(model, max_tokens, status) => {
                let told = tenant.call_to_end(model, max_tokens).await;
                assert_eq!(told.status, status, "{told:?}");
            }
            Self::BrokenStream(model) => {
                let mut answer = tenant.call(model, 20).await;
                assert_eq!(answer.status, 200);
                assert!(!answer.read_to_end().await.1, "it breaks");
            }
        }
    }
}

/// Of four calls at once three are served, whichever; then their places are free again.
async fn assert_three_fit(tenant: &Tenant, upstream: &Upstream) {
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let tenant = tenant.clone();
            tokio::spawn(async move { tenant.call("steady", 20).await })
        })
        .collect();
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for call in calls {
        let answer = call.await.expect("an answer");
        if answer.status == 200 { open.push(answer) } else { refused.push(answer) }
    }
    assert_eq!((open.len(), refused.len()), (3, 1), "{:?}", refused.first().map(|no| no.status));
    let told = tenant.call_to_end("steady", 20).await;
    LIMITS[6].assert_refused(Level::Project, &told, (1, 3));
    assert_eq!(tenant.concurrency_headroom().await, 0);
    upstream.release();
    for mut answer in open {
        assert!(answer.read_to_end().await.1, "it comes to its end");
    }
    upstream.stall_again();
    assert_eq!(tenant.concurrency_headroom().await, 3, "who has seen the end finds the place free");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_ending_frees_its_concurrency_slot() {
    let stage = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, Place::new).await;
    let (tenant, upstream) = (&stage.tenant, &stage.upstream);
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
    // A place that was given back twice would let a fourth in.
    assert_eq!(tenant.concurrency_headroom().await, 3);
    tenant.assert_settled().await;
}

/// Three calls of which each has begun to be answered.
async fn open_three(tenant: &Tenant) -> Vec<Response> {
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(tenant.open_stream(20).await);
    }
    assert_eq!(tenant.concurrency_headroom().await, 0);
    open
}

/// Once it has started again, nothing is open or held.
async fn restart_and_check(stage: ScenarioGateway) -> ScenarioGateway {
    stage.upstream.stall_again();
    let stage = stage.restart().await;
    let tenant = &stage.tenant;
    assert_eq!(tenant.concurrency_headroom().await, 3, "nothing is open after a start");
    tenant.assert_settled().await;
    assert_three_fit(tenant, &stage.upstream).await;
    tenant.assert_settled().await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_and_shutdown_free_all_concurrency_slots() {
    let mut stage = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, Place::new).await;
    let open = open_three(&stage.tenant).await;
    stage.server.kill();
    drop(open);
    let mut stage = restart_and_check(stage).await;

    let open = open_three(&stage.tenant).await;
    stage.server.terminate();
    stage.upstream.release();
    for mut answer in open {
        assert!(answer.read_to_end().await.1, "a stop lets open calls finish");
    }
    assert!(stage.server.ended().await.success());
    let stage = restart_and_check(stage).await;
    let requests = stage.tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 4 * 3, "each of them is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_timeout_frees_all_concurrency_slots() {
    let place = |rows: &str| Place::new(rows).with("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    let mut stage = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, place).await;
    let open = open_three(&stage.tenant).await;
    stage.server.terminate();
    stage.server.ended().await;
    for mut answer in open {
        assert!(!answer.read_to_end().await.1, "a broken answer is no clean end");
    }
    let stage = restart_and_check(stage).await;
    let requests = stage.tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 2 * 3, "each of them is counted");
}

/// An error of the provider is free; but while its body is still coming, its call is open.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_error_body_occupies_a_concurrency_slot() {
    let stage = ScenarioGateway::new(FUNDS, THREE_CONCURRENT, Place::new).await;
    let (tenant, upstream) = (&stage.tenant, &stage.upstream);
    let mut open = Vec::new();
    for _ in 0..3 {
        let answer = tenant.call("verbose", 20).await;
        assert_eq!(answer.status, 500);
        open.push(answer);
    }
    assert_eq!(tenant.concurrency_headroom().await, 0, "three are open at the provider");
    upstream.release();
    for mut answer in open {
        assert!(answer.read_to_end().await.1);
    }
    assert_eq!(tenant.concurrency_headroom().await, 3);
    tenant.assert_settled().await;
}
