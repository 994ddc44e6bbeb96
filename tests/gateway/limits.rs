//! Limits are exact: of 400 calls 64 abreast against room for 100, exactly 100 reach the provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Request;
use crate::gateway::Gateway;
use crate::json::Json;
use crate::openai::{Usage, bound, chat, reply};
use crate::price::GPT_4O_MINI;
use crate::tenant::Tenant;
use crate::upstream::{Plan, Step, Upstream};
use crate::wait::eventually;

const CALLS: usize = 400;
const ABREAST: usize = 64;
const ROOM: u64 = 100;
const MAX_TOKENS: u64 = 20;

/// A limit of the quota, and the refusal that names it.
struct Limit {
    field: &'static str,
    code: &'static str,
    counts_tokens: bool,
    /// The longest that its window lasts, in seconds.
    window: u64,
}

const DAY: u64 = 86_400;
const MINUTE: u64 = 60;

const LIMITS: [Limit; 5] = [
    requests("dailyRequestLimit", "daily_requests_exceeded", DAY),
    tokens("dailyTokenLimit", "daily_tokens_exceeded", DAY),
    requests("monthlyRequestLimit", "monthly_requests_exceeded", 31 * DAY),
    tokens("monthlyTokenLimit", "monthly_tokens_exceeded", 31 * DAY),
    requests("requestsPerMinuteLimit", "requests_per_minute_exceeded", MINUTE),
];

const fn requests(field: &'static str, code: &'static str, window: u64) -> Limit {
    Limit { field, code, counts_tokens: false, window }
}

const fn tokens(field: &'static str, code: &'static str, window: u64) -> Limit {
    Limit { field, code, counts_tokens: true, window }
}

/// A provider whose every call uses all it may, after a latency that the test turns.
struct Scene {
    gateway: Gateway,
    upstream: Upstream,
    latency_ms: Arc<AtomicU64>,
}

impl Scene {
    async fn new() -> Self {
        let latency_ms = Arc::new(AtomicU64::new(0));
        let turned = Arc::clone(&latency_ms);
        let upstream = Upstream::start(move |seen| {
            let latency = Duration::from_millis(turned.load(Ordering::Relaxed));
            let usage = most(seen.wants("stream"));
            reply(seen, usage, Duration::ZERO).after(latency)
        })
        .await;
        Self { gateway: Gateway::before(&upstream).await, upstream, latency_ms }
    }

    /// Streamed and not, instant and slow: each time with a new tenant.
    async fn rounds(&self, round: impl AsyncFn(bool)) {
        for (stream, latency_ms) in [(false, 0), (true, 0), (false, 200), (true, 200)] {
            self.latency_ms.store(latency_ms, Ordering::Relaxed);
            round(stream).await;
        }
    }

    /// Sends them all; what was answered to each, after as many as there is room for got through.
    async fn storm(&self, tenant: &Tenant, stream: bool) -> Vec<Refusal> {
        let before = self.upstream.count();
        let mut answers = storm(tenant, &chat(GPT_4O_MINI.model, MAX_TOKENS, stream)).await;
        assert_eq!(answers.len(), CALLS);
        answers.retain(|answer| answer.status != 200);
        assert_eq!(CALLS - answers.len(), 100, "calls answered; refused: {:?}", answers.first());
        assert_eq!(self.upstream.count() - before, 100, "calls that reached the provider");
        answers
    }
}

fn most(stream: bool) -> Usage {
    bound(&chat(GPT_4O_MINI.model, MAX_TOKENS, stream), MAX_TOKENS)
}

#[derive(Debug)]
struct Refusal {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Refusal {
    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map_or_else(|| panic!("no `{name}` on {self:?}"), |(_, value)| value)
    }

    fn retry_after(&self) -> u64 {
        self.header("retry-after").parse().expect("Retry-After is whole seconds")
    }

    #[track_caller]
    fn is(&self, status: u16, codes: &[&str]) -> Json {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("x-meteor-error-source"), "gateway");
        let error = Json::new(&self.body).at("error");
        let code = error.at("code").text();
        assert!(codes.contains(&code.as_str()), "{code} is none of {codes:?}: {error}");
        assert!(!error.at("message").text().is_empty());
        error
    }
}

async fn storm(tenant: &Tenant, body: &str) -> Vec<Refusal> {
    let tickets = Arc::new(AtomicUsize::new(0));
    let request = Request::chat(&tenant.key, body);
    let workers: Vec<_> = (0..ABREAST)
        .map(|_| {
            let (tickets, request, proxy) =
                (Arc::clone(&tickets), request.clone(), tenant.proxy.clone());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while tickets.fetch_add(1, Ordering::Relaxed) < CALLS {
                    let answer = request.send(&proxy).await;
                    let (status, headers) = (answer.status, answer.headers.clone());
                    answers.push(Refusal { status, headers, body: answer.text().await });
                }
                answers
            })
        })
        .collect();
    let mut answers = Vec::new();
    for worker in workers {
        answers.extend(worker.await.expect("no worker fails"));
    }
    answers
}

/// A minute in which a round fits as a whole.
async fn early_in_a_minute() {
    eventually("a minute begins", async || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let left = MINUTE - now.as_secs() % MINUTE;
        (left >= 20).then_some(())
    })
    .await;
}

async fn lets_exactly_100_through(limit: &Limit) {
    let scene = Scene::new().await;
    scene
        .rounds(async |stream| {
            if limit.window == MINUTE {
                early_in_a_minute().await;
            }
            let used = most(stream);
            let each = if limit.counts_tokens { used.total() } else { 1 };
            let quota = format!(r#"{{"{}":{}}}"#, limit.field, ROOM * each);
            let tenant = Tenant::new(&scene.gateway, 1_000_000_000_000, &quota).await;
            for refusal in scene.storm(&tenant, stream).await {
                refused_by(limit, &refusal, each);
            }
            let usage = tenant.usage().await;
            for part in ["dailyUsage", "monthlyUsage"] {
                let part = usage.at(part);
                assert_eq!(part.at("requestCount").count(), ROOM, "{part}");
                assert_eq!(part.at("tokenCount").count(), ROOM * used.total(), "{part}");
            }
            if limit.window == MINUTE {
                assert_eq!(usage.at("minuteUsage.requestCount").count(), ROOM, "{usage}");
            }
            tenant.at_rest().await;
            let spent = GPT_4O_MINI.cost(used) * i128::from(ROOM);
            let balance = tenant.wallet().await.at("balance").nano();
            assert_eq!(balance, 1_000_000_000_000 - spent, "the refused calls cost nothing");
        })
        .await;
}

#[track_caller]
fn refused_by(limit: &Limit, refusal: &Refusal, each: u64) {
    let error = refusal.is(429, &[limit.code]);
    let told = error.at("limit");
    assert!(!told.at("name").text().is_empty(), "{told}");
    assert_eq!(told.at("level").text(), "project", "{told}");
    assert_eq!(told.at("limit").count(), ROOM * each, "{told}");
    assert_eq!(told.at("requested").count(), each, "{told}");
    let taken = told.at("used").count() + told.at("held").count();
    assert!(taken + each > ROOM * each, "a refusal adds up: {told}");
    assert!(taken <= ROOM * each, "never beyond the limit: {told}");
    assert!(told.at("resetAt").text().ends_with('Z'), "{told}");
    assert!(told.find("transient").is_some(), "{told}");
    assert!((1..=limit.window).contains(&refusal.retry_after()), "{refusal:?}");
    refusal.header("ratelimit");
    refusal.header("ratelimit-policy");
    if limit.window == MINUTE {
        assert_eq!(error.at("type").text(), "rate_limit_error");
    } else {
        assert_eq!(error.at("type").text(), "insufficient_quota");
        assert_eq!(refusal.header("x-should-retry"), "false");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daily_request_limit_of_100_lets_exactly_100_through() {
    lets_exactly_100_through(&LIMITS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daily_token_limit_for_100_lets_exactly_100_through() {
    lets_exactly_100_through(&LIMITS[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monthly_request_limit_of_100_lets_exactly_100_through() {
    lets_exactly_100_through(&LIMITS[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monthly_token_limit_for_100_lets_exactly_100_through() {
    lets_exactly_100_through(&LIMITS[3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_limit_of_100_lets_exactly_100_through() {
    lets_exactly_100_through(&LIMITS[4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_fits_exactly_100_lets_exactly_100_through() {
    let scene = Scene::new().await;
    scene
        .rounds(async |stream| {
            let funds = GPT_4O_MINI.cost(most(stream)) * i128::from(ROOM);
            let tenant = Tenant::new(&scene.gateway, funds, "{}").await;
            for refusal in scene.storm(&tenant, stream).await {
                refused_by_the_wallet(&refusal);
            }
            tenant.at_rest().await;
            assert_eq!(tenant.wallet().await.at("balance").nano(), 0, "all was spent");
            assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), ROOM);
            assert_eq!(tenant.records().await.len(), 101, "one recharge and 100 debits");
        })
        .await;
}

/// Says what it needs, and never what there is: a key's holder need not know the balance.
#[track_caller]
fn refused_by_the_wallet(refusal: &Refusal) {
    let error = refusal.is(402, &["insufficient_balance", "balance_on_hold"]);
    assert_eq!(error.at("type").text(), "insufficient_quota");
    let told = error.find("limit").unwrap_or_else(|| error.clone());
    told.at("required");
    let on_hold = error.at("code").text() == "balance_on_hold";
    assert_eq!(told.at("transient").is_true(), on_hold, "{error}");
    assert_eq!(refusal.header("x-should-retry"), if on_hold { "true" } else { "false" });
    assert!(!on_hold || refusal.retry_after() <= MINUTE, "{refusal:?}");
    for secret in ["balance\":", "available", "frozen"] {
        assert!(!refusal.body.contains(secret), "the balance is nobody's business: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_holds_its_bound_in_money_and_tokens() {
    let upstream =
        Upstream::start(|seen| reply(seen, most(true), Duration::ZERO).but(0, Step::Stall)).await;
    let gateway = Gateway::before(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyTokenLimit":100000}"#).await;
    let body = chat(GPT_4O_MINI.model, MAX_TOKENS, true);
    let request = Request::chat(&tenant.key, &body);
    let proxy = tenant.proxy.clone();
    let call = tokio::spawn(async move { request.send(&proxy).await.text().await });
    upstream.reached(1).await;
    let used = bound(&body, MAX_TOKENS);
    let holds = tenant.holds().await;
    assert_eq!(holds.len(), 1, "{holds:?}");
    let cost = GPT_4O_MINI.cost(used);
    assert_eq!(holds[0].at("amount").nano(), cost, "{holds:?}");
    assert_eq!(holds[0].at("tokens").count(), used.total(), "{holds:?}");
    assert_eq!(holds[0].at("kind").text(), "Call");
    let wallet = tenant.wallet().await;
    assert_eq!(wallet.at("frozenAmount").nano(), cost, "{wallet}");
    assert_eq!(wallet.at("availableAmount").nano(), 1_000_000_000 - cost, "{wallet}");
    let usage = tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.heldTokens").count(), used.total(), "{usage}");
    assert_eq!(usage.at("quotaLimitRemaining.dailyTokens").count(), 100_000 - used.total());
    upstream.release();
    call.await.expect("the call ends");
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_limit_in_the_specified_order_names_itself() {
    let upstream = Upstream::start(|_| Plan::json(500, "{}")).await;
    let gateway = Gateway::before(&upstream).await;
    let tenant = Tenant::new(&gateway, 0, "{}").await;
    for first in 0..LIMITS.len() {
        let zeros: Vec<String> =
            LIMITS[first..].iter().map(|limit| format!(r#""{}":0"#, limit.field)).collect();
        tenant.quota(&format!("{{{}}}", zeros.join(","))).await;
        let answers = one(&tenant).await;
        answers.is(429, &[LIMITS[first].code]);
    }
    tenant.quota("{}").await;
    let error = one(&tenant).await.is(402, &["insufficient_balance"]);
    assert_eq!(error.at("type").text(), "insufficient_quota");
    let open = r#"{"dailyRequestLimit":0,"enforceQuota":false}"#;
    tenant.quota(open).await;
    one(&tenant).await.is(402, &["insufficient_balance"]);
    assert_eq!(upstream.count(), 0, "nothing that was refused reached the provider");
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
}

async fn one(tenant: &Tenant) -> Refusal {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, MAX_TOKENS, false));
    let answer = request.send(&tenant.proxy).await;
    let (status, headers) = (answer.status, answer.headers.clone());
    Refusal { status, headers, body: answer.text().await }
}
