//! Tests of the harness: the fake upstream and the client against each other.

use std::time::{Duration, Instant};

use crate::harness::client::Request;
use crate::harness::demo::assert_within;
use crate::harness::openai::{Usage, WORDS, completion, events, reply};
use crate::harness::upstream::{Plan, Step, Upstream};

const USAGE: Usage = Usage { prompt: 3, completion: 2, cached: 1, reasoning: 1 };
const SOON: Duration = Duration::from_millis(100);

fn host(upstream: &Upstream) -> &str {
    upstream.url.strip_prefix("http://").expect("plain HTTP")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_upstream_answers_as_requested() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::from_millis(1))).await;
    let send =
        async |body: &str| Request::post("/v1", body).send(host(&upstream)).await.text().await;
    assert_eq!(send("{}").await, completion(USAGE));
    assert_eq!(send(r#"{"stream":true}"#).await, events(WORDS, None).concat());
    let body = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
    assert_eq!(send(body).await, events(WORDS, Some(USAGE)).concat());
    assert_eq!(upstream.requests()[2].body, body);
    assert!(
        upstream.requests().iter().all(|seen| seen.disconnected_at.is_none()),
        "every response was read completely"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_upstream_reads_chunked_bodies() {
    let upstream = Upstream::start(|seen| Plan::json(200, seen.body.clone())).await;
    let chunked = Request::post("/v1", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    let response = chunked.header("transfer-encoding", "chunked").send(host(&upstream)).await;
    assert_eq!(response.text().await, "abcde");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnects_are_detected_during_stalls_and_waits() {
    let upstream = Upstream::start(|seen| {
        let pause = if seen.target == "/stall" { Step::Stall } else { Step::Wait(3 * SOON) };
        Plan::stream(events(WORDS, None), Duration::ZERO).insert_step(1, pause)
    })
    .await;
    for (index, target) in ["/stall", "/wait"].into_iter().enumerate() {
        let mut response = Request::post(target, "{}").send(host(&upstream)).await;
        response.piece().await.expect("whole").expect("a first event");
        let disconnected = Instant::now();
        drop(response);
        assert_within(
            SOON,
            disconnected,
            upstream.wait_for_disconnect(index).await,
            "detecting the disconnect",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_incomplete_and_release_ends_a_stall() {
    let upstream = Upstream::start(|seen| {
        let pause = if seen.target == "/cut" { Step::Cut } else { Step::Stall };
        Plan::stream(events(WORDS, None), Duration::ZERO).insert_step(2, pause)
    })
    .await;
    let (body, complete) =
        Request::post("/cut", "{}").send(host(&upstream)).await.read_to_end().await;
    assert_eq!((body, complete), (events(WORDS, None)[..2].concat().into_bytes(), false));
    let mut response = Request::post("/stall", "{}").send(host(&upstream)).await;
    response.piece().await.expect("whole").expect("a first event");
    upstream.release();
    assert!(response.read_to_end().await.1, "the rest arrives completely");
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_delays_the_response_head() {
    let upstream = Upstream::start(|_| Plan::json(200, "{}").with_latency(SOON)).await;
    let started = Instant::now();
    Request::post("/v1", "{}").send(host(&upstream)).await;
    assert!(started.elapsed() >= SOON, "the head arrived early");
}
