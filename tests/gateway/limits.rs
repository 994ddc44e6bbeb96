//! Limits are exact: of 400 calls 64 abreast against room for 100, exactly 100 reach the provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Request;
use crate::gateway::Gateway;
use crate::openai::{Usage, bound, chat, reply};
use crate::price::GPT_4O_MINI;
use crate::refusals::{DAY, LIMITS, Limit, MINUTE, Told};
use crate::tenant::Tenant;
use crate::upstream::Upstream;
use crate::wait::eventually;

const CALLS: usize = 400;
const ABREAST: usize = 64;
const ROOM: u64 = 100;
const MAX_TOKENS: u64 = 20;

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
    async fn storm(&self, tenant: &Tenant, stream: bool) -> Vec<Told> {
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

async fn storm(tenant: &Tenant, body: &str) -> Vec<Told> {
    let tickets = Arc::new(AtomicUsize::new(0));
    let request = Request::chat(&tenant.key, body);
    let workers: Vec<_> = (0..ABREAST)
        .map(|_| {
            let (tickets, request, proxy) =
                (Arc::clone(&tickets), request.clone(), tenant.proxy.clone());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while tickets.fetch_add(1, Ordering::Relaxed) < CALLS {
                    answers.push(Told::by(request.send(&proxy).await).await);
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

/// Waits until a round fits into the window as a whole.
async fn early_in(window: u64) {
    eventually("a window begins", async || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let window = window.min(DAY);
        (window - now.as_secs() % window >= 20).then_some(())
    })
    .await;
}

async fn lets_exactly_100_through(limit: &Limit) {
    let scene = Scene::new().await;
    scene
        .rounds(async |stream| {
            early_in(limit.window).await;
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
fn refused_by(limit: &Limit, refusal: &Told, each: u64) {
    let error = refusal.is(429, &[limit.code]);
    let told = error.at("limit");
    assert!(!told.at("name").text().is_empty(), "{told}");
    assert_eq!(told.at("level").text(), "project", "{told}");
    assert_eq!(told.at("limit").count(), ROOM * each, "{told}");
    // Before it is refused, a call's input is counted: its tokens are fewer than its bytes.
    let requested = told.at("requested").count();
    assert!((1..=each).contains(&requested), "{told}");
    let taken = told.at("used").count() + told.at("held").count();
    assert!(taken + each > ROOM * each, "a refusal adds up: {told}");
    assert!(taken <= ROOM * each, "never beyond the limit: {told}");
    assert!(told.at("resetAt").text().ends_with('Z'), "{told}");
    let transient = told.at("transient").is_true();
    assert!((1..=limit.window).contains(&refusal.retry_after()), "{refusal:?}");
    refusal.header("ratelimit");
    refusal.header("ratelimit-policy");
    if limit.window == MINUTE {
        assert_eq!(error.at("type").text(), "rate_limit_error");
    } else {
        assert_eq!(error.at("type").text(), "insufficient_quota");
        // What calls in flight hold may come back; what is used does not.
        assert_eq!(refusal.header("x-should-retry"), if transient { "true" } else { "false" });
        assert!(!transient || refusal.retry_after() == 1, "{refusal:?}");
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
fn refused_by_the_wallet(refusal: &Told) {
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
