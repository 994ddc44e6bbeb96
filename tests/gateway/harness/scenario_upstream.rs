//! A gateway whose models each end a call in another way, and one key to them all.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::harness::client::{Request, Response};
use crate::harness::demo::assert_within;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, WORDS, chat, error, events, reply};
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream, closed_port};
use crate::harness::wait::eventually;

/// What a call uses that comes to its end.
pub const USAGE: Usage = Usage { prompt: 9, completion: 3, cached: 0, reasoning: 0 };
/// What follows at once, follows within this.
pub const SOON: Duration = Duration::from_secs(1);

/// One process, and who calls.
pub struct ScenarioGateway {
    pub server: Served,
    pub upstream: Upstream,
    pub tenant: Tenant,
    _closed: tokio::net::TcpSocket,
}

/// `steady` stalls in mid-stream and `mute` before its head, until the test says `release`.
fn plan(seen: &ReceivedRequest) -> Plan {
    let flowing = || Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO);
    match &*seen.json().at("model").text() {
        "steady" | "quiet" => flowing().insert_step(2, Step::Stall),
        "mute" | "late" => Plan::json(200, "{}").insert_step(0, Step::Stall),
        "cutting" => flowing().insert_step(3, Step::Cut),
        "dying" => Plan { steps: vec![Step::Cut], ..Plan::json(200, "") },
        "failing" => Plan::json(500, error()),
        "unwelcome" => Plan::json(401, error()),
        "verbose" => {
            let (head, rest) = error().split_at(9);
            let steps = [Step::Send(head.into()), Step::Stall, Step::Send(rest.into())];
            Plan { steps: steps.into(), ..Plan::json(500, "") }
        }
        _ => reply(seen, USAGE, Duration::ZERO),
    }
}

impl ScenarioGateway {
    /// With this money and quota; `place` makes of the rows of models a place.
    pub async fn new(funds: i128, quota: &str, place: impl Fn(&str) -> Place) -> Self {
        let provider = Upstream::start(plan).await;
        let (closed, nowhere) = closed_port();
        let mut rows = upstream("patient", &provider.url);
        rows += &upstream("hasty", &provider.url);
        rows += "first_byte_timeout_ms = 200\nidle_timeout_ms = 200\n";
        rows += &upstream("nowhere", &nowhere);
        for name in
            ["plain", "steady", "mute", "cutting", "dying", "failing", "unwelcome", "verbose"]
        {
            rows += &model(name, r#"upstream = "patient""#);
        }
        for name in ["late", "quiet"] {
            rows += &model(name, r#"upstream = "hasty""#);
        }
        rows += &model("nowhere", r#"upstream = "nowhere""#);
        let served = Served::start(place(&rows).with("METEOR__PROXY__WORKERS", "2")).await;
        let tenant = served.tenant(funds, quota).await;
        Self { server: served, upstream: provider, tenant, _closed: closed }
    }

    /// After its end: again, in the same place.
    pub async fn restart(self) -> Self {
        let served = self.server.restart().await;
        let tenant = served.rebind(self.tenant);
        Self { server: served, tenant, ..self }
    }
}

impl Tenant {
    /// A call of one of the models, to the end of the head.
    pub async fn call(&self, model: &str, max_tokens: u64) -> Response {
        Request::chat(&self.key, chat(model, max_tokens, true)).send(&self.proxy).await
    }

    /// The same to its end.
    pub async fn call_to_end(&self, model: &str, max_tokens: u64) -> FullResponse {
        FullResponse::read(self.call(model, max_tokens).await).await
    }

    /// A streamed call whose first piece has come.
    pub async fn open_stream(&self, max_tokens: u64) -> Response {
        let mut answer = self.call("steady", max_tokens).await;
        assert_eq!(answer.status, 200);
        answer.piece().await.expect("a whole piece").expect("a first event");
        answer
    }

    /// A call of a model that answers at once, on its way.
    pub fn spawn_call(&self, max_tokens: u64) -> JoinHandle<FullResponse> {
        let tenant = self.clone();
        tokio::spawn(async move { tenant.call_to_end("plain", max_tokens).await })
    }

    /// A call that waits in a line with one place: a second is told that the line is full.
    pub async fn spawn_queued_call(&self, max_tokens: u64) -> JoinHandle<FullResponse> {
        let (refused, waits) =
            first_of(self.spawn_call(max_tokens), self.spawn_call(max_tokens)).await;
        assert_queue_full(&refused);
        waits
    }

    /// How many more calls may be open at once.
    pub async fn concurrency_headroom(&self) -> u64 {
        self.usage().await.at("quotaLimitRemaining.concurrentCalls").count()
    }

    /// Waits until as many more may be open.
    pub async fn wait_for_headroom(&self, places: u64, since: Instant, what: &str) {
        let what = format!("{places} places are free: {what}");
        eventually(&what, async || (self.concurrency_headroom().await == places).then_some(()))
            .await;
        assert_within(SOON, since, Instant::now(), &what);
    }
}

/// The one that is answered first, and the other.
pub async fn first_of(
    mut one: JoinHandle<FullResponse>,
    mut other: JoinHandle<FullResponse>,
) -> (FullResponse, JoinHandle<FullResponse>) {
    let (told, last) = tokio::select! {
        told = &mut one => (told, other),
        told = &mut other => (told, one),
    };
    (told.expect("an answer"), last)
}

/// Fails unless that says that no more calls may wait.
#[track_caller]
pub fn assert_queue_full(refusal: &FullResponse) {
    refusal.assert_error(503, &["overloaded"]);
    assert_eq!(refusal.retry_after(), 1, "{refusal:?}");
}
