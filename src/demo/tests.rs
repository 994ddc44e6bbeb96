//! The built-in provider through a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::clock;
use crate::demo::prose;
use crate::demo::provider::serve;
use crate::tasks;

const CHAT: &str = "/v1/chat/completions";

struct Provider {
    address: SocketAddr,
    /// The provider ends with it.
    _stop: oneshot::Sender<()>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    /// Whether the body came to its end.
    whole: bool,
    /// From the request to the head, and from there to the end.
    took: (Duration, Duration),
}

async fn provider() -> Provider {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (stop, stopped) = oneshot::channel();
    tasks::spawn("provider", serve(listener, stopped));
    Provider { address, _stop: stop }
}

impl Provider {
    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        tasks::spawn("client", connection);
        let asked = clock::tick();
        let answer = sender.send_request(request).await.expect("a head");
        let (head, answered) = (clock::since(asked), clock::tick());
        let (parts, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        let whole = loop {
            match body.frame().await {
                Some(Ok(frame)) => bytes.extend(frame.into_data().expect("no trailers")),
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        let took = (head, clock::since(answered));
        let text = String::from_utf8(bytes).expect("UTF-8");
        Answer { status: parts.status, headers: parts.headers, text, whole, took }
    }

    async fn ask(&self, body: Value) -> Answer {
        self.send(request(CHAT, &body.to_string())).await
    }

    async fn say(&self, prompt: &str, stream: bool) -> Answer {
        self.ask(json!({"model": "gpt-4o-mini", "stream": stream, "messages": said(prompt)})).await
    }
}

fn request(path: &str, body: &str) -> Request<Full<Bytes>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "provider")
        .body(Full::from(body.to_owned()))
        .expect("a request")
}

fn said(prompt: &str) -> Value {
    json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}])
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// The events of a stream, without the last, which says that it is the last.
    fn chunks(&self) -> Vec<Value> {
        let kind = &self.headers["content-type"];
        assert_eq!(kind, "text/event-stream; charset=utf-8");
        let mut events: Vec<&str> = self.text.split("\n\n").collect();
        assert_eq!(events.pop(), Some(""), "every event ends in a blank line");
        assert_eq!(events.pop(), Some("data: [DONE]"));
        events
            .into_iter()
            .map(|event| event.strip_prefix("data: ").expect("one line of data"))
            .map(|data| serde_json::from_str(data).expect("JSON"))
            .collect()
    }

    fn error(&self) -> (u16, Value) {
        assert!(self.whole && self.headers.contains_key("x-request-id"));
        (self.status.as_u16(), self.json()["error"].clone())
    }
}

fn text_of(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_completion_looks_like_a_real_one() {
    let answer = provider().await.say("Say hello.", false).await;
    assert_eq!((answer.status, answer.whole), (StatusCode::OK, true));
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["content-length"], answer.text.len().to_string().as_str());
    assert!(answer.text.starts_with(r#"{"id":"chatcmpl-"#), "{}", answer.text);
    let body = answer.json();
    assert_eq!(
        (&body["object"], &body["model"]),
        (&json!("chat.completion"), &json!("gpt-4o-mini"))
    );
    assert!(1_700_000_000 < body["created"].as_i64().expect("a time"));
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let text: String = prose::tokens(prose::usual_tokens()).collect();
    assert_eq!(choice["message"]["content"], text);
    // 3 for the prompt, 4 a message, 3 for each of the two texts.
    assert_eq!(body["usage"]["prompt_tokens"], 17);
    assert_eq!(body["usage"]["completion_tokens"], prose::usual_tokens());
    assert_eq!(body["usage"]["total_tokens"], 17 + prose::usual_tokens());
}

#[tokio::test]
async fn a_stream_says_the_same_a_few_tokens_at_a_time() {
    let provider = provider().await;
    let whole = provider.say("Say hello.", false).await.json();
    let chunks = provider.say("Say hello.", true).await.chunks();
    assert_eq!(text_of(&chunks), whole["choices"][0]["message"]["content"]);
    let first = &chunks[0];
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role":"assistant","content":"","refusal":null})
    );
    assert!(chunks.iter().all(|chunk| chunk["id"] == first["id"]));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked");
    let last = chunks.last().expect("a last chunk");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({}));
}

#[tokio::test]
async fn a_stream_tells_its_usage_when_asked_to() {
    let provider = provider().await;
    let body = json!({"model": "gpt-4o", "messages": said("x"), "stream": true,
        "stream_options": {"include_usage": true}, "max_completion_tokens": 5});
    let chunks = provider.ask(body).await.chunks();
    let (last, others) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 5);
    for other in others {
        assert_eq!(other.get("usage"), Some(&Value::Null));
    }
    assert_eq!(others.last().expect("a finish")["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn bounds_and_choices_are_kept_and_counted() {
    let provider = provider().await;
    for (bound, model, thought) in
        [("max_tokens", "gpt-4o", 0), ("max_completion_tokens", "o4-mini", 10)]
    {
        let body = json!({"model": model, "messages": said("/tokens 50"), bound: 20, "n": 3});
        let answer = provider.ask(body).await.json();
        assert_eq!(answer["choices"].as_array().map(Vec::len), Some(3));
        assert_eq!(answer["choices"][2]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 60);
        let parts = &answer["usage"]["completion_tokens_details"];
        assert_eq!(parts["reasoning_tokens"], 3 * thought);
    }
    let asked = provider.say("/tokens 100 /input 1000 /cached 400 /think 7", false).await.json();
    assert_eq!(asked["usage"]["prompt_tokens"], 1000);
    assert_eq!(asked["usage"]["prompt_tokens_details"]["cached_tokens"], 400);
    assert_eq!(asked["usage"]["completion_tokens"], 107);
    assert_eq!(asked["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn waits_are_where_they_were_asked_for() {
    let provider = provider().await;
    let late = provider.say("/slow 80ms hello", true).await;
    assert!(late.whole && Duration::from_millis(80) <= late.took.0);
    assert!(late.took.1 < Duration::from_millis(80), "only the head is late");
    let slow = provider.say("/chunk 10ms /tokens 16", true).await;
    // A role, eight chunks, a finish, an end: ten pauses.
    assert_eq!(slow.chunks().len(), 10);
    assert!(slow.took.0 < Duration::from_millis(80) && Duration::from_millis(100) <= slow.took.1);
}

#[tokio::test]
async fn a_cut_is_no_end_and_a_stall_none_either() {
    let provider = provider().await;
    for stream in [true, false] {
        let cut = provider.say("/cut", stream).await;
        assert_eq!((cut.status, cut.whole), (StatusCode::OK, false));
        assert!(!cut.text.is_empty() && !cut.text.contains("[DONE]"));
        let stalled = provider.say("/stall", stream);
        assert!(tokio::time::timeout(Duration::from_millis(100), stalled).await.is_err());
    }
}

#[tokio::test]
async fn usage_can_be_left_out() {
    let provider = provider().await;
    assert!(provider.say("/nousage", false).await.json().get("usage").is_none());
    let body = json!({"model": "m", "messages": said("/nousage"), "stream": true,
        "stream_options": {"include_usage": true}});
    let chunks = provider.ask(body).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn errors_are_told_in_the_words_of_the_real_one() {
    let provider = provider().await;
    let answer = provider.say("/error 429 please", true).await;
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.error().1["code"], "rate_limit_exceeded");
    for status in [400_u16, 401, 403, 404, 500, 503, 529] {
        let answer = provider.say(&format!("/error {status}"), false).await;
        assert_eq!(answer.error().0, status);
    }
    let of = async |body: &str| provider.send(request(CHAT, body)).await.error();
    assert_eq!(of("{").await.0, 400);
    assert_eq!(of(r#"{"messages":[]}"#).await.1["message"], "you must provide a model parameter");
    assert_eq!(of(r#"{"model":"m"}"#).await.1["param"], "messages");
    assert_eq!(of(r#"{"model":"m","messages":[]}"#).await.1["code"], "empty_array");
    let bad = json!({"model": "m", "messages": said("x"), "max_tokens": 0}).to_string();
    assert_eq!(of(&bad).await.1["param"], "max_tokens");
    let unknown = json!({"model": "m", "messages": said("/tokens many")}).to_string();
    assert_eq!(of(&unknown).await.1["code"], "invalid_demo_command");
    assert_eq!(provider.send(request("/v1/nothing", "{}")).await.error().0, 404);
}

#[tokio::test]
async fn headers_ask_as_words_do() {
    let mut asked = request(CHAT, &json!({"model": "m", "messages": said("x")}).to_string());
    asked.headers_mut().insert("x-demo-status", "503".parse().expect("a value"));
    assert_eq!(provider().await.send(asked).await.error().0, 503);
}

#[tokio::test]
async fn models_are_listed() {
    let provider = provider().await;
    let list = provider.send(request("/v1/models", "")).await.json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(10));
    let one = provider.send(request("/v1/models/gpt-4o", "")).await.json();
    assert_eq!(one["id"], "gpt-4o");
    assert_eq!(provider.send(request("/v1/models/none", "")).await.error().0, 404);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tasks::spawn("provider", serve(listener, stopped));
    let idle = TcpStream::connect(address).await.expect("it listens");
    drop(stop);
    served.await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
}
