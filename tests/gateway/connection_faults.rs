//! Connection faults of upstreams and clients at critical points of a call, and their effect on
//! billing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, chat, completion, events, reply};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream, closed_port};
use crate::harness::wait::eventually;

const MODEL: &str = "gpt-4o-mini";
const USAGE: Usage = Usage { prompt: 12, completion: 9, cached: 0, reasoning: 0 };

async fn start_gateway(
    plan: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static,
) -> (Upstream, Gateway, Tenant) {
    let upstream = Upstream::start(plan).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    (upstream, gateway, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_read_by_the_upstream_is_never_resent() {
    static DIES: AtomicBool = AtomicBool::new(false);
    let (upstream, gateway, tenant) = start_gateway(|seen| {
        if DIES.load(Ordering::SeqCst) {
            return Plan { steps: vec![Step::Cut], ..Plan::json(200, "") };
        }
        reply(seen, USAGE, Duration::from_millis(50))
    })
    .await;
    // Concurrent calls, so that several connections are idle afterwards.
    let calls = (0..8).map(|_| {
        let request = Request::chat(&tenant.key, chat(MODEL, 9, false));
        let proxy = gateway.proxy.clone();
        tokio::spawn(async move { request.send(&proxy).await.text().await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("answered");
    }
    let before = upstream.request_count();
    DIES.store(true, Ordering::SeqCst);
    let response = Request::chat(&tenant.key, chat(MODEL, 9, false)).send(&gateway.proxy).await;
    assert_eq!(response.status, 502);
    assert_eq!(upstream.request_count() - before, 1, "the upstream may have acted on the request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_broken_before_its_first_byte_fails() {
    for stream in [false, true] {
        let (_upstream, gateway, tenant) = start_gateway(move |_| {
            // A head with a content-length of 100 bytes, followed by the end of the connection.
            let steps = vec![Step::Send(Vec::new()), Step::Cut, Step::Send(vec![b' '; 100])];
            let content_type = if stream { "text/event-stream" } else { "application/json" };
            let headers = vec![("content-type", content_type.to_owned())];
            Plan { status: 200, headers, chunked: false, steps }
        })
        .await;
        let request = Request::chat(&tenant.key, chat(MODEL, 9, stream));
        // The head may be lost as well; what must not arrive is a clean end.
        if let Ok(mut response) = request.try_send(&gateway.proxy).await {
            let (bytes, complete) = response.read_to_end().await;
            assert!(bytes.is_empty() && !complete, "the client sees no clean end");
        }
        let logs = eventually("the call is in the log", async || {
            Some(tenant.logs().await).filter(|logs| !logs.is_empty())
        })
        .await;
        let [log] = &logs[..] else { panic!("one call, not {}", logs.len()) };
        assert_eq!(log.at("outcome").text(), "Failed", "{log}");
        assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
        tenant.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_body_completes_the_call() {
    let (upstream, gateway, tenant) = start_gateway(|_| Plan::json(200, "")).await;
    for round in 1..=3 {
        let request = Request::chat(&tenant.key, chat(MODEL, 9, false));
        let response = request.send(&gateway.proxy).await;
        assert_eq!(response.status, 200);
        let log = tenant.log(&response.id()).await;
        assert_eq!(log.at("outcome").text(), "Completed", "{log}");
        assert_eq!(upstream.request_count(), round);
        tenant.debit(&response.id()).await;
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_of_a_response_follows_its_debit() {
    let text = completion(USAGE);
    let (first, last) = text.split_at(text.len() / 2);
    let pieces = [first.to_owned(), last.to_owned()];
    let (_upstream, gateway, tenant) = start_gateway(move |_| {
        let plan = Plan::stream(pieces.clone(), Duration::from_millis(30));
        Plan { headers: vec![("content-type", "application/json".to_owned())], ..plan }
    })
    .await;
    let request = Request::chat(&tenant.key, chat(MODEL, 9, false));
    let response = request.send(&gateway.proxy).await;
    let id = response.id();
    assert_eq!(response.text().await, text);
    assert_eq!(tenant.debit(&id).await.at("settledBy").text(), "usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_terminator_passes_unmodified() {
    let mut pieces = events(&["a", "b"], Some(USAGE));
    let end = pieces.pop().expect("a terminator");
    let (line, blank) = end.split_at(end.len() - 1);
    pieces.extend([line.to_owned(), blank.to_owned()]);
    let complete = pieces.concat();
    let (_upstream, gateway, tenant) =
        start_gateway(move |_| Plan::stream(pieces.clone(), Duration::from_millis(20))).await;
    let body = chat(MODEL, 9, true);
    let with_usage = body.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    let response = Request::chat(&tenant.key, with_usage).send(&gateway.proxy).await;
    let id = response.id();
    assert_eq!(response.text().await, complete);
    assert_eq!(tenant.debit(&id).await.at("settledBy").text(), "usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_upstream_costs_neither_money_nor_a_request() {
    let mut upstream = Upstream::start(|_| Plan::json(200, "")).await;
    let (_closed, url) = closed_port();
    upstream.url = url;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyRequestLimit":1}"#).await;
    for _ in 0..3 {
        let request = Request::chat(&tenant.key, chat(MODEL, 9, false));
        assert_eq!(request.send(&gateway.proxy).await.status, 502);
    }
    tenant.assert_settled().await;
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_during_the_body_is_refused() {
    let (upstream, gateway, tenant) =
        start_gateway(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let wire = Request::chat(&tenant.key, chat(MODEL, 9, false)).to_bytes();
    let (head, tail) = wire.split_at(wire.len() - 10);
    let mut stream = TcpStream::connect(&gateway.proxy).await.expect("a connection");
    stream.write_all(head).await.expect("sent");
    // A call on another connection completes after this head was read, so the gateway has looked up
    // the key.
    let response = Request::chat(&tenant.key, chat(MODEL, 9, false)).send(&gateway.proxy).await;
    assert_eq!(response.status, 200);
    let keys = tenant.get(&format!("/api/projects/{}/api-keys", tenant.project)).await;
    for key in keys.at("data").list() {
        let path = format!("/api/projects/{}/api-keys/{}", tenant.project, key.at("id").text());
        let revoked = tenant.send(Request::new("DELETE", &path)).await;
        assert_eq!(revoked.status, 200);
    }
    stream.write_all(tail).await.expect("sent");
    let mut status_line = [0; 12];
    stream.read_exact(&mut status_line).await.expect("a response");
    assert_eq!(&status_line, b"HTTP/1.1 401");
    assert_eq!(upstream.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_responses_are_relayed_as_http_1_1() {
    let mut upstream = Upstream::start(|_| Plan::json(200, "")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    upstream.url = format!("http://{}", listener.local_addr().expect("an address"));
    let stream = events(&["a", "b"], Some(USAGE)).concat();
    let wire = format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{stream}");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let read = socket.read(&mut request).await.unwrap_or_default();
            assert_ne!(read, 0, "a request");
            // Such a response ends with its connection.
            socket.write_all(wire.as_bytes()).await.expect("sent");
        }
    });
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let body = chat(MODEL, 9, true);
    let with_usage = body.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    let response = Request::chat(&tenant.key, with_usage).send(&gateway.proxy).await;
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let id = response.id();
    assert_eq!(response.text().await, stream);
    assert_eq!(tenant.debit(&id).await.at("settledBy").text(), "usage");
}
