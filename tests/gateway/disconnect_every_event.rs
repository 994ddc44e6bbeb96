//! A client disconnects after every single event; the charge is exact to the nano-unit.
//!
//! The expected charge is computed from the events that the provider sent up to the disconnect.

use std::time::{Duration, Instant};

use crate::harness::client::{Request, Response};
use crate::harness::json::Json;
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};
use crate::harness::wait::eventually;
use crate::harness::{anthropic, gemini, openai};

pub const USAGE: Usage = Usage { prompt: 200, completion: 60, cached: 20, reasoning: 40 };
/// The output bound of every call.
pub const MAX_TOKENS: u64 = 100;
const FUNDS: i128 = 1_000_000_000;
const CLOSE_DELAY_MAX: Duration = Duration::from_millis(100);

/// The words of the response, each with its token count without a vocabulary: one token per started
/// group of four letters or three digits, and per other visible character.
const WORDS: [(&str, u64); 5] =
    [("Hello", 2), (", world", 3), (" 12345", 2), ("日本", 2), ("!", 1)];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

pub const DIALECTS: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];

impl Dialect {
    /// The events of a response after a leading comment, which flushes the head.
    pub fn events(self) -> Vec<String> {
        let words = WORDS.map(|(word, _)| word);
        let events = match self {
            Self::OpenAi => openai::events(&words, Some(USAGE)),
            Self::Anthropic => anthropic::events(&words, USAGE),
            Self::Gemini => gemini::events(&gemini::chunks(&words, USAGE)),
        };
        [": begun\n\n".to_owned()].into_iter().chain(events).collect()
    }

    /// A body with more bytes than the provider reports tokens. The gateway's own count of its
    /// tokens is lower than the reported one.
    pub fn body(self, model: &str) -> String {
        let body = match self {
            Self::OpenAi => openai::chat(model, MAX_TOKENS, true).replacen(
                '{',
                r#"{"stream_options":{"include_usage":true},"#,
                1,
            ),
            Self::Anthropic => anthropic::message(model, Some(MAX_TOKENS), true),
            Self::Gemini => gemini::contents(Some(MAX_TOKENS)),
        };
        body.replacen("Say hello.", &"Say hello. ".repeat(25), 1)
    }

    pub fn path(self, model: &str) -> String {
        match self {
            Self::OpenAi => "/v1/chat/completions".to_owned(),
            Self::Anthropic => "/v1/messages".to_owned(),
            Self::Gemini => gemini::target(model, true),
        }
    }

    /// The number of events after which the usage is completely reported and therefore charged.
    pub fn usage_reported_after(self) -> usize {
        let events = self.events();
        let whole = format!(":{}", USAGE.completion);
        let mark = match self {
            Self::OpenAi => "\"completion_tokens\"",
            Self::Anthropic => "event: message_delta",
            Self::Gemini => "\"STOP\"",
        };
        let index =
            events.iter().position(|event| event.contains(mark)).expect("usage is reported");
        assert!(self == Self::Gemini || events[index].contains(&whole), "{}", events[index]);
        index + 1
    }

    /// The usage and the `settledBy` value after `sent` events, if the provider sends no more.
    pub fn usage_after(self, model: &str, sent: usize) -> (Usage, &'static str) {
        if self.usage_reported_after() <= sent {
            return (USAGE, "usage");
        }
        let events = &self.events()[..sent];
        let output_tokens: u64 = WORDS
            .iter()
            .filter(|(word, _)| events.iter().any(|event| event.contains(&format!("\"{word}\""))))
            .map(|(_, tokens)| tokens)
            .sum();
        // Before the provider reports input, three bytes of the body count as one token.
        let input_tokens = self.body(model).len().div_ceil(3) as u64;
        let minimum = u64::from(1 < sent);
        let usage = match self {
            Self::OpenAi => Usage::of(input_tokens, output_tokens.max(minimum)),
            _ if minimum == 0 => Usage::of(input_tokens, 0),
            // The gateway assumes 30 % more tokens of the same text for these dialects.
            Self::Anthropic => {
                Usage { completion: (output_tokens * 13).div_ceil(10).max(1), ..USAGE }
            }
            Self::Gemini => Usage::of(USAGE.prompt, (output_tokens * 13).div_ceil(10).max(1)),
        };
        (usage, "estimate")
    }

    /// The bytes of the first `sent` events that reach the client. The gateway holds back the end
    /// of a stream until the call is settled.
    fn visible_after(self, sent: usize) -> usize {
        let events = &self.events()[..sent];
        let is_over = sent == self.events().len();
        let is_held = |event: &&String| event.starts_with("event: message_delta") && !is_over;
        let held = events.iter().find(is_held).map_or(0, String::len);
        events.iter().map(String::len).sum::<usize>() - held
    }
}

/// A provider that stalls, a gateway in front of it, and an organization with a disconnect mode.
pub struct DisconnectFixture {
    pub served: Server,
    pub upstream: Upstream,
    pub tenant: Tenant,
    /// Number of calls made.
    pub calls: usize,
}

impl DisconnectFixture {
    /// Starts a provider that answers by `plan`; `variables` are set in the gateway's environment.
    pub async fn new(
        plan: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static,
        mode: &str,
        variables: &[(&'static str, &str)],
    ) -> Self {
        let provider = Upstream::start(plan).await;
        let dialects = "dialects = [\"openai\", \"anthropic\", \"gemini\"]\n";
        let rows = upstream("all", &provider.url)
            + dialects
            + &upstream("billing", &provider.url)
            + dialects
            + "bills_after_disconnect = true\n"
            + &model("plain", "upstream = \"all\"")
            + &model("thinking", "upstream = \"all\"\nhidden_output = true")
            + &model("billing", "upstream = \"billing\"")
            + &model(
                "either",
                "targets = [{ upstream = 'all' }, { upstream = 'billing', priority = 1 }]",
            );
        let config_dir =
            variables.iter().fold(ConfigDir::new(&rows), |config_dir, (name, value)| {
                config_dir.with_env(name, *value)
            });
        let served = Server::start(config_dir).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        let body = format!(r#"{{"onDisconnect":"{mode}"}}"#);
        let put = tenant.send(Request::put("/api/organization", body)).await;
        assert_eq!(put.status, 200);
        Self { served, upstream: provider, tenant, calls: 0 }
    }

    /// A fixture whose provider stalls before a settable event.
    async fn stalling(dialect: Dialect, mode: &str) -> (Self, StallAt) {
        let at = StallAt::default();
        let stall = at.clone();
        let plan = move |_: &ReceivedRequest| {
            Plan::stream(dialect.events(), Duration::ZERO).insert_step(stall.get(), Step::Stall)
        };
        (Self::new(plan, mode, &[]).await, at)
    }

    /// Makes a call, waits until the gateway has read `sent` events and disconnects. Returns the
    /// time of the disconnect after the gateway has noticed it.
    pub async fn disconnect_after(
        &mut self,
        dialect: Dialect,
        model: &str,
        sent: usize,
    ) -> Instant {
        self.disconnect_with_body(dialect, (model, &dialect.body(model)), sent).await
    }

    /// Like `disconnect_after`, with a given model and body.
    pub async fn disconnect_with_body(
        &mut self,
        dialect: Dialect,
        model_and_body: (&str, &str),
        sent: usize,
    ) -> Instant {
        if sent == 0 {
            let request = self.request(dialect, model_and_body);
            let proxy = self.tenant.proxy.clone();
            let call = tokio::spawn(async move { request.try_send(&proxy).await.is_ok() });
            self.upstream.wait_for_requests(self.calls).await;
            let disconnected = Instant::now();
            call.abort();
            assert!(call.await.is_err(), "no response has started");
            self.yield_to_worker().await;
            return disconnected;
        }
        let mut answer = self.start_call(dialect, model_and_body).await;
        let (mut read, visible) = (0, dialect.visible_after(sent));
        while read < visible {
            read += answer.piece().await.expect("a whole piece").expect("more").len();
        }
        assert_eq!(read, visible, "nothing else was sent");
        self.yield_to_worker().await;
        let disconnected = Instant::now();
        drop(answer);
        self.yield_to_worker().await;
        disconnected
    }

    /// Makes a call of this model and body and reads the response head.
    pub async fn start_call(&mut self, dialect: Dialect, model_and_body: (&str, &str)) -> Response {
        let answer = self.request(dialect, model_and_body).send(&self.tenant.proxy).await;
        assert_eq!(answer.status, 200);
        answer
    }

    fn request(&mut self, dialect: Dialect, (model, body): (&str, &str)) -> Request {
        self.calls += 1;
        Request::post(&dialect.path(model), body).bearer(&self.tenant.key)
    }

    /// Ends the gateway if it still runs and starts it again.
    pub async fn restart(self) -> Self {
        let served = self.served.restart().await;
        let tenant = served.rebind(self.tenant);
        Self { served, tenant, ..self }
    }

    /// Makes two local requests, after which the only worker has read all pending data and noticed
    /// disconnects.
    pub async fn yield_to_worker(&self) {
        for _ in 0..2 {
            let limits = Request::get("/v1/limits").bearer(&self.tenant.key);
            assert_eq!(limits.send(&self.tenant.proxy).await.status, 200);
        }
    }

    /// Waits until the last call is settled and nothing is held. Returns its log entry.
    pub async fn settled_log(&self) -> Json {
        let log = eventually("the call is in the request log", async || {
            let logs = self.tenant.logs().await;
            (logs.len() == self.calls).then(|| logs[0].clone())
        })
        .await;
        self.tenant.assert_settled().await;
        log
    }

    /// Asserts the usage, cost and `settledBy` value of the last call in log and ledger.
    pub async fn assert_charge(&self, usage: Usage, cost: i128, rule: &str) -> Json {
        let log = self.settled_log().await;
        assert_eq!(log.at("settledBy").text(), rule, "{log}");
        assert_eq!(log.at("usage.inputTokens").count(), usage.prompt, "{log}");
        assert_eq!(log.at("usage.outputTokens").count(), usage.completion, "{log}");
        assert_eq!(log.at("cost").nano(), cost, "{log}");
        let debit = self.tenant.debit(&log.at("requestLogId").text()).await;
        assert_eq!(debit.at("amount").nano(), cost, "{debit}");
        assert_eq!(debit.at("settledBy").text(), rule, "{debit}");
        log
    }

    /// Asserts that the last call is charged its whole hold.
    pub async fn assert_hold_charged(&self, dialect: Dialect, model: &str) -> Json {
        let max_usage = openai::bound(&dialect.body(model), MAX_TOKENS);
        self.assert_charge(max_usage, GPT_4O_MINI.cost(max_usage), "estimate").await
    }

    /// Waits until the last call is the only hold, which means that the gateway drains it.
    pub async fn wait_until_draining(&self) {
        eventually("the call is held", async || {
            (self.tenant.holds().await.len() == 1).then_some(())
        })
        .await;
    }

    /// Ends the stall of the last call and waits for its log entry.
    pub async fn resume_and_settle(&self) -> Json {
        self.upstream.release();
        let log = self.settled_log().await;
        self.upstream.stall_again();
        log
    }

    /// Whether the last upstream connection was closed promptly; may be false on a loaded machine.
    async fn closed_promptly(&self, disconnected: Instant) -> bool {
        let closed = self.upstream.wait_for_disconnect(self.calls - 1).await;
        closed.saturating_duration_since(disconnected) <= CLOSE_DELAY_MAX
    }
}

/// The event before which the provider stalls.
#[derive(Clone, Default)]
struct StallAt(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl StallAt {
    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn set(&self, at: usize) {
        self.0.store(at, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Attempts of a case that depends on timing.
const ATTEMPTS_MAX: usize = 5;

async fn check_cancel_mode(dialect: Dialect) {
    let (mut fixture, stall) = DisconnectFixture::stalling(dialect, "cancel").await;
    let (mut costs, mut tokens) = (Vec::new(), 0);
    let events = dialect.events().len();
    for sent in 0..=events {
        let (usage, rule) = dialect.usage_after("plain", sent);
        let cost = GPT_4O_MINI.cost(usage);
        stall.set(sent);
        let mut is_prompt = false;
        for _ in 0..ATTEMPTS_MAX {
            let disconnected = fixture.disconnect_after(dialect, "plain", sent).await;
            is_prompt = fixture.closed_promptly(disconnected).await;
            let log = fixture.assert_charge(usage, cost, rule).await;
            let is_settled = sent == events && dialect != Dialect::Gemini;
            let outcome = if is_settled { "Completed" } else { "Cancelled" };
            assert_eq!(log.at("outcome").text(), outcome, "{log}");
            tokens += usage.total();
            if is_prompt {
                break;
            }
        }
        assert!(is_prompt, "{dialect:?}: the provider was not closed promptly after {sent} events");
        costs.push(cost);
    }
    assert!(costs.is_sorted(), "a later disconnect costs no less: {costs:?}");
    assert_eq!(costs.last(), Some(&GPT_4O_MINI.cost(USAGE)), "and no more than a completed call");
    let used = fixture.tenant.usage().await.at("dailyUsage");
    assert_eq!(used.at("tokenCount").count(), tokens, "{used}");
    assert_eq!(used.at("requestCount").count(), fixture.calls as u64, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_mode_charges_received_output_at_every_openai_event() {
    check_cancel_mode(Dialect::OpenAi).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_mode_charges_received_output_at_every_anthropic_event() {
    check_cancel_mode(Dialect::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_mode_charges_received_output_at_every_gemini_event() {
    check_cancel_mode(Dialect::Gemini).await;
}

async fn check_drain_mode(dialect: Dialect) {
    let (mut fixture, stall) = DisconnectFixture::stalling(dialect, "drain").await;
    let (events, full_cost) = (dialect.events().len(), GPT_4O_MINI.cost(USAGE));
    for sent in 0..=events {
        stall.set(sent);
        fixture.disconnect_after(dialect, "plain", sent).await;
        if sent < dialect.usage_reported_after() {
            fixture.wait_until_draining().await;
        }
        let log = fixture.resume_and_settle().await;
        fixture.assert_charge(USAGE, full_cost, "usage").await;
        let is_settled = sent == events && dialect != Dialect::Gemini;
        let outcome = if is_settled { "Completed" } else { "Cancelled" };
        assert_eq!(log.at("outcome").text(), outcome, "after {sent} events: {log}");
        let seen = fixture.upstream.requests();
        let last = seen.last().expect("the call");
        assert!(
            is_settled || last.disconnected_at.is_none(),
            "{dialect:?} is drained to its end after {sent}"
        );
    }
    let connections = fixture.upstream.requests().iter().map(|seen| seen.connection).max();
    assert_eq!(connections, Some(0), "a drained connection serves the next call");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_mode_charges_the_full_usage_at_every_openai_event() {
    check_drain_mode(Dialect::OpenAi).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_mode_charges_the_full_usage_at_every_anthropic_event() {
    check_drain_mode(Dialect::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_mode_charges_the_full_usage_at_every_gemini_event() {
    check_drain_mode(Dialect::Gemini).await;
}
