//! A gateway whose models each behave in another way, and one API key for all of them.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::harness::client::{Request, Response};
use crate::harness::demo::assert_within;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, WORDS, chat, error, events, reply};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream, closed_port};
use crate::harness::wait::eventually;

/// The usage of a call that completes.
pub const USAGE: Usage = Usage { prompt: 9, completion: 3, cached: 0, reasoning: 0 };
/// The longest time for what should happen at once.
pub const SOON: Duration = Duration::from_secs(1);

/// One gateway process, its upstream and a tenant.
pub struct ScenarioGateway {
    pub server: Server,
    pub upstream: Upstream,
    pub tenant: Tenant,
    _closed: tokio::net::TcpSocket,
}

/// `steady` stalls in mid-stream and `mute` before the head until the test calls `release`. `quiet`
/// and `late` do the same behind an upstream with short timeouts.
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
    /// Starts the gateway and a tenant with this balance and quota. `config_dir` turns the
    /// configured models into a configuration folder.
    pub async fn new(funds: i128, quota: &str, config_dir: impl Fn(&str) -> ConfigDir) -> Self {
        let provider = Upstream::start(plan).await;
        let (reserved_port, unreachable_url) = closed_port();
        let mut rows = upstream("patient", &provider.url);
        rows += &upstream("hasty", &provider.url);
        rows += "first_byte_timeout_ms = 200\nidle_timeout_ms = 200\n";
        rows += &upstream("nowhere", &unreachable_url);
        for name in
            ["plain", "steady", "mute", "cutting", "dying", "failing", "unwelcome", "verbose"]
        {
            rows += &model(name, r#"upstream = "patient""#);
        }
        for name in ["late", "quiet"] {
            rows += &model(name, r#"upstream = "hasty""#);
        }
        rows += &model("nowhere", r#"upstream = "nowhere""#);
        let server = Server::start(config_dir(&rows).with_env("METEOR__PROXY__WORKERS", "2")).await;
        let tenant = server.tenant(funds, quota).await;
        Self { server, upstream: provider, tenant, _closed: reserved_port }
    }

    /// Kills the process and starts it again with the same configuration.
    pub async fn restart(self) -> Self {
        let server = self.server.restart().await;
        let tenant = server.rebind(self.tenant);
        Self { server, tenant, ..self }
    }
}

impl Tenant {
    /// Sends a streamed call and reads the response head.
    pub async fn call(&self, model: &str, max_tokens: u64) -> Response {
        Request::chat(&self.key, chat(model, max_tokens, true)).send(&self.proxy).await
    }

    /// Sends a streamed call and reads the whole response.
    pub async fn call_to_end(&self, model: &str, max_tokens: u64) -> FullResponse {
        FullResponse::read(self.call(model, max_tokens).await).await
    }

    /// Opens a call that stalls in mid-stream; returns after its first piece.
    pub async fn open_stream(&self, max_tokens: u64) -> Response {
        let mut response = self.call("steady", max_tokens).await;
        assert_eq!(response.status, 200);
        response.piece().await.expect("a whole piece").expect("a first event");
        response
    }

    /// Spawns a call of the model that responds at once.
    pub fn spawn_call(&self, max_tokens: u64) -> JoinHandle<FullResponse> {
        let tenant = self.clone();
        tokio::spawn(async move { tenant.call_to_end("plain", max_tokens).await })
    }

    /// Spawns two calls for a wait queue with one slot; returns the one that waits. The other is
    /// refused because the queue is full.
    pub async fn spawn_queued_call(&self, max_tokens: u64) -> JoinHandle<FullResponse> {
        let (refused, waits) =
            first_of(self.spawn_call(max_tokens), self.spawn_call(max_tokens)).await;
        assert_queue_full(&refused);
        waits
    }

    /// The number of further calls that the concurrency limit admits.
    pub async fn concurrency_headroom(&self) -> u64 {
        self.usage().await.at("quotaLimitRemaining.concurrentCalls").count()
    }

    /// Waits until this many further calls are admitted. Fails if that takes longer than `SOON`.
    pub async fn wait_for_headroom(&self, headroom: u64, since: Instant, what: &str) {
        let what = format!("{headroom} further calls fit: {what}");
        eventually(&what, async || (self.concurrency_headroom().await == headroom).then_some(()))
            .await;
        assert_within(SOON, since, Instant::now(), &what);
    }
}

/// Returns the first response, and the handle of the other call.
pub async fn first_of(
    mut one: JoinHandle<FullResponse>,
    mut other: JoinHandle<FullResponse>,
) -> (FullResponse, JoinHandle<FullResponse>) {
    let (response, last) = tokio::select! {
        response = &mut one => (response, other),
        response = &mut other => (response, one),
    };
    (response.expect("a response"), last)
}

/// Asserts the refusal of a call for which the wait queue has no slot.
#[track_caller]
pub fn assert_queue_full(refusal: &FullResponse) {
    refusal.assert_error(503, &["overloaded"]);
    assert_eq!(refusal.retry_after(), 1, "{refusal:?}");
}
