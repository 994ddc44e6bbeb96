//! The provider on a socket, and what it answered.

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

pub struct Provider {
    pub address: SocketAddr,
    /// The provider ends with it.
    _stop: oneshot::Sender<()>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    /// Whether the body came to its end.
    pub whole: bool,
    /// From the request to the head, and from there to the end.
    pub took: (Duration, Duration),
}

pub async fn provider() -> Provider {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (stop, stopped) = oneshot::channel();
    tasks::spawn("provider", serve(listener, stopped));
    Provider { address, _stop: stop }
}

impl Provider {
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
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

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request(path, "")).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(request(path, &body.to_string())).await
    }

    /// A chat in the dialect that most speak.
    pub async fn say(&self, prompt: &str, stream: bool) -> Answer {
        let body = json!({"model": "gpt-4o-mini", "stream": stream, "messages": said(prompt)});
        self.post(CHAT, &body).await
    }
}

/// With the header that one dialect insists on.
pub fn request(path: &str, body: &str) -> Request<Full<Bytes>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let mut request = Request::builder().method(method).uri(path).header("host", "provider");
    if path.starts_with("/v1/messages") {
        request = request.header("anthropic-version", "2023-06-01");
    }
    request.body(Full::from(body.to_owned())).expect("a request")
}

pub fn said(prompt: &str) -> Value {
    json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}])
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// The events of a stream of that type, which end in such a blank line.
    pub fn events(&self, kind: &str, blank: &str) -> Vec<&str> {
        assert_eq!(self.headers["content-type"], kind);
        let mut events: Vec<&str> = self.text.split(blank).collect();
        assert_eq!(events.pop(), Some(""), "every event ends in a blank line");
        events
    }

    /// The chunks of a stream in the OpenAI dialect, without the last, which says that it is that.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events("text/event-stream; charset=utf-8", "\n\n");
        assert_eq!(events.pop(), Some("data: [DONE]"));
        events.into_iter().map(data).collect()
    }
}

/// The numbers of a text as they are written.
pub fn numbers(text: &str, dimensions: u64) -> String {
    serde_json::to_string(&vector::vector(text, dimensions)).expect("JSON")
}

/// What one line of data says.
pub fn data(event: &str) -> Value {
    let data = event.strip_prefix("data: ").expect("one line of data");
    serde_json::from_str(data).expect("JSON")
}
