//! Wall-clock steps, and ends of minutes, days and months during open calls.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use crate::harness::client::{Request, Response};
use crate::harness::fault_shim::FaultShim;
use crate::harness::json::Json;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, WORDS, chat, events, reply};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;

const FUNDS: i128 = 1_000_000_000_000;
const USAGE: Usage = Usage { prompt: 20, completion: 7, cached: 0, reasoning: 0 };
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// 2027-01-31T23:58:00Z, shortly before the end of a minute, a day and a month.
const BEFORE_MONTH_END_MS: i64 = 1_801_439_880_000;
/// 2027-03-01T01:00:00Z. Two hours earlier it is another day and another month.
const AFTER_MONTH_START_MS: i64 = 1_803_862_800_000;
/// Number of streams across midnight, unless `METEOR_STREAMS` is set.
const STREAMS: u64 = 200;

impl FaultShim {
    /// Sets the wall clock to this instant, from which it goes on.
    fn set_time(&self, instant_ms: i64) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        self.set_clock_offset_ms(
            instant_ms - i64::try_from(since.as_millis()).expect("a time in this age"),
        );
    }
}

/// Responds to calls of `plain` at once; streams of other models stall until released.
async fn start_upstream() -> Upstream {
    Upstream::start(|seen| {
        if seen.json().at("model").text() == "plain" {
            return reply(seen, USAGE, Duration::ZERO);
        }
        Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO).insert_step(2, Step::Stall)
    })
    .await
}

/// Starts a gateway at this instant with two upstreams, each with one streaming model.
async fn start_gateway_at(instant_ms: i64, providers: [&Upstream; 2]) -> (FaultShim, Server) {
    let [first_upstream, second_upstream] = providers.map(|provider| &*provider.url);
    let rows = upstream("first", first_upstream)
        + &upstream("second", second_upstream)
        + &model("plain", r#"upstream = "first""#)
        + &model("first", r#"upstream = "first""#)
        + &model("second", r#"upstream = "second""#);
    let (shim, config_dir) = FaultShim::install(ConfigDir::new(&rows));
    shim.set_time(instant_ms);
    let server = Server::start(config_dir).await;
    (shim, server)
}

async fn plain_call(tenant: &Tenant) -> FullResponse {
    tenant.call_to_end("plain", 30).await
}

/// Calls until the limit refuses; returns the number of admitted calls and the refusal.
async fn call_until_refused(tenant: &Tenant, code: &str) -> (usize, FullResponse) {
    for admitted in 0..1_000 {
        let response = plain_call(tenant).await;
        if response.status != 200 {
            response.assert_error(429, &[code]);
            return (admitted, response);
        }
    }
    panic!("no limit is reached");
}

/// The time in a call's id.
fn id_time_ms(id: &str) -> u64 {
    let digits: String = id.chars().filter(|letter| *letter != '-').take(12).collect();
    u64::from_str_radix(&digits, 16).expect("a UUID")
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_steps_neither_reset_limits_nor_lose_usage() {
    let provider = start_upstream().await;
    let (shim, mut server) = start_gateway_at(AFTER_MONTH_START_MS, [&provider, &provider]).await;
    let limits = r#"{"dailyRequestLimit":30,"monthlyRequestLimit":1000}"#;
    let tenant = server.tenant(FUNDS, limits).await;
    let mut ids = Vec::new();
    for step in [0, -2 * HOUR_MS, 0, -2 * HOUR_MS, MINUTE_MS] {
        shim.set_time(AFTER_MONTH_START_MS + step);
        for _ in 0..5 {
            let response = tenant.call("plain", 30).await;
            assert_eq!(response.status, 200);
            ids.push(response.id());
            assert!(response.text().await.ends_with("[DONE]\n\n"));
        }
        let usage = tenant.usage().await;
        let [day, month] = ["dailyUsage", "monthlyUsage"].map(|part| usage.at(part));
        assert_eq!(day.at("requestCount").count(), ids.len() as u64, "{usage}");
        assert_eq!(month.at("requestCount").count(), ids.len() as u64, "{usage}");
        assert_eq!(day.at("date").text(), "2027-03-01", "no day is repeated: {usage}");
    }
    assert!(ids.is_sorted_by_key(|id| id_time_ms(id)), "ids are in the order of calls: {ids:?}");
    let records = tenant.records().await;
    let times: Vec<_> = records.iter().map(|record| record.at("createdAt").text()).collect();
    assert!(times.iter().rev().is_sorted(), "the ledger is ordered by time: {times:?}");

    // Nor does a restart at an earlier time reset the limit.
    shim.set_time(AFTER_MONTH_START_MS - 2 * HOUR_MS);
    server.kill();
    let server = server.restart().await;
    let tenant = server.rebind(tenant);
    let (more, refusal) = call_until_refused(&tenant, "daily_requests_exceeded").await;
    assert_eq!(more, 5, "30 a day");
    assert!((1..=86_400 + 2 * 3_600).contains(&refusal.retry_after()), "{refusal:?}");
    shim.set_time(AFTER_MONTH_START_MS + HOUR_MS);
    assert_eq!(call_until_refused(&tenant, "daily_requests_exceeded").await.0, 0);
    assert_eq!(provider.request_count(), 30);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jumping_clock_serves_exactly_the_limit() {
    const LIMIT: usize = 300;
    let provider = start_upstream().await;
    let (shim, server) = start_gateway_at(AFTER_MONTH_START_MS, [&provider, &provider]).await;
    let tenant = server.tenant(FUNDS, &format!(r#"{{"dailyRequestLimit":{LIMIT}}}"#)).await;
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let tenant = tenant.clone();
        callers
            .spawn(async move { call_until_refused(&tenant, "daily_requests_exceeded").await.0 });
    }
    let mut steps = [-2, 0, -26, -1, 0, -800].into_iter().cycle();
    let mut admitted = 0;
    while !callers.is_empty() {
        shim.set_time(AFTER_MONTH_START_MS + steps.next().expect("a circle") * HOUR_MS);
        tokio::time::sleep(Duration::from_millis(10)).await;
        while let Some(calls) = callers.try_join_next() {
            admitted += calls.expect("a caller ends");
        }
    }
    assert_eq!((admitted, provider.request_count()), (LIMIT, LIMIT));
    let usage = tenant.usage().await.at("dailyUsage");
    assert_eq!(usage.at("requestCount").count(), LIMIT as u64, "{usage}");
    assert_eq!(usage.at("date").text(), "2027-03-01", "{usage}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_window_ends_after_a_backward_clock_step() {
    let provider = start_upstream().await;
    let (shim, server) = start_gateway_at(AFTER_MONTH_START_MS, [&provider, &provider]).await;
    let tenant = server.tenant(FUNDS, r#"{"requestsPerMinuteLimit":5}"#).await;
    // Three seconds before the end of the minute.
    shim.set_time(AFTER_MONTH_START_MS + 2 * MINUTE_MS - 3_000);
    let (first_upstream, refusal) =
        call_until_refused(&tenant, "requests_per_minute_exceeded").await;
    assert!(
        first_upstream == 5 && (1..=60).contains(&refusal.retry_after()),
        "{first_upstream} {refusal:?}"
    );
    shim.set_time(AFTER_MONTH_START_MS - 2 * HOUR_MS);
    let again = plain_call(&tenant).await;
    again.assert_error(429, &["requests_per_minute_exceeded"]);
    assert!((1..=60).contains(&again.retry_after()), "no two hours: {again:?}");
    eventually("the next minute", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (plain_call(&tenant).await.status == 200).then_some(())
    })
    .await;
    tenant.assert_settled().await;
}

/// Opens streams of this model, each to its first piece.
async fn open_streams(tenant: &Tenant, model: &str, streams: u64) -> Vec<Response> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..streams {
        if opening.len() == 64 {
            open.extend(opening.join_next().await.map(|response| response.expect("a stream")));
        }
        let request = Request::chat(&tenant.key, chat(model, 30, true));
        let proxy = tenant.proxy.clone();
        opening.spawn(async move {
            let mut response = request.send(&proxy).await;
            assert_eq!(response.status, 200);
            response.piece().await.expect("a whole piece").expect("a first event");
            response
        });
    }
    open.extend(opening.join_all().await);
    open
}

/// Usage of a day: settled requests and tokens, held requests.
async fn day_usage(tenant: &Tenant, date: Option<&str>) -> [u64; 3] {
    let query = date.map_or(String::new(), |date| format!("?date={date}"));
    let usage = tenant.get(&format!("/api/projects/{}/quota-usage{query}", tenant.project)).await;
    counts(&usage.at("dailyUsage"))
}

fn counts(part: &Json) -> [u64; 3] {
    ["requestCount", "tokenCount", "heldRequests"].map(|count| part.at(count).count())
}

/// Sets the reset day; returns the usage of the month that results.
async fn month_usage_from(tenant: &Tenant, day: u8, limit: u64) -> [u64; 3] {
    let quota = format!(r#"{{"monthlyRequestLimit":{limit},"customResetDay":{day}}}"#);
    tenant.set_quota(&quota).await;
    counts(&tenant.usage().await.at("monthlyUsage"))
}

/// Changes the reset day repeatedly during calls: no more calls are admitted than the limit leaves.
async fn toggle_reset_day_under_calls(tenant: &Tenant, limit: u64, left: usize) {
    let mut calls = JoinSet::new();
    for _ in 0..4 * left {
        let tenant = tenant.clone();
        calls.spawn(async move { plain_call(&tenant).await });
    }
    for day in [28, 15, 28, 15] {
        month_usage_from(tenant, day, limit).await;
    }
    let responses = calls.join_all().await;
    let admitted = responses.iter().filter(|response| response.status == 200).count();
    assert_eq!(admitted, left, "what the limit leaves");
    for refusal in responses.iter().filter(|response| response.status != 200) {
        refusal.assert_error(429, &["monthly_requests_exceeded"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_across_midnight_settle_in_the_period_of_admission() {
    const YESTERDAY: &str = "2027-01-31";
    const LEFT: usize = 5;
    let configured = std::env::var("METEOR_STREAMS").ok();
    let stream_count = configured
        .map_or(STREAMS, |stream_count| stream_count.parse().expect("METEOR_STREAMS is a number"));
    let (half, limit) = (stream_count / 2, stream_count / 2 * 2 + LEFT as u64);
    let (first_upstream, second_upstream) = (start_upstream().await, start_upstream().await);
    let (shim, mut server) =
        start_gateway_at(BEFORE_MONTH_END_MS, [&first_upstream, &second_upstream]).await;
    let quota = format!(r#"{{"monthlyRequestLimit":{limit},"customResetDay":15}}"#);
    let tenant = server.tenant(FUNDS, &quota).await;
    let mut finishing = open_streams(&tenant, "first", half).await;
    let orphans = open_streams(&tenant, "second", half).await;
    assert_eq!(day_usage(&tenant, None).await, [0, 0, 2 * half]);

    shim.set_time(BEFORE_MONTH_END_MS + 3 * MINUTE_MS);
    assert_eq!(day_usage(&tenant, None).await, [0; 3], "today is another day");
    first_upstream.release();
    for response in &mut finishing {
        let (rest, complete) = response.read_to_end().await;
        assert!(complete && rest.ends_with(b"[DONE]\n\n"), "the stream completes");
    }
    let tokens = half * USAGE.total();
    assert_eq!(day_usage(&tenant, Some(YESTERDAY)).await, [half, tokens, 0]);
    assert_eq!(day_usage(&tenant, None).await, [0; 3], "nothing is counted today");

    // The reset day may change in between: the sum over the same days stays the same.
    for _ in 0..3 {
        assert_eq!(month_usage_from(&tenant, 1, limit).await, [0; 3], "February");
        for since in [28, 15] {
            assert_eq!(
                month_usage_from(&tenant, since, limit).await,
                [half, tokens, half],
                "{since}"
            );
        }
    }
    toggle_reset_day_under_calls(&tenant, limit, LEFT).await;
    let left = LEFT as u64;
    let today = [left, left * USAGE.total(), 0];
    assert_eq!(day_usage(&tenant, None).await, today);

    server.kill();
    let server = server.restart().await;
    let tenant = server.rebind(tenant);
    for mut orphan in orphans {
        assert!(!orphan.read_to_end().await.1, "the stream is cut");
    }
    assert_eq!(
        day_usage(&tenant, Some(YESTERDAY)).await,
        [2 * half, tokens, 0],
        "each is yesterday's"
    );
    assert_eq!(day_usage(&tenant, None).await, today, "and not today's");
    for (since, month) in [(1, today), (15, [limit, tokens + today[1], 0])] {
        assert_eq!(month_usage_from(&tenant, since, limit).await, month, "{since}");
    }
    assert_eq!(call_until_refused(&tenant, "monthly_requests_exceeded").await.0, 0);
    tenant.assert_settled().await;
}
