//! Long bodies on the one worker there is: whoever calls beside them is served all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, chat, completion, embeddings, reply};
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

const USAGE: Usage = Usage { prompt: 9, completion: 3, cached: 0, reasoning: 0 };
/// As many calls go on beside one whose body takes long to be looked through.
const CONCURRENT_CALLS_MIN: usize = 20;
const LARGE_BODY_BYTES: usize = 12 << 20;

/// A text of which every byte is looked at.
fn escapes(bytes: usize) -> String {
    r"\u00e9\n".repeat(bytes / 8)
}

fn plan(seen: &ReceivedRequest) -> Plan {
    match &*seen.json().at("model").text() {
        "verbose" => flooding_response(),
        "slow" => reply(seen, USAGE, Duration::ZERO).insert_step(0, Step::Stall),
        // The client has all but the blank line before the provider goes on.
        _ if seen.target.ends_with("/responses") => {
            let pieces = image_response_chunks();
            let sends = pieces.len();
            Plan::stream(pieces, Duration::ZERO).insert_step(sends - 1, Step::Stall)
        }
        _ if seen.target.ends_with("/embeddings") => Plan::json(200, embeddings(1, USAGE)),
        _ => reply(seen, USAGE, Duration::ZERO),
    }
}

/// An answer whose text goes on and on.
fn flooding_response() -> Plan {
    let whole = completion(USAGE);
    let (before, after) = whole.split_once("Hello").expect("it says so");
    let headers = vec![("content-type", "application/json".to_owned())];
    let text = Step::Repeat(escapes(1 << 20).into_bytes());
    let steps = vec![Step::Send(before.into()), text, Step::Send(after.into())];
    Plan { status: 200, headers, chunked: true, steps }
}

/// A response with an image, in pieces: its last event, which repeats that, is longer than any that
/// is kept, and its blank line is the last piece.
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
    _served: Served,
}

impl Fixture {
    async fn new() -> Self {
        let provider = Upstream::start(plan).await;
        let models = ["plain", "verbose", "slow"].map(|name| model(name, "upstream = \"a\""));
        let rows = upstream("a", &provider.url) + &models.concat();
        let served = Served::start(Place::new(&rows)).await;
        let tenant = served.tenant(1_000_000_000_000, "{}").await;
        Self { tenant, provider, _served: served }
    }

    async fn short_call(&self) {
        let request = Request::chat(&self.tenant.key, chat("plain", 9, false));
        assert_eq!(request.send(&self.tenant.proxy).await.status, 200);
    }

    /// Makes the call; tells how it was answered, and how many went on beside it, one at a time.
    async fn run_with_short_calls(&self, request: Request) -> (FullResponse, usize) {
        let done = Arc::new(AtomicBool::new(false));
        let (proxy, over) = (self.tenant.proxy.clone(), Arc::clone(&done));
        let long = tokio::spawn(async move {
            let told = FullResponse::read(request.send(&proxy).await).await;
            over.store(true, Ordering::SeqCst);
            told
        });
        let mut beside = 0;
        while !done.load(Ordering::SeqCst) {
            self.short_call().await;
            beside += 1;
        }
        (long.await.expect("it is answered"), beside)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_delays_no_other_call() {
    let scene = Fixture::new().await;
    let escapes = escapes(LARGE_BODY_BYTES);
    let numbers = "1234,".repeat(LARGE_BODY_BYTES / 5);
    let broken = chat("plain", 9, false).replacen("Say hello.", &escapes, 1) + "}";
    for (path, body, status) in [
        ("/v1/chat/completions", broken, 400),
        ("/v1/embeddings", format!(r#"{{"model":"plain","input":[{numbers}1]}}"#), 200),
    ] {
        let request = Request::post(path, body).bearer(&scene.tenant.key);
        let (told, beside) = scene.run_with_short_calls(request.clone()).await;
        assert_eq!(told.status, status, "{told:?}");
        assert!(CONCURRENT_CALLS_MIN <= beside, "{path}: only {beside} calls beside it");
        let once = request.header("idempotency-key", path);
        let (told, beside) = scene.run_with_short_calls(once).await;
        assert_eq!(told.status, status, "{told:?}");
        assert!(CONCURRENT_CALLS_MIN <= beside, "{path}, once: only {beside} calls beside it");
    }
    scene.tenant.assert_settled().await;
}

/// Near a limit a body is looked through for what it may ask for, and its tokens are counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_near_a_limit_delays_no_other_call() {
    let scene = Fixture::new().await;
    let body = chat("plain", 9, false).replacen("Say hello.", &escapes(LARGE_BODY_BYTES / 4), 1);
    let limit = body.len() - 1_000;
    scene.tenant.set_quota(&format!(r#"{{"dailyTokenLimit":{limit}}}"#)).await;
    let request = Request::chat(&scene.tenant.key, body);
    let (told, beside) = scene.run_with_short_calls(request).await;
    assert!([200, 429].contains(&told.status), "{told:?}");
    assert!(CONCURRENT_CALLS_MIN <= beside, "only {beside} calls beside it");
    scene.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_or_late_response_delays_no_other_call() {
    let scene = Fixture::new().await;
    let ask = |model: &str| Request::chat(&scene.tenant.key, chat(model, 9, false));
    let mut long = ask("verbose").send(&scene.tenant.proxy).await;
    let heard = tokio::spawn(async move {
        while long.piece().await.expect("it goes on").is_some() {}
        long.status
    });
    for _ in 0..CONCURRENT_CALLS_MIN {
        scene.short_call().await;
    }
    assert!(!heard.is_finished(), "it is long");
    scene.provider.release();
    assert_eq!(heard.await.expect("it ends"), 200);
    scene.provider.stall_again();
    let (late, proxy) = (ask("slow"), scene.tenant.proxy.clone());
    let before = scene.provider.request_count();
    let late = tokio::spawn(async move { late.send(&proxy).await.text().await });
    scene.provider.wait_for_requests(before + 1).await;
    for _ in 0..CONCURRENT_CALLS_MIN {
        scene.short_call().await;
    }
    assert!(!late.is_finished(), "it is late");
    scene.provider.release();
    late.await.expect("it comes");
    scene.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_response_is_settled_before_its_end_is_relayed() {
    let scene = Fixture::new().await;
    let (tenant, sent) = (&scene.tenant, image_response_chunks().concat());
    let body = r#"{"model":"plain","input":"Paint.","max_output_tokens":20,"stream":true}"#;
    let request = Request::post("/v1/responses", body).bearer(&tenant.key);
    let mut answer = request.send(&tenant.proxy).await;
    let (id, mut seen) = (answer.id(), Vec::new());
    while seen.len() < sent.len() - 2 {
        seen.extend(answer.piece().await.expect("it goes on").expect("there is more"));
    }
    // The provider is still to send the blank line.
    let log = tenant.log(&id).await;
    assert_eq!(log.at("settledBy").text(), "usage", "{log}");
    let counted = ["inputTokens", "outputTokens"].map(|unit| log.at("usage").at(unit).count());
    assert_eq!(counted, [USAGE.prompt, USAGE.completion], "{log}");
    tenant.assert_settled().await;
    scene.provider.release();
    let (rest, whole) = answer.read_to_end().await;
    seen.extend(rest);
    assert!(whole && seen == sent, "it passes byte for byte");
    assert_eq!(tenant.logs().await.len(), 1);
    tenant.assert_settled().await;
}
