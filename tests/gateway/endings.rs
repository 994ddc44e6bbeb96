//! However a call ends, its place among the calls at once is free again, and only once.

use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{Answer, Request};
use crate::openai::chat;
use crate::served::Place;
use crate::stage::Stage;
use crate::tenant::Tenant;
use crate::told::{LIMITS, Level};
use crate::upstream::Upstream;

/// Covers many calls of 20 tokens, and none of 16,000.
const FUNDS: i128 = 5_000_000;
const THREE: &str = r#"{"concurrentCallsLimit":3}"#;

/// How a call ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The client leaves before the answer begins,
    LeavesBefore,
    /// in its midst,
    LeavesAmid,
    /// or while it still sends.
    LeavesSending,
    /// The client is told so, of a call of that model and bound.
    Told(&'static str, u64, u16),
    /// The answer of that model begins and breaks.
    Breaks(&'static str),
}

const ENDINGS: [Ending; 14] = [
    Ending::LeavesBefore,
    Ending::LeavesAmid,
    Ending::LeavesSending,
    Ending::Told("plain", 20, 200),
    Ending::Told("failing", 20, 500),
    Ending::Told("unwelcome", 20, 502),
    Ending::Told("dying", 20, 502),
    Ending::Told("nowhere", 20, 502),
    Ending::Told("late", 20, 504),
    Ending::Told("plain", 16_000, 402),
    Ending::Told("nobody", 20, 404),
    Ending::Told("plain", 1 << 60, 402),
    Ending::Breaks("cutting"),
    Ending::Breaks("quiet"),
];

impl Ending {
    /// A call that ends so; what it says is over when it has ended for its client.
    async fn end(self, tenant: &Tenant, upstream: &Upstream) {
        match self {
            Self::LeavesBefore => {
                let (reached, tenant) = (upstream.count(), tenant.clone());
                let call = tokio::spawn(async move { tenant.call("mute", 20).await.status });
                upstream.reached(reached + 1).await;
                call.abort();
                assert!(call.await.is_err(), "it was still open");
            }
            Self::LeavesAmid => drop(tenant.begun(20).await),
            Self::LeavesSending => {
                let wire = Request::chat(&tenant.key, chat("plain", 20, true)).wire();
                let mut stream = TcpStream::connect(&tenant.proxy).await.expect("a connection");
                stream.write_all(&wire[..wire.len() - 10]).await.expect("sent");
            }
            Self::Told(model, max_tokens, status) => {
                let told = tenant.told(model, max_tokens).await;
                assert_eq!(told.status, status, "{told:?}");
            }
            Self::Breaks(model) => {
                let mut answer = tenant.call(model, 20).await;
                assert_eq!(answer.status, 200);
                assert!(!answer.rest().await.1, "it breaks");
            }
        }
    }
}

/// Of four calls at once three are served, whichever; then their places are free again.
async fn three_fit_at_once(tenant: &Tenant, upstream: &Upstream) {
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
    let told = tenant.told("steady", 20).await;
    LIMITS[6].refused(Level::Project, &told, (1, 3));
    assert_eq!(tenant.places().await, 0);
    upstream.release();
    for mut answer in open {
        assert!(answer.rest().await.1, "it comes to its end");
    }
    upstream.hold();
    assert_eq!(tenant.places().await, 3, "who has seen the end finds the place free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_whichever_way_a_call_ends() {
    let stage = Stage::new(FUNDS, THREE, Place::new).await;
    let (tenant, upstream) = (&stage.tenant, &stage.upstream);
    for ending in ENDINGS {
        let what = format!("after {ending:?}");
        tokio::join!(
            Box::pin(ending.end(tenant, upstream)),
            Box::pin(ending.end(tenant, upstream)),
            Box::pin(ending.end(tenant, upstream)),
        );
        tenant.has_places(3, Instant::now(), &what).await;
        tenant.at_rest().await;
        three_fit_at_once(tenant, upstream).await;
    }
    // A place that was given back twice would let a fourth in.
    assert_eq!(tenant.places().await, 3);
    tenant.at_rest().await;
}

/// Three calls of which each has begun to be answered.
async fn three_open(tenant: &Tenant) -> Vec<Answer> {
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(tenant.begun(20).await);
    }
    assert_eq!(tenant.places().await, 0);
    open
}

/// Once it has started again, nothing is open or held.
async fn starts_afresh(stage: Stage) -> Stage {
    stage.upstream.hold();
    let stage = stage.again().await;
    let tenant = &stage.tenant;
    assert_eq!(tenant.places().await, 3, "nothing is open after a start");
    tenant.at_rest().await;
    three_fit_at_once(tenant, &stage.upstream).await;
    tenant.at_rest().await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn no_place_stays_taken_by_calls_that_a_kill_or_a_stop_has_ended() {
    let mut stage = Stage::new(FUNDS, THREE, Place::new).await;
    let open = three_open(&stage.tenant).await;
    stage.served.kill();
    drop(open);
    let mut stage = starts_afresh(stage).await;

    let open = three_open(&stage.tenant).await;
    stage.served.terminate();
    stage.upstream.release();
    for mut answer in open {
        assert!(answer.rest().await.1, "a stop lets open calls finish");
    }
    assert!(stage.served.ended().await.success());
    let stage = starts_afresh(stage).await;
    let requests = stage.tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 4 * 3, "each of them is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_place_stays_taken_by_calls_that_outlast_the_time_to_finish() {
    let place = |rows: &str| Place::new(rows).with("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    let mut stage = Stage::new(FUNDS, THREE, place).await;
    let open = three_open(&stage.tenant).await;
    stage.served.terminate();
    stage.served.ended().await;
    for mut answer in open {
        assert!(!answer.rest().await.1, "a broken answer is no clean end");
    }
    let stage = starts_afresh(stage).await;
    let requests = stage.tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 2 * 3, "each of them is counted");
}

/// An error of the provider is free; but while its body is still coming, its call is open.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_is_still_being_told_takes_its_place() {
    let stage = Stage::new(FUNDS, THREE, Place::new).await;
    let (tenant, upstream) = (&stage.tenant, &stage.upstream);
    let mut open = Vec::new();
    for _ in 0..3 {
        let answer = tenant.call("verbose", 20).await;
        assert_eq!(answer.status, 500);
        open.push(answer);
    }
    assert_eq!(tenant.places().await, 0, "three are open at the provider");
    upstream.release();
    for mut answer in open {
        assert!(answer.rest().await.1);
    }
    assert_eq!(tenant.places().await, 3);
    tenant.at_rest().await;
}
