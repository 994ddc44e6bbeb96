//! Client connections: sequential and pipelined requests, reuse after errors, and half-closing.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, WORDS, chat, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::{eventually, with_deadline};

const USAGE: Usage = Usage { prompt: 12, completion: 9, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

/// A keep-alive client connection.
struct ClientConnection(BufReader<TcpStream>);

impl ClientConnection {
    async fn open(proxy: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(proxy).await.expect("the proxy listens")))
    }

    async fn send(&mut self, wire: &[u8]) {
        self.0.write_all(wire).await.expect("the request is sent");
    }

    /// Reads the next response, which has a `content-length`: its status, head and body. `None` at
    /// the end of the connection.
    async fn next_response(&mut self) -> Option<(u16, String, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = with_deadline("a line of a head", self.0.read_line(&mut head)).await;
            if read.expect("no reset") == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.unwrap_or_else(|| panic!("no length: {head}"));
        let mut body = vec![0; length.parse().expect("a length")];
        with_deadline("a body", self.0.read_exact(&mut body)).await.expect("all of it");
        let status = head[9..12].parse().expect("a status");
        Some((status, head, String::from_utf8(body).expect("a text")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_and_each_is_charged() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::from_millis(1))).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let call = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 50, false)).to_bytes();
    let models = Request::get("/v1/models").bearer(&tenant.key).to_bytes();
    let unknown_path = Request::post("/v1/nowhere", "{}").bearer(&tenant.key).to_bytes();
    let mut connection = ClientConnection::open(&tenant.proxy).await;
    connection.send(&[&call[..], &models, &unknown_path, &call, &call].concat()).await;
    let mut charged = Vec::new();
    for (expected, expected_text) in
        [(200, "chat.completion"), (200, "\"list\""), (404, "error"), (200, ""), (200, "")]
    {
        let (status, head, body) = connection.next_response().await.expect("an answer for each");
        assert_eq!(status, expected, "{head}");
        assert!(body.contains(expected_text), "{expected_text} in {body}");
        let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        charged.extend(id.filter(|_| body.contains("chat.completion")).map(str::to_owned));
    }
    assert_eq!((charged.len(), upstream.request_count()), (3, 3));
    for id in charged {
        assert_eq!(tenant.debit(&id).await.at("amount").nano(), GPT_4O_MINI.cost(USAGE));
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_usable_after_every_kind_of_error() {
    let upstream = Upstream::start(|seen| match seen.json().at("max_tokens").count() {
        code @ 400..600 => Plan::json(u16::try_from(code).expect("a status"), r#"{"error":{}}"#),
        _ => reply(seen, USAGE, Duration::ZERO),
    })
    .await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let unfunded = Tenant::new(&gateway, 0, "{}").await;
    let exhausted = Tenant::new(&gateway, FUNDS, r#"{"dailyRequestLimit":0}"#).await;
    let model = GPT_4O_MINI.model;
    let request_by =
        |key: &str, max_tokens: u64| Request::chat(key, chat(model, max_tokens, false));
    let valid = request_by(&tenant.key, 50);
    let mut connection = ClientConnection::open(&tenant.proxy).await;
    for (name, request, expected) in [
        ("no key", request_by("sk-mtr-no", 50), 401),
        ("no money", request_by(&unfunded.key, 50), 402),
        ("no requests", request_by(&exhausted.key, 50), 429),
        ("no such path", valid.clone().with_target("POST", "/v1/nowhere"), 404),
        ("another method", valid.clone().with_target("PUT", "/v1/chat/completions"), 404),
        ("no such type", valid.clone().without_header("content-type"), 400),
        ("no object", Request::chat(&tenant.key, "[]"), 400),
        ("the provider's 400", request_by(&tenant.key, 400), 400),
        ("the provider's 429", request_by(&tenant.key, 429), 429),
        ("the provider's 500", request_by(&tenant.key, 500), 500),
        ("the provider's 403", request_by(&tenant.key, 403), 502),
    ] {
        connection.send(&request.to_bytes()).await;
        let (status, head, body) = connection.next_response().await.expect(name);
        assert_eq!(status, expected, "{name}: {head}{body}");
        connection.send(&valid.to_bytes()).await;
        let (status, head, body) = connection.next_response().await.expect(name);
        assert_eq!(status, 200, "after {name}: {head}{body}");
    }
    // A body beyond the size limit is not read; the connection is closed after the response.
    let long =
        valid.clone().header("content-length", "1099511627776").header("expect", "100-continue");
    connection.send(&long.to_bytes()).await;
    let (status, head, _) = connection.next_response().await.expect("an answer");
    assert_eq!(status, 413, "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert!(connection.next_response().await.is_none(), "the connection is closed");
    tenant.assert_settled().await;
}

/// A client that closes only its sending half cannot be distinguished from a disconnected one.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_client_connection_counts_as_disconnected() {
    let plan =
        || Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO).insert_step(2, Step::Stall);
    let upstream = Upstream::start(move |_| plan()).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let mut stream = TcpStream::connect(&tenant.proxy).await.expect("the proxy listens");
    let call = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 50, true));
    stream.write_all(&call.to_bytes()).await.expect("the request is sent");
    let mut first = [0; 12];
    with_deadline("a head", stream.read_exact(&mut first)).await.expect("a head");
    assert_eq!(&first, b"HTTP/1.1 200");
    stream.shutdown().await.expect("the sending half is open");
    upstream.wait_for_disconnect(0).await;
    let log = eventually("the call is in the log", async || tenant.logs().await.pop()).await;
    assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
    let debit = tenant.debit(&log.at("requestLogId").text()).await;
    assert!(0 < debit.at("amount").nano(), "{debit}");
    tenant.assert_settled().await;
}
