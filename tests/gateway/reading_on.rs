//! An answer that is read on though its client has left: for how long, and what ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::client::Request;
use crate::leaving::{DIALECTS, Dialect, MAX_TOKENS, Scene, USAGE};
use crate::openai::{self, Usage};
use crate::price::GPT_4O_MINI;
use crate::served::{Place, Served, model, upstream};
use crate::upstream::{Plan, Seen, Step};
use crate::wait::{eventually, in_time};

/// For how long the gateway reads on where a test waits for it to give up.
const SHORT: (&str, &str) = ("METEOR__PROXY__DRAIN_AFTER_LEAVE_MS", "200");
const SHORT_TIME: Duration = Duration::from_millis(200);
const LONG: (&str, &str) = ("METEOR__PROXY__DRAIN_AFTER_LEAVE_MS", "60000");

fn of_path(seen: &Seen) -> Dialect {
    match &*seen.target {
        target if target.contains("/messages") => Dialect::Anthropic,
        target if target.contains("/models/") => Dialect::Gemini,
        _ => Dialect::OpenAi,
    }
}

/// The answer of the dialect that is spoken, which stalls before that event.
fn stall(before: usize) -> impl Fn(&Seen) -> Plan + Send + Sync {
    move |seen| Plan::stream(of_path(seen).events(), Duration::ZERO).but(before, Step::Stall)
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_does_not_show_is_read_on_for_though_the_mode_is_cancel() {
    for sent in [0, 1, 3] {
        let mut scene = Scene::new(stall(sent), "cancel", &[]).await;
        for dialect in DIALECTS {
            for model in ["thinking", "billing"] {
                scene.left(dialect, model, sent).await;
                scene.is_held().await;
                scene.go_on().await;
                scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_does_not_show_is_not_read_on_for_once_all_is_reported() {
    for dialect in DIALECTS {
        let told = dialect.told_after();
        let mut scene = Scene::new(stall(told), "cancel", &[LONG]).await;
        scene.left(dialect, "thinking", told).await;
        scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
        scene.upstream.left(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_anthropic_that_turns_thinking_on_is_read_on_for() {
    let mut scene = Scene::new(stall(3), "cancel", &[]).await;
    let thinking = r#"{"thinking":{"type":"enabled","budget_tokens":1024},"#;
    let body = Dialect::Anthropic.body("plain").replacen('{', thinking, 1);
    scene.left_with(Dialect::Anthropic, ("plain", &body), 3).await;
    scene.is_held().await;
    scene.go_on().await;
    scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_end_in_time_is_charged_the_hold() {
    for (mode, model) in [("drain", "plain"), ("cancel", "thinking")] {
        for sent in [0, 4] {
            let mut scene = Scene::new(stall(sent), mode, &[SHORT]).await;
            for dialect in DIALECTS {
                let leaving = scene.left(dialect, model, sent).await;
                let closed = scene.upstream.left(scene.calls - 1).await;
                assert!(SHORT_TIME <= closed.duration_since(leaving), "it is waited for");
                let log = scene.charged_the_hold(dialect, model).await;
                assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_runs_from_the_moment_when_the_client_left() {
    // The head comes after most of the time, the end never.
    let time = ("METEOR__PROXY__DRAIN_AFTER_LEAVE_MS", "1000");
    let late = |seen: &Seen| stall(2)(seen).after(Duration::from_millis(900));
    let mut scene = Scene::new(late, "drain", &[time]).await;
    let leaving = scene.left(Dialect::OpenAi, "plain", 0).await;
    let took = scene.upstream.left(0).await.duration_since(leaving);
    assert!(took < Duration::from_millis(1_800), "{took:?} is more than once the time");
    let log = scene.charged_the_hold(Dialect::OpenAi, "plain").await;
    assert_eq!(log.at("status").count(), 0, "its client saw none: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_all_there_is_charged_though_the_answer_does_not_end() {
    for dialect in DIALECTS {
        let told = dialect.told_after();
        let mut scene = Scene::new(stall(told), "drain", &[SHORT]).await;
        scene.left(dialect, "plain", told).await;
        scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_off_unheard_is_charged_the_hold() {
    for (sent, cut) in [(1, 1), (3, 3), (3, 5)] {
        let plan = move |seen: &Seen| stall(sent)(seen).but(cut, Step::Cut);
        let mut scene = Scene::new(plan, "drain", &[LONG]).await;
        for dialect in DIALECTS {
            scene.left(dialect, "plain", sent).await;
            scene.is_held().await;
            scene.go_on().await;
            scene.charged_the_hold(dialect, "plain").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_off_before_a_client_that_stays_is_charged_by_what_came() {
    let cut = |seen: &Seen| Plan::stream(of_path(seen).events(), Duration::ZERO).but(4, Step::Cut);
    for (mode, model) in [("drain", "plain"), ("cancel", "thinking")] {
        let mut scene = Scene::new(cut, mode, &[]).await;
        for dialect in DIALECTS {
            let body = dialect.body(model);
            let whole = scene.ask(dialect, (model, &body)).await.rest().await.1;
            assert!(!whole, "it broke off");
            let (usage, rule) = dialect.cost_after(model, 4);
            let log = scene.charged(usage, GPT_4O_MINI.cost(usage), rule).await;
            assert_eq!(log.at("outcome").text(), "Failed", "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_reports_is_charged_by_count_as_if_the_client_had_stayed() {
    let silent = |_: &Seen| {
        let events = openai::events(openai::WORDS, None);
        Plan::stream(events, Duration::ZERO).but(3, Step::Stall)
    };
    let mut scene = Scene::new(silent, "drain", &[LONG]).await;
    let body = Dialect::OpenAi.body("plain");
    scene.upstream.release();
    let whole = scene.ask(Dialect::OpenAi, ("plain", &body)).await.rest().await.1;
    assert!(whole, "it came to its end");
    let stayed = scene.go_on().await;
    let mut answer = scene.ask(Dialect::OpenAi, ("plain", &body)).await;
    assert!(answer.piece().await.expect("a whole piece").is_some());
    drop(answer);
    scene.turn().await;
    let left = scene.go_on().await;
    assert_eq!(left.at("outcome").text(), "Cancelled", "{left}");
    for log in [&stayed, &left] {
        assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
        assert_eq!(log.at("cost").nano(), stayed.at("cost").nano(), "{log}");
    }
}

/// What a client that has left before the answer begins pays for an upstream that does so.
async fn is_free(plan: impl Fn(&Seen) -> Plan + Send + Sync + 'static) {
    let mut scene = Scene::new(plan, "drain", &[LONG]).await;
    for dialect in DIALECTS {
        scene.left(dialect, "plain", 0).await;
        scene.is_held().await;
        let log = scene.go_on().await;
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
        assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    }
    assert_eq!(scene.tenant.records().await.len(), 1, "nothing but the recharge");
    let used = scene.tenant.usage().await.at("dailyUsage");
    assert_eq!(used.at("requestCount").count(), 3, "each has reached the provider: {used}");
    assert_eq!(used.at("tokenCount").count(), 0, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_client_has_left_is_free() {
    is_free(|_| Plan::json(500, openai::error()).but(0, Step::Stall)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_up_without_an_answer_is_free() {
    let silent = vec![Step::Stall, Step::Cut];
    is_free(move |_| Plan { steps: silent.clone(), ..Plan::json(200, "") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_further_upstream_is_tried_for_nobody() {
    let failing = |_: &Seen| Plan::json(500, openai::error()).but(0, Step::Stall);
    let mut scene = Scene::new(failing, "drain", &[LONG]).await;
    scene.left(Dialect::OpenAi, "either", 0).await;
    scene.is_held().await;
    let log = scene.go_on().await;
    assert_eq!(log.at("settledBy").text(), "none", "{log}");
    assert_eq!((log.at("attempts").count(), scene.upstream.count()), (1, 1), "{log}");
    assert_eq!(log.at("status").count(), 0, "its client saw none: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_its_call_was_forwarded_costs_nothing() {
    // Connections are opened there, and nobody answers a handshake.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = mute.local_addr().expect("a bound address").port();
    let rows = upstream("mute", &format!("https://127.0.0.1:{port}"))
        + &model("plain", "upstream = \"mute\"\nhidden_output = true");
    let served = Served::start(Place::new(&rows)).await;
    let tenant = served.tenant(1_000_000_000, "{}").await;
    let request = Request::chat(&tenant.key, Dialect::OpenAi.body("plain"));
    let proxy = tenant.proxy.clone();
    let call = tokio::spawn(async move { request.try_send(&proxy).await.is_ok() });
    let (_connecting, _) = in_time("a connection", mute.accept()).await.expect("a connection");
    call.abort();
    let log = eventually("the call ends at once", async || tenant.logs().await.pop()).await;
    assert_eq!(log.at("settledBy").text(), "none", "{log}");
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
    let duration = log.at("durationMs").count();
    assert!(duration < 4_000, "it does not wait for the connection: {log}");
    tenant.at_rest().await;
    let used = tenant.usage().await.at("dailyUsage");
    assert_eq!(used.at("requestCount").count(), 0, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_read_on_keeps_its_place() {
    let mut scene = Scene::new(stall(3), "drain", &[LONG]).await;
    scene.tenant.quota(r#"{"concurrentCallsLimit":1}"#).await;
    scene.left(Dialect::OpenAi, "plain", 3).await;
    let held = GPT_4O_MINI.cost(openai::bound(&Dialect::OpenAi.body("plain"), MAX_TOKENS));
    assert_eq!(scene.tenant.wallet().await.at("frozenAmount").nano(), held);
    let second = Request::chat(&scene.tenant.key, Dialect::OpenAi.body("plain"));
    assert_eq!(second.send(&scene.tenant.proxy).await.status, 429, "there is one place");
    scene.calls += 1;
    scene.go_on().await;
    let first = scene.tenant.logs().await.pop().expect("the first call");
    assert_eq!(first.at("cost").nano(), GPT_4O_MINI.cost(USAGE), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_one_piece_is_obeyed_alike() {
    const SENT: usize = 40;
    let plan = |_: &Seen| {
        let body = openai::completion(USAGE).into_bytes();
        let (first, rest) = body.split_at(SENT);
        let steps = vec![Step::Send(first.to_vec()), Step::Stall, Step::Send(rest.to_vec())];
        Plan { steps, ..Plan::json(200, "") }
    };
    for mode in ["cancel", "drain"] {
        let mut scene = Scene::new(plan, mode, &[LONG]).await;
        let body = openai::chat("plain", MAX_TOKENS, false);
        let mut answer = scene.ask(Dialect::OpenAi, ("plain", &body)).await;
        assert!(answer.piece().await.expect("a whole piece").is_some());
        drop(answer);
        if mode == "drain" {
            scene.turn().await;
            scene.go_on().await;
            scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
        } else {
            // Three bytes of either body are a token.
            let usage = Usage::of(body.len().div_ceil(3) as u64, SENT.div_ceil(3) as u64);
            scene.charged(usage, GPT_4O_MINI.cost(usage), "estimate").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_byte_has_left_and_is_read_on_for() {
    // More than the sockets between them can hold, in comments.
    let idle = ("METEOR__PROXY__CLIENT_IDLE_MS", "300");
    let comment = || format!(":{}\n\n", "x".repeat(1 << 20));
    let plan = move |_: &Seen| {
        let events = Dialect::OpenAi.events();
        let filled = (0..24).map(|_| comment()).chain(events);
        Plan::stream(filled, Duration::ZERO)
    };
    for (mode, is_read) in [("drain", true), ("cancel", false)] {
        let mut scene = Scene::new(plan, mode, &[idle, LONG]).await;
        let body = Dialect::OpenAi.body("plain");
        let answer = scene.ask(Dialect::OpenAi, ("plain", &body)).await;
        if is_read {
            scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
            assert!(scene.upstream.seen()[0].left.is_none(), "it was read to its end");
        } else {
            let usage = Usage::of(body.len().div_ceil(3) as u64, 0);
            scene.charged(usage, GPT_4O_MINI.cost(usage), "estimate").await;
            scene.upstream.left(0).await;
        }
        drop(answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_an_answer_that_is_read_on() {
    for sent in [0, 3] {
        let mut scene = Scene::new(stall(sent), "drain", &[LONG]).await;
        scene.left(Dialect::OpenAi, "plain", sent).await;
        scene.served.terminate();
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_millis(500) {
            assert!(scene.served.alive(), "it waits for the answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        scene.upstream.release();
        assert!(scene.served.ended().await.success());
        let scene = scene.again().await;
        scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_waits_no_longer_charges_the_hold() {
    let impatient = ("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    for sent in [0, 3] {
        let mut scene = Scene::new(stall(sent), "drain", &[LONG, impatient]).await;
        scene.left(Dialect::OpenAi, "plain", sent).await;
        scene.served.terminate();
        assert!(scene.served.ended().await.success());
        let scene = scene.again().await;
        scene.charged_the_hold(Dialect::OpenAi, "plain").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_waits_no_longer_charges_who_stays_by_what_came() {
    let impatient = ("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    let mut scene = Scene::new(stall(3), "drain", &[LONG, impatient]).await;
    let body = Dialect::OpenAi.body("plain");
    let answer = scene.ask(Dialect::OpenAi, ("plain", &body)).await;
    scene.turn().await;
    scene.served.terminate();
    assert!(scene.served.ended().await.success());
    drop(answer);
    let scene = scene.again().await;
    let (usage, rule) = Dialect::OpenAi.cost_after("plain", 3);
    scene.charged(usage, GPT_4O_MINI.cost(usage), rule).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_read_on_counts_as_a_connection() {
    let two = ("METEOR__PROXY__CONNECTIONS_MAX", "2");
    let mut scene = Scene::new(stall(3), "drain", &[LONG, two]).await;
    scene.left(Dialect::OpenAi, "plain", 3).await;
    let body = Dialect::OpenAi.body("plain");
    drop(scene.ask(Dialect::OpenAi, ("plain", &body)).await);
    let another = Request::get("/v1/limits").bearer(&scene.tenant.key);
    let answer = another.send(&scene.tenant.proxy);
    assert!(tokio::time::timeout(SHORT_TIME, answer).await.is_err(), "there is no room");
    scene.upstream.release();
    assert_eq!(in_time("room", another.send(&scene.tenant.proxy)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_charges_the_hold_of_whoever_had_left() {
    for sent in [0, 1, 4] {
        let mut scene = Scene::new(stall(sent), "drain", &[LONG]).await;
        scene.left(Dialect::OpenAi, "plain", sent).await;
        let scene = scene.again().await;
        scene.charged_the_hold(Dialect::OpenAi, "plain").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_charges_a_report_that_was_all_there() {
    for dialect in DIALECTS {
        let told = Arc::new(Notify::new());
        let tell = Arc::clone(&told);
        let plan = move |seen: &Seen| {
            let (tell, end) = (Arc::clone(&tell), dialect.told_after());
            let says_so = Step::Tell(Arc::new(move || tell.notify_one()));
            stall(3)(seen).but(end, says_so).but(end, Step::Wait(Duration::from_mins(1)))
        };
        let mut scene = Scene::new(plan, "drain", &[LONG]).await;
        scene.left(dialect, "plain", 3).await;
        scene.is_held().await;
        scene.upstream.release();
        in_time("the report", told.notified()).await;
        scene.turn().await;
        let scene = scene.again().await;
        scene.charged(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
    }
}
