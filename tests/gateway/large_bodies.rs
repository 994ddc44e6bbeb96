//! Large bodies on the single worker: concurrent short calls are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, chat, completion, embeddings, reply};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

const USAGE: Usage = Usage { prompt: 9, completion: 3, cached: 0, reasoning: 0 };
/// Minimum of short calls that complete while one large body is processed.
const CONCURRENT_CALLS_MIN: usize = 20;
const LARGE_BODY_BYTES: usize = 12 << 20;

/// A JSON text of escapes, of which every byte has to be decoded.
fn escapes(bytes: usize) -> String {
    r"\u00e9\n".repeat(bytes / 8)
}

fn plan(seen: &ReceivedRequest) -> Plan {
    match &*seen.json().at("model").text() {
        "verbose" => flooding_response(),
        "slow" => reply(seen, USAGE, Duration::ZERO).insert_step(0, Step::Stall),
        // The provider stalls before the final blank line.
        _ if seen.target.ends_with("/responses") => {
            let pieces = image_response_chunks();
            let sends = pieces.len();
            Plan::stream(pieces, Duration::ZERO).insert_step(sends - 1, Step::Stall)
        }
        _ if seen.target.ends_with("/embeddings") => Plan::json(200, embeddings(1, USAGE)),
        _ => reply(seen, USAGE, Duration::ZERO),
    }
}

/// A response whose text is sent until the test releases the provider.
fn flooding_response() -> Plan {
    let whole = completion(USAGE);
    let (before, after) = whole.split_once("Hello").expect("the text contains Hello");
    let headers = vec![("content-type", "application/json".to_owned())];
    let text = Step::Repeat(escapes(1 << 20).into_bytes());
    let steps = vec![Step::Send(before.into()), text, Step::Send(after.into())];
    Plan { status: 200, headers, chunked: true, steps }
}

/// A response stream with an image, in chunks. Its last event repeats the image and exceeds the
/// size up to which events are buffered; the last chunk is the final blank line.
fn image_response_chunks() -> Vec<Vec<u8>> {
    let image = "QUJD".repeat(LARGE_BODY_BYTES / 4);
    let created = r#"{"type":"response.created","response":{"id":"resp_1","usage":null}}"#;
    let items = format!(r#"[{{"type":"image_generation_call","result":"{image}"}}]"#);
    let usage = r#"{"input_tokens":9,"output_tokens":3,"total_tokens":12}"#;
    let completed = format!(
        r#"{{"type":"response.completed","response":{{"id":"resp_1","output":{items},"usage":{usage}}}}}"#
    );
    let events = format!(
        "event: response.created\ndata: {created}\n\nevent: response.completed\ndata: {completed}"
    );
    let pieces = events.as_bytes().chunks(100_000).map(<[u8]>::to_vec);
    pieces.chain([b"\n\n".to_vec()]).collect()
}

struct Fixture {
    tenant: Tenant,
    provider: Upstream,
    _served: Server,
}

impl Fixture {
    async fn new() -> Self {
        let provider = Upstream::start(plan).await;
        let models = ["plain", "verbose", "slow"].map(|name| model(name, "upstream = \"a\""));
        let rows = upstream("a", &provider.url) + &models.concat();
        let served = Server::start(ConfigDir::new(&rows)).await;
        let tenant = served.tenant(1_000_000_000_000, "{}").await;
        Self { tenant, provider, _served: served }
    }

    async fn short_call(&self) {
        let request = Request::chat(&self.tenant.key, chat("plain", 9, false));
        assert_eq!(request.send(&self.tenant.proxy).await.status, 200);
    }

    /// Makes the call. Returns its response and how many sequential short calls completed
    /// meanwhile.
    async fn run_with_short_calls(&self, request: Request) -> (FullResponse, usize) {
        let done = Arc::new(AtomicBool::new(false));
        let (proxy, is_done) = (self.tenant.proxy.clone(), Arc::clone(&done));
        let long = tokio::spawn(async move {
            let response = FullResponse::read(request.send(&proxy).await).await;
            is_done.store(true, Ordering::SeqCst);
            response
        });
        let mut short_calls = 0;
        while !done.load(Ordering::SeqCst) {
            self.short_call().await;
            short_calls += 1;
        }
        (long.await.expect("the call completes"), short_calls)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_delays_no_other_call() {
    let fixture = Fixture::new().await;
    let escapes = escapes(LARGE_BODY_BYTES);
    let numbers = "1234,".repeat(LARGE_BODY_BYTES / 5);
    let broken = chat("plain", 9, false).replacen("Say hello.", &escapes, 1) + "}";
    for (path, body, status) in [
        ("/v1/chat/completions", broken, 400),
        ("/v1/embeddings", format!(r#"{{"model":"plain","input":[{numbers}1]}}"#), 200),
    ] {
        let request = Request::post(path, body).bearer(&fixture.tenant.key);
        let (response, short_calls) = fixture.run_with_short_calls(request.clone()).await;
        assert_eq!(response.status, status, "{response:?}");
        assert!(CONCURRENT_CALLS_MIN <= short_calls, "{path}: only {short_calls} short calls");
        let with_key = request.header("idempotency-key", path);
        let (response, short_calls) = fixture.run_with_short_calls(with_key).await;
        assert_eq!(response.status, status, "{response:?}");
        assert!(
            CONCURRENT_CALLS_MIN <= short_calls,
            "{path}, with a key: only {short_calls} short calls"
        );
    }
    fixture.tenant.assert_settled().await;
}

/// Near a limit the gateway inspects the body for billable units and counts its tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_near_a_limit_delays_no_other_call() {
    let fixture = Fixture::new().await;
    let body = chat("plain", 9, false).replacen("Say hello.", &escapes(LARGE_BODY_BYTES / 4), 1);
    let limit = body.len() - 1_000;
    fixture.tenant.set_quota(&format!(r#"{{"dailyTokenLimit":{limit}}}"#)).await;
    let request = Request::chat(&fixture.tenant.key, body);
    let (response, short_calls) = fixture.run_with_short_calls(request).await;
    assert!([200, 429].contains(&response.status), "{response:?}");
    assert!(CONCURRENT_CALLS_MIN <= short_calls, "only {short_calls} short calls");
    fixture.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_or_late_response_delays_no_other_call() {
    let fixture = Fixture::new().await;
    let call_to = |model: &str| Request::chat(&fixture.tenant.key, chat(model, 9, false));
    let mut long = call_to("verbose").send(&fixture.tenant.proxy).await;
    let reading = tokio::spawn(async move {
        while long.piece().await.expect("the stream is not cut").is_some() {}
        long.status
    });
    for _ in 0..CONCURRENT_CALLS_MIN {
        fixture.short_call().await;
    }
    assert!(!reading.is_finished(), "the response is still being sent");
    fixture.provider.release();
    assert_eq!(reading.await.expect("the call ends"), 200);
    fixture.provider.stall_again();
    let (late, proxy) = (call_to("slow"), fixture.tenant.proxy.clone());
    let before = fixture.provider.request_count();
    let late = tokio::spawn(async move { late.send(&proxy).await.text().await });
    fixture.provider.wait_for_requests(before + 1).await;
    for _ in 0..CONCURRENT_CALLS_MIN {
        fixture.short_call().await;
    }
    assert!(!late.is_finished(), "the response is still pending");
    fixture.provider.release();
    late.await.expect("the call completes");
    fixture.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_response_is_settled_before_its_end_is_relayed() {
    let fixture = Fixture::new().await;
    let (tenant, sent) = (&fixture.tenant, image_response_chunks().concat());
    let body = r#"{"model":"plain","input":"Paint.","max_output_tokens":20,"stream":true}"#;
    let request = Request::post("/v1/responses", body).bearer(&tenant.key);
    let mut answer = request.send(&tenant.proxy).await;
    let (id, mut seen) = (answer.id(), Vec::new());
    while seen.len() < sent.len() - 2 {
        seen.extend(
            answer.piece().await.expect("the stream is not cut").expect("the stream has not ended"),
        );
    }
    // The provider has not sent the final blank line yet.
    let log = tenant.log(&id).await;
    assert_eq!(log.at("settledBy").text(), "usage", "{log}");
    let counted = ["inputTokens", "outputTokens"].map(|unit| log.at("usage").at(unit).count());
    assert_eq!(counted, [USAGE.prompt, USAGE.completion], "{log}");
    tenant.assert_settled().await;
    fixture.provider.release();
    let (rest, whole) = answer.read_to_end().await;
    seen.extend(rest);
    assert!(whole && seen == sent, "the stream passes byte for byte");
    assert_eq!(tenant.logs().await.len(), 1);
    tenant.assert_settled().await;
}
