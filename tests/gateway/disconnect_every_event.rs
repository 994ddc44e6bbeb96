//! A client that leaves after every single event: what it is charged, to the nano-unit.
//!
//! Both modes of `onDisconnect`, in three dialects. What must be charged is computed here a second
//! time, from what the provider has said up to then.

use std::time::{Duration, Instant};

use crate::harness::client::{Request, Response};
use crate::harness::json::Json;
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};
use crate::harness::wait::eventually;
use crate::harness::{anthropic, gemini, openai};

pub const USAGE: Usage = Usage { prompt: 200, completion: 60, cached: 20, reasoning: 40 };
/// The most output that every call asks for.
pub const MAX_TOKENS: u64 = 100;
const FUNDS: i128 = 1_000_000_000;
const CLOSE_DELAY_MAX: Duration = Duration::from_millis(100);

/// The words of the answer, and how many tokens a count without a vocabulary makes of each: four
/// letters begun, three digits begun, or any other visible character.
const WORDS: [(&str, u64); 5] =
    [("Hello", 2), (", world", 3), (" 12345", 2), ("日本", 2), ("!", 1)];

/// What a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

pub const DIALECTS: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];

impl Dialect {
    /// The events of an answer behind a comment, which is the head and no event yet.
    pub fn events(self) -> Vec<String> {
        let words = WORDS.map(|(word, _)| word);
        let events = match self {
            Self::OpenAi => openai::events(&words, Some(USAGE)),
            Self::Anthropic => anthropic::events(&words, USAGE),
            Self::Gemini => gemini::events(&gemini::chunks(&words, USAGE)),
        };
        [": begun\n\n".to_owned()].into_iter().chain(events).collect()
    }

    /// A call with more bytes than the provider counts tokens, and fewer of our own.
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

    /// The first events that tell all of the usage: who leaves behind them owes the report.
    pub fn usage_reported_after(self) -> usize {
        let events = self.events();
        let whole = format!(":{}", USAGE.completion);
        let mark = match self {
            Self::OpenAi => "\"completion_tokens\"",
            Self::Anthropic => "event: message_delta",
            Self::Gemini => "\"STOP\"",
        };
        let told = events.iter().position(|event| event.contains(mark)).expect("it is told");
        assert!(self == Self::Gemini || events[told].contains(&whole), "{}", events[told]);
        told + 1
    }

    /// Who leaves behind so many events has cost so much, if the provider ends there.
    pub fn usage_after(self, model: &str, sent: usize) -> (Usage, &'static str) {
        if self.usage_reported_after() <= sent {
            return (USAGE, "usage");
        }
        let events = &self.events()[..sent];
        let said: u64 = WORDS
            .iter()
            .filter(|(word, _)| events.iter().any(|event| event.contains(&format!("\"{word}\""))))
            .map(|(_, tokens)| tokens)
            .sum();
        // A token of input is three bytes of the body, until the provider knows better.
        let counted = self.body(model).len().div_ceil(3) as u64;
        let begun = u64::from(1 < sent);
        let usage = match self {
            Self::OpenAi => Usage::of(counted, said.max(begun)),
            _ if begun == 0 => Usage::of(counted, 0),
            // These make more tokens of the same text.
            Self::Anthropic => Usage { completion: (said * 13).div_ceil(10).max(1), ..USAGE },
            Self::Gemini => Usage::of(USAGE.prompt, (said * 13).div_ceil(10).max(1)),
        };
        (usage, "estimate")
    }

    /// What reaches a client of the first events: an end is held back until it is settled.
    fn visible_after(self, sent: usize) -> usize {
        let events = &self.events()[..sent];
        let is_over = sent == self.events().len();
        let is_held = |event: &&String| event.starts_with("event: message_delta") && !is_over;
        let held = events.iter().find(is_held).map_or(0, String::len);
        events.iter().map(String::len).sum::<usize>() - held
    }
}

/// A provider that stalls, a gateway before it, and an organization with this mode.
pub struct DisconnectFixture {
    pub served: Served,
    pub upstream: Upstream,
    pub tenant: Tenant,
    /// How many calls there were.
    pub calls: usize,
}

impl DisconnectFixture {
    /// A provider that answers so; `variables` are those of the gateway's environment.
    pub async fn new(
        plan: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static,
        mode: &str,
        variables: &[(&'static str, &str)],
    ) -> Self {
        let provider = Upstream::start(plan).await;
        let speaks = "dialects = [\"openai\", \"anthropic\", \"gemini\"]\n";
        let rows = upstream("all", &provider.url)
            + speaks
            + &upstream("billing", &provider.url)
            + speaks
            + "bills_after_disconnect = true\n"
            + &model("plain", "upstream = \"all\"")
            + &model("thinking", "upstream = \"all\"\nhidden_output = true")
            + &model("billing", "upstream = \"billing\"")
            + &model(
                "either",
                "targets = [{ upstream = 'all' }, { upstream = 'billing', priority = 1 }]",
            );
        let place = variables
            .iter()
            .fold(Place::new(&rows), |place, (name, value)| place.with(name, *value));
        let served = Served::start(place).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        let body = format!(r#"{{"onDisconnect":"{mode}"}}"#);
        let put = tenant.send(Request::put("/api/organization", body)).await;
        assert_eq!(put.status, 200);
        Self { served, upstream: provider, tenant, calls: 0 }
    }

    /// One that stalls before an event.
    async fn stalling(dialect: Dialect, mode: &str) -> (Self, StallAt) {
        let at = StallAt::default();
        let stall = at.clone();
        let plan = move |_: &ReceivedRequest| {
            Plan::stream(dialect.events(), Duration::ZERO).insert_step(stall.get(), Step::Stall)
        };
        (Self::new(plan, mode, &[]).await, at)
    }

    /// A call that has come as far as that many events, all of which the gateway has read, and
    /// whose client leaves then. Tells when it did; the gateway knows.
    pub async fn disconnect_after(
        &mut self,
        dialect: Dialect,
        model: &str,
        sent: usize,
    ) -> Instant {
        self.disconnect_with_body(dialect, (model, &dialect.body(model)), sent).await
    }

    /// The same with that body.
    pub async fn disconnect_with_body(
        &mut self,
        dialect: Dialect,
        asked: (&str, &str),
        sent: usize,
    ) -> Instant {
        if sent == 0 {
            let request = self.request(dialect, asked);
            let proxy = self.tenant.proxy.clone();
            let call = tokio::spawn(async move { request.try_send(&proxy).await.is_ok() });
            self.upstream.wait_for_requests(self.calls).await;
            let leaving = Instant::now();
            call.abort();
            assert!(call.await.is_err(), "nothing was answered yet");
            self.yield_to_worker().await;
            return leaving;
        }
        let mut answer = self.start_call(dialect, asked).await;
        let (mut read, visible) = (0, dialect.visible_after(sent));
        while read < visible {
            read += answer.piece().await.expect("a whole piece").expect("more").len();
        }
        assert_eq!(read, visible, "nothing else came");
        self.yield_to_worker().await;
        let leaving = Instant::now();
        drop(answer);
        self.yield_to_worker().await;
        leaving
    }

    /// A call of that model with that body; its answer has begun.
    pub async fn start_call(&mut self, dialect: Dialect, asked: (&str, &str)) -> Response {
        let answer = self.request(dialect, asked).send(&self.tenant.proxy).await;
        assert_eq!(answer.status, 200);
        answer
    }

    fn request(&mut self, dialect: Dialect, (model, body): (&str, &str)) -> Request {
        self.calls += 1;
        Request::post(&dialect.path(model), body).bearer(&self.tenant.key)
    }

    /// The same after an end of the gateway, be it by a kill, and a new start.
    pub async fn restart(self) -> Self {
        let served = self.served.restart().await;
        let tenant = served.rebind(self.tenant);
        Self { served, tenant, ..self }
    }

    /// Two turns of the only worker: it has read what was there before, and seen who has left.
    pub async fn yield_to_worker(&self) {
        for _ in 0..2 {
            let limits = Request::get("/v1/limits").bearer(&self.tenant.key);
            assert_eq!(limits.send(&self.tenant.proxy).await.status, 200);
        }
    }

    /// The entry of the last call, once it is settled and nothing is held.
    pub async fn settled_log(&self) -> Json {
        let log = eventually("the call stands in the request log", async || {
            let logs = self.tenant.logs().await;
            (logs.len() == self.calls).then(|| logs[0].clone())
        })
        .await;
        self.tenant.assert_settled().await;
        log
    }

    /// The last call is settled by that rule for that, in log and ledger alike.
    pub async fn expect_charge(&self, usage: Usage, cost: i128, rule: &str) -> Json {
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

    /// The last call is charged all that was held for it.
    pub async fn expect_hold_charged(&self, dialect: Dialect, model: &str) -> Json {
        let whole = openai::bound(&dialect.body(model), MAX_TOKENS);
        self.expect_charge(whole, GPT_4O_MINI.cost(whole), "estimate").await
    }

    /// Waits until the last call is all that is held, which says that it is read on.
    pub async fn wait_until_draining(&self) {
        eventually("the call holds its place", async || {
            (self.tenant.holds().await.len() == 1).then_some(())
        })
        .await;
    }

    /// Ends the stall of the last call.
    pub async fn resume_and_settle(&self) -> Json {
        self.upstream.release();
        let log = self.settled_log().await;
        self.upstream.stall_again();
        log
    }

    /// Whether the last call's connection was closed at once. On a loaded machine the answer may
    /// be no once in a while.
    async fn closed_promptly(&self, leaving: Instant) -> bool {
        let closed = self.upstream.wait_for_disconnect(self.calls - 1).await;
        closed.saturating_duration_since(leaving) <= CLOSE_DELAY_MAX
    }
}

/// Before which event the provider stalls.
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

/// How often a scene that has to be quick may be played.
const ATTEMPTS_MAX: usize = 5;

async fn check_cancel_mode(dialect: Dialect) {
    let (mut scene, stall) = DisconnectFixture::stalling(dialect, "cancel").await;
    let (mut costs, mut tokens) = (Vec::new(), 0);
    let events = dialect.events().len();
    for sent in 0..=events {
        let (usage, rule) = dialect.usage_after("plain", sent);
        let cost = GPT_4O_MINI.cost(usage);
        stall.set(sent);
        let mut quick = false;
        for _ in 0..ATTEMPTS_MAX {
            let leaving = scene.disconnect_after(dialect, "plain", sent).await;
            quick = scene.closed_promptly(leaving).await;
            let log = scene.expect_charge(usage, cost, rule).await;
            let is_settled = sent == events && dialect != Dialect::Gemini;
            let outcome = if is_settled { "Completed" } else { "Cancelled" };
            assert_eq!(log.at("outcome").text(), outcome, "{log}");
            tokens += usage.total();
            if quick {
                break;
            }
        }
        assert!(quick, "{dialect:?}: the provider was not left at once after {sent} events");
        costs.push(cost);
    }
    assert!(costs.is_sorted(), "who leaves later pays no less: {costs:?}");
    assert_eq!(costs.last(), Some(&GPT_4O_MINI.cost(USAGE)), "and no more than who stays");
    let used = scene.tenant.usage().await.at("dailyUsage");
    assert_eq!(used.at("tokenCount").count(), tokens, "{used}");
    assert_eq!(used.at("requestCount").count(), scene.calls as u64, "{used}");
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
    let (mut scene, stall) = DisconnectFixture::stalling(dialect, "drain").await;
    let (events, stays) = (dialect.events().len(), GPT_4O_MINI.cost(USAGE));
    for sent in 0..=events {
        stall.set(sent);
        scene.disconnect_after(dialect, "plain", sent).await;
        if sent < dialect.usage_reported_after() {
            scene.wait_until_draining().await;
        }
        let log = scene.resume_and_settle().await;
        scene.expect_charge(USAGE, stays, "usage").await;
        let is_settled = sent == events && dialect != Dialect::Gemini;
        let outcome = if is_settled { "Completed" } else { "Cancelled" };
        assert_eq!(log.at("outcome").text(), outcome, "after {sent} events: {log}");
        let seen = scene.upstream.requests();
        let last = seen.last().expect("the call");
        assert!(
            is_settled || last.disconnected_at.is_none(),
            "{dialect:?} is read to its end after {sent}"
        );
    }
    let lines = scene.upstream.requests().iter().map(|seen| seen.connection).max();
    assert_eq!(lines, Some(0), "a connection that was read to its end serves the next call");
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
