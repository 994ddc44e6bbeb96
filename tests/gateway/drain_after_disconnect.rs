//! Draining a response after its client has disconnected: when, for how long, and what ends it.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::disconnect_every_event::{DIALECTS, Dialect, DisconnectFixture, MAX_TOKENS, USAGE};
use crate::harness::client::Request;
use crate::harness::openai;
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::upstream::{Plan, ReceivedRequest, Step};
use crate::harness::wait::{eventually, with_deadline};

/// The drain timeout of tests that wait for it to elapse.
const SHORT_DRAIN: (&str, &str) = ("METEOR__PROXY__DRAIN_AFTER_DISCONNECT_MS", "200");
const SHORT_DRAIN_TIME: Duration = Duration::from_millis(200);
pub const LONG_DRAIN: (&str, &str) = ("METEOR__PROXY__DRAIN_AFTER_DISCONNECT_MS", "60000");

fn dialect_of(seen: &ReceivedRequest) -> Dialect {
    match &*seen.target {
        target if target.contains("/messages") => Dialect::Anthropic,
        target if target.contains("/models/") => Dialect::Gemini,
        _ => Dialect::OpenAi,
    }
}

/// A response in the dialect of the request that stalls before event `before`.
pub fn stall_before(before: usize) -> impl Fn(&ReceivedRequest) -> Plan + Send + Sync {
    move |seen| {
        Plan::stream(dialect_of(seen).events(), Duration::ZERO).insert_step(before, Step::Stall)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_output_is_drained_even_in_cancel_mode() {
    for sent in [0, 1, 3] {
        let mut fixture = DisconnectFixture::new(stall_before(sent), "cancel", &[]).await;
        for dialect in DIALECTS {
            for model in ["thinking", "billing"] {
                fixture.disconnect_after(dialect, model, sent).await;
                fixture.wait_until_draining().await;
                fixture.resume_and_settle().await;
                fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_output_is_not_drained_after_usage_is_reported() {
    for dialect in DIALECTS {
        let events_until_usage = dialect.usage_reported_after();
        let mut fixture =
            DisconnectFixture::new(stall_before(events_until_usage), "cancel", &[LONG_DRAIN]).await;
        fixture.disconnect_after(dialect, "thinking", events_until_usage).await;
        fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
        fixture.upstream.wait_for_disconnect(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anthropic_call_with_thinking_is_drained() {
    let mut fixture = DisconnectFixture::new(stall_before(3), "cancel", &[]).await;
    let thinking = r#"{"thinking":{"type":"enabled","budget_tokens":1024},"#;
    let body = Dialect::Anthropic.body("plain").replacen('{', thinking, 1);
    fixture.disconnect_with_body(Dialect::Anthropic, ("plain", &body), 3).await;
    fixture.wait_until_draining().await;
    fixture.resume_and_settle().await;
    fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_timeout_charges_the_hold() {
    for (mode, model) in [("drain", "plain"), ("cancel", "thinking")] {
        for sent in [0, 4] {
            let mut fixture =
                DisconnectFixture::new(stall_before(sent), mode, &[SHORT_DRAIN]).await;
            for dialect in DIALECTS {
                let disconnected = fixture.disconnect_after(dialect, model, sent).await;
                let closed = fixture.upstream.wait_for_disconnect(fixture.calls - 1).await;
                assert!(
                    SHORT_DRAIN_TIME <= closed.duration_since(disconnected),
                    "the drain lasts for its timeout"
                );
                let log = fixture.assert_hold_charged(dialect, model).await;
                assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_timeout_starts_at_the_disconnect() {
    // The head comes after most of the timeout, the end never.
    let timeout = ("METEOR__PROXY__DRAIN_AFTER_DISCONNECT_MS", "1000");
    let late =
        |seen: &ReceivedRequest| stall_before(2)(seen).with_latency(Duration::from_millis(900));
    let mut fixture = DisconnectFixture::new(late, "drain", &[timeout]).await;
    let disconnected = fixture.disconnect_after(Dialect::OpenAi, "plain", 0).await;
    let took = fixture.upstream.wait_for_disconnect(0).await.duration_since(disconnected);
    assert!(took < Duration::from_millis(1_800), "{took:?} is longer than one timeout");
    let log = fixture.assert_hold_charged(Dialect::OpenAi, "plain").await;
    assert_eq!(log.at("status").count(), 0, "the client received no status: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_usage_is_charged_even_if_the_drain_times_out() {
    for dialect in DIALECTS {
        let events_until_usage = dialect.usage_reported_after();
        let mut fixture =
            DisconnectFixture::new(stall_before(events_until_usage), "drain", &[SHORT_DRAIN]).await;
        fixture.disconnect_after(dialect, "plain", events_until_usage).await;
        fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_cut_during_a_drain_charges_the_hold() {
    for (sent, cut) in [(1, 1), (3, 3), (3, 5)] {
        let plan =
            move |seen: &ReceivedRequest| stall_before(sent)(seen).insert_step(cut, Step::Cut);
        let mut fixture = DisconnectFixture::new(plan, "drain", &[LONG_DRAIN]).await;
        for dialect in DIALECTS {
            fixture.disconnect_after(dialect, "plain", sent).await;
            fixture.wait_until_draining().await;
            fixture.resume_and_settle().await;
            fixture.assert_hold_charged(dialect, "plain").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_cut_of_a_connected_client_charges_received_output() {
    let cut = |seen: &ReceivedRequest| {
        Plan::stream(dialect_of(seen).events(), Duration::ZERO).insert_step(4, Step::Cut)
    };
    for (mode, model) in [("drain", "plain"), ("cancel", "thinking")] {
        let mut fixture = DisconnectFixture::new(cut, mode, &[]).await;
        for dialect in DIALECTS {
            let body = dialect.body(model);
            let is_complete =
                fixture.start_call(dialect, (model, &body)).await.read_to_end().await.1;
            assert!(!is_complete, "the response was cut");
            let (usage, rule) = dialect.usage_after(model, 4);
            let log = fixture.assert_charge(usage, GPT_4O_MINI.cost(usage), rule).await;
            assert_eq!(log.at("outcome").text(), "Failed", "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_usage_is_estimated_like_a_connected_call() {
    let silent = |_: &ReceivedRequest| {
        let events = openai::events(openai::WORDS, None);
        Plan::stream(events, Duration::ZERO).insert_step(3, Step::Stall)
    };
    let mut fixture = DisconnectFixture::new(silent, "drain", &[LONG_DRAIN]).await;
    let body = Dialect::OpenAi.body("plain");
    fixture.upstream.release();
    let is_complete =
        fixture.start_call(Dialect::OpenAi, ("plain", &body)).await.read_to_end().await.1;
    assert!(is_complete, "the response completed");
    let connected = fixture.resume_and_settle().await;
    let mut answer = fixture.start_call(Dialect::OpenAi, ("plain", &body)).await;
    assert!(answer.piece().await.expect("a whole piece").is_some());
    drop(answer);
    fixture.yield_to_worker().await;
    let disconnected = fixture.resume_and_settle().await;
    assert_eq!(disconnected.at("outcome").text(), "Cancelled", "{disconnected}");
    for log in [&connected, &disconnected] {
        assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
        assert_eq!(log.at("cost").nano(), connected.at("cost").nano(), "{log}");
    }
}

/// Asserts that a client that disconnects before the response pays nothing for this plan.
async fn assert_free(plan: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static) {
    let mut fixture = DisconnectFixture::new(plan, "drain", &[LONG_DRAIN]).await;
    for dialect in DIALECTS {
        fixture.disconnect_after(dialect, "plain", 0).await;
        fixture.wait_until_draining().await;
        let log = fixture.resume_and_settle().await;
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
        assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    }
    assert_eq!(fixture.tenant.records().await.len(), 1, "nothing but the recharge");
    let used = fixture.tenant.usage().await.at("dailyUsage");
    assert_eq!(used.at("requestCount").count(), 3, "each request reached the provider: {used}");
    assert_eq!(used.at("tokenCount").count(), 0, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_error_after_a_disconnect_is_free() {
    assert_free(|_| Plan::json(500, openai::error()).insert_step(0, Step::Stall)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_closing_without_a_response_is_free() {
    let silent = vec![Step::Stall, Step::Cut];
    assert_free(move |_| Plan { steps: silent.clone(), ..Plan::json(200, "") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_further_upstream_is_tried_after_a_disconnect() {
    let failing =
        |_: &ReceivedRequest| Plan::json(500, openai::error()).insert_step(0, Step::Stall);
    let mut fixture = DisconnectFixture::new(failing, "drain", &[LONG_DRAIN]).await;
    fixture.disconnect_after(Dialect::OpenAi, "either", 0).await;
    fixture.wait_until_draining().await;
    let log = fixture.resume_and_settle().await;
    assert_eq!(log.at("settledBy").text(), "none", "{log}");
    assert_eq!((log.at("attempts").count(), fixture.upstream.request_count()), (1, 1), "{log}");
    assert_eq!(log.at("status").count(), 0, "the client received no status: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_before_forwarding_costs_nothing() {
    // A listener that accepts connections but never answers a TLS handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound address").port();
    let rows = upstream("mute", &format!("https://127.0.0.1:{port}"))
        + &model("plain", "upstream = \"mute\"\nhidden_output = true");
    let served = Server::start(ConfigDir::new(&rows)).await;
    let tenant = served.tenant(1_000_000_000, "{}").await;
    let request = Request::chat(&tenant.key, Dialect::OpenAi.body("plain"));
    let proxy = tenant.proxy.clone();
    let call = tokio::spawn(async move { request.try_send(&proxy).await.is_ok() });
    let (_connecting, _) =
        with_deadline("a connection", listener.accept()).await.expect("a connection");
    call.abort();
    let log = eventually("the call ends at once", async || tenant.logs().await.pop()).await;
    assert_eq!(log.at("settledBy").text(), "none", "{log}");
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
    let duration = log.at("durationMs").count();
    assert!(duration < 4_000, "the call does not wait for the connection: {log}");
    tenant.assert_settled().await;
    let used = tenant.usage().await.at("dailyUsage");
    assert_eq!(used.at("requestCount").count(), 0, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_call_keeps_its_concurrency_slot() {
    let mut fixture = DisconnectFixture::new(stall_before(3), "drain", &[LONG_DRAIN]).await;
    fixture.tenant.set_quota(r#"{"concurrentCallsLimit":1}"#).await;
    fixture.disconnect_after(Dialect::OpenAi, "plain", 3).await;
    let held = GPT_4O_MINI.cost(openai::bound(&Dialect::OpenAi.body("plain"), MAX_TOKENS));
    assert_eq!(fixture.tenant.wallet().await.at("frozenAmount").nano(), held);
    let second = Request::chat(&fixture.tenant.key, Dialect::OpenAi.body("plain"));
    assert_eq!(second.send(&fixture.tenant.proxy).await.status, 429, "the single slot is occupied");
    fixture.calls += 1;
    fixture.resume_and_settle().await;
    let first = fixture.tenant.logs().await.pop().expect("the first call");
    assert_eq!(first.at("cost").nano(), GPT_4O_MINI.cost(USAGE), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_response_follows_the_disconnect_mode() {
    const SENT: usize = 40;
    let plan = |_: &ReceivedRequest| {
        let body = openai::completion(USAGE).into_bytes();
        let (first, rest) = body.split_at(SENT);
        let steps = vec![Step::Send(first.to_vec()), Step::Stall, Step::Send(rest.to_vec())];
        Plan { steps, ..Plan::json(200, "") }
    };
    for mode in ["cancel", "drain"] {
        let mut fixture = DisconnectFixture::new(plan, mode, &[LONG_DRAIN]).await;
        let body = openai::chat("plain", MAX_TOKENS, false);
        let mut answer = fixture.start_call(Dialect::OpenAi, ("plain", &body)).await;
        assert!(answer.piece().await.expect("a whole piece").is_some());
        drop(answer);
        if mode == "drain" {
            fixture.yield_to_worker().await;
            fixture.resume_and_settle().await;
            fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
        } else {
            // Three bytes of either body count as one token.
            let usage = Usage::of(body.len().div_ceil(3) as u64, SENT.div_ceil(3) as u64);
            fixture.assert_charge(usage, GPT_4O_MINI.cost(usage), "estimate").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_counts_as_disconnected() {
    // More bytes of comments than the sockets can buffer.
    let idle = ("METEOR__PROXY__CLIENT_IDLE_MS", "300");
    let comment = || format!(":{}\n\n", "x".repeat(1 << 20));
    let plan = move |_: &ReceivedRequest| {
        let events = Dialect::OpenAi.events();
        let filled = (0..24).map(|_| comment()).chain(events);
        Plan::stream(filled, Duration::ZERO)
    };
    for (mode, is_read) in [("drain", true), ("cancel", false)] {
        let mut fixture = DisconnectFixture::new(plan, mode, &[idle, LONG_DRAIN]).await;
        let body = Dialect::OpenAi.body("plain");
        let answer = fixture.start_call(Dialect::OpenAi, ("plain", &body)).await;
        if is_read {
            fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
            assert!(
                fixture.upstream.requests()[0].disconnected_at.is_none(),
                "the response was drained"
            );
        } else {
            let usage = Usage::of(body.len().div_ceil(3) as u64, 0);
            fixture.assert_charge(usage, GPT_4O_MINI.cost(usage), "estimate").await;
            fixture.upstream.wait_for_disconnect(0).await;
        }
        drop(answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_call_counts_as_a_connection() {
    let two_connections = ("METEOR__PROXY__CONNECTIONS_MAX", "2");
    let mut fixture =
        DisconnectFixture::new(stall_before(3), "drain", &[LONG_DRAIN, two_connections]).await;
    fixture.disconnect_after(Dialect::OpenAi, "plain", 3).await;
    let body = Dialect::OpenAi.body("plain");
    drop(fixture.start_call(Dialect::OpenAi, ("plain", &body)).await);
    let another = Request::get("/v1/limits").bearer(&fixture.tenant.key);
    let answer = another.send(&fixture.tenant.proxy);
    assert!(
        tokio::time::timeout(SHORT_DRAIN_TIME, answer).await.is_err(),
        "the connection limit is reached"
    );
    fixture.upstream.release();
    assert_eq!(
        with_deadline("a free connection", another.send(&fixture.tenant.proxy)).await.status,
        200
    );
}
