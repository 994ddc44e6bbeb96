//! Runs the provider on a socket and reads its responses.

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
use crate::demo::provider::serve;
use crate::demo::vector;
use crate::tasks;

pub const CHAT: &str = "/v1/chat/completions";

pub struct TestProvider {
    pub address: SocketAddr,
    /// The provider shuts down when this is dropped.
    _shutdown: oneshot::Sender<()>,
}

pub struct ProviderResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    /// Whether the body was received completely.
    pub is_complete: bool,
    /// Time to the response headers, and from there to the end of the body.
    pub took: (Duration, Duration),
}

pub async fn start_provider() -> TestProvider {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (shutdown, shutdown_requested) = oneshot::channel();
    tasks::spawn("provider", serve(listener, shutdown_requested));
    TestProvider { address, _shutdown: shutdown }
}

impl TestProvider {
    pub async fn send(&self, request: Request<Full<Bytes>>) -> ProviderResponse {
        let stream = TcpStream::connect(self.address).await.expect("a listening socket");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.expect("an HTTP connection");
        tasks::spawn("client", connection);
        let started_at = clock::monotonic_now();
        let response = sender.send_request(request).await.expect("a response");
        let (to_headers, headers_at) = (clock::elapsed_since(started_at), clock::monotonic_now());
        let (parts, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        let is_complete = loop {
            match body.frame().await {
                Some(Ok(frame)) => bytes.extend(frame.into_data().expect("no trailers")),
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        let took = (to_headers, clock::elapsed_since(headers_at));
        let text = String::from_utf8(bytes).expect("UTF-8");
        ProviderResponse { status: parts.status, headers: parts.headers, text, is_complete, took }
    }

    pub async fn get(&self, path: &str) -> ProviderResponse {
        self.send(request(path, "")).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> ProviderResponse {
        self.send(request(path, &body.to_string())).await
    }

    /// Sends a chat completion in the OpenAI dialect.
    pub async fn chat(&self, prompt: &str, stream: bool) -> ProviderResponse {
        let body = json!({"model": "gpt-4o-mini", "stream": stream, "messages": messages(prompt)});
        self.post(CHAT, &body).await
    }
}

/// Builds a request, with the version header that the Anthropic dialect requires.
pub fn request(path: &str, body: &str) -> Request<Full<Bytes>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let mut request = Request::builder().method(method).uri(path).header("host", "provider");
    if path.starts_with("/v1/messages") {
        request = request.header("anthropic-version", "2023-06-01");
    }
    request.body(Full::from(body.to_owned())).expect("a request")
}

pub fn messages(prompt: &str) -> Value {
    json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}])
}

impl ProviderResponse {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// Splits a stream with this content type into events, which end with `blank_line`.
    pub fn events(&self, content_type: &str, blank_line: &str) -> Vec<&str> {
        assert_eq!(self.headers["content-type"], content_type);
        let mut events: Vec<&str> = self.text.split(blank_line).collect();
        assert_eq!(events.pop(), Some(""), "every event ends with a blank line");
        events
    }

    /// Returns the chunks of an OpenAI stream without the final `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events("text/event-stream; charset=utf-8", "\n\n");
        assert_eq!(events.pop(), Some("data: [DONE]"));
        events.into_iter().map(event_data).collect()
    }
}

/// Returns the JSON of the text's vector.
pub fn embedding_json(text: &str, dimensions: u64) -> String {
    serde_json::to_string(&vector::embed(text, dimensions)).expect("JSON")
}

/// Parses the data of an event.
pub fn event_data(event: &str) -> Value {
    let data = event.strip_prefix("data: ").expect("one line of data");
    serde_json::from_str(data).expect("JSON")
}
