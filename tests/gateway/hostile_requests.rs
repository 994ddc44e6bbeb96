//! Malformed requests are refused with a clear error; none is forwarded, held or counted.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::client::{Request, send_raw};
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

const MIB: usize = 1 << 20;

struct Fixture {
    gateway: Gateway,
    upstream: Upstream,
    tenant: Tenant,
}

impl Fixture {
    async fn new() -> Self {
        let usage = Usage::of(1, 1);
        let upstream = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
        let gateway = Gateway::with_upstream(&upstream).await;
        let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
        Self { gateway, upstream, tenant }
    }

    /// Asserts one of `statuses` and an error body that a client can parse.
    async fn assert_refusal(&self, name: &str, request: Request, statuses: &[u16]) {
        let result = request.try_send(&self.gateway.proxy).await;
        let answer = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = answer.status;
        assert_eq!(answer.header("x-meteor-error-source"), Some("gateway"), "{name}: {status}");
        answer.id();
        let body = answer.json().await;
        assert!(statuses.contains(&status), "{name}: {status}, not {statuses:?}: {body}");
        let error = body.at("error");
        assert!(!error.at("message").text().is_empty(), "{name}: {error}");
        assert_eq!(error.at("type").text(), "invalid_request_error", "{name}: {error}");
    }

    async fn assert_bad_request(&self, name: &str, body: impl AsRef<[u8]>) {
        self.assert_refusal(name, Request::chat(&self.tenant.key, body), &[400]).await;
    }

    /// Asserts that the process runs, no counter has changed, and a valid call is still served.
    async fn assert_unharmed(mut self) {
        assert!(self.gateway.is_running(), "the process runs");
        assert_eq!(self.upstream.request_count(), 0, "nothing was forwarded");
        self.tenant.assert_settled().await;
        assert_eq!(self.tenant.wallet().await.at("lastSeq").count(), 1, "only the recharge");
        let usage = self.tenant.usage().await;
        assert_eq!(usage.at("dailyUsage.requestCount").count(), 0, "{usage}");
        let request = Request::chat(&self.tenant.key, chat("gpt-4o-mini", 5, false));
        assert_eq!(
            request.send(&self.gateway.proxy).await.status,
            200,
            "a valid call is still served"
        );
        self.tenant.assert_settled().await;
    }
}

fn body_with(field: &str) -> String {
    format!(r#"{{"model":"gpt-4o-mini","messages":[],{field}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_one_json_object_are_refused() {
    let fixture = Fixture::new().await;
    let valid_body = chat("gpt-4o-mini", 5, false);
    for (name, body) in [
        ("empty", ""),
        ("blank", " \n "),
        ("words", "hello"),
        ("a list", "[]"),
        ("a number", "42"),
        ("null", "null"),
        ("a text", r#""model""#),
        ("an empty object", "{}"),
        ("single quotes", "{'model':'gpt-4o-mini'}"),
        ("a trailing comma", r#"{"model":"gpt-4o-mini",}"#),
        ("a comment", "{/* */\"model\":\"gpt-4o-mini\"}"),
        ("two objects", r#"{"model":"gpt-4o-mini"}{"model":"gpt-4o"}"#),
        ("unbalanced", r#"{"model":"gpt-4o-mini","messages":[}"#),
        ("a bare control character", "{\"model\":\"gpt-4o-mini\",\"a\":\"\n\"}"),
        ("no colon", r#"{"model" "gpt-4o-mini"}"#),
        ("no value", r#"{"model":"gpt-4o-mini","messages":}"#),
        ("model is a number", r#"{"model":4,"messages":[]}"#),
        ("model is empty", r#"{"model":"","messages":[]}"#),
        ("no model", r#"{"messages":[]}"#),
    ] {
        fixture.assert_bad_request(name, body).await;
    }
    for cut in (0..valid_body.len()).step_by(7) {
        fixture.assert_bad_request(&format!("truncated at {cut}"), &valid_body[..cut]).await;
    }
    fixture.assert_unharmed().await;
}

/// Otherwise the gateway would price and bound one call, and the provider would run another.
#[tokio::test(flavor = "multi_thread")]
async fn duplicate_policy_fields_are_refused() {
    let fixture = Fixture::new().await;
    for (name, body) in [
        ("model", body_with(r#""model":"gpt-4o""#)),
        ("model, the same value", body_with(r#""model":"gpt-4o-mini""#)),
        ("model, one letter escaped", body_with(r#""\u006dodel":"gpt-4o""#)),
        ("model, escaped in capitals", body_with(r#""mode\u006C":"gpt-4o""#)),
        ("model, all escaped", body_with(r#""\u006d\u006f\u0064\u0065\u006c":"gpt-4o""#)),
        ("stream", body_with(r#""stream":false,"stream":true"#)),
        ("max_tokens", body_with(r#""max_tokens":1,"max_tokens":100000"#)),
        ("max_tokens, escaped", body_with(r#""max_tokens":1,"max\u005ftokens":100000"#)),
        (
            "max_completion_tokens",
            body_with(r#""max_completion_tokens":1,"max_completion_tokens":9"#),
        ),
        ("n", body_with(r#""n":1,"n":128"#)),
        ("stream_options", body_with(r#""stream":true,"stream_options":{},"stream_options":{}"#)),
    ] {
        fixture.assert_bad_request(name, body).await;
    }
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_token_bounds_and_flags_are_refused() {
    let fixture = Fixture::new().await;
    for bound in ["-1", "1.5", "\"10\"", "1e3", "99999999999999999999", "true", "[]", "{}"] {
        for field in ["max_tokens", "max_completion_tokens", "n"] {
            let body = body_with(&format!("\"{field}\":{bound}"));
            fixture.assert_bad_request(&format!("{field} {bound}"), body).await;
        }
    }
    for stream in ["\"true\"", "1", "[]"] {
        let body = body_with(&format!("\"stream\":{stream}"));
        fixture.assert_bad_request(&format!("stream {stream}"), body).await;
    }
    // A product that overflows an integer must not wrap around to a small bound.
    let huge = body_with(r#""max_tokens":9007199254740991,"n":9007199254740991"#);
    let answer = Request::chat(&fixture.tenant.key, huge).send(&fixture.gateway.proxy).await;
    assert!([400, 402, 429].contains(&answer.status), "{}", answer.status);
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_of_nested_json_are_refused() {
    let fixture = Fixture::new().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"b\":", "}]")] {
        let depth = 5 * MIB / open.len();
        let deep = open.repeat(depth) + "1" + &close.repeat(depth);
        for (name, body) in [
            ("in a field", body_with(&format!("\"x\":{deep}"))),
            ("alone", deep),
            ("never closed", body_with(&open.repeat(2 * depth))),
        ] {
            let request = Request::chat(&fixture.tenant.key, body);
            fixture.assert_refusal(&format!("{open} {name}"), request, &[400, 413]).await;
        }
    }
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_missing_content_types_are_refused() {
    let fixture = Fixture::new().await;
    let plain = Request::chat(&fixture.tenant.key, chat("gpt-4o-mini", 5, false));
    let plain = plain.without_header("content-type");
    fixture.assert_refusal("no content type", plain.clone(), &[400, 415]).await;
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", ""]
    {
        let request = plain.clone().header("content-type", content_type);
        fixture.assert_refusal(content_type, request, &[400, 415]).await;
    }
    // A compressed body that is not decoded cannot be bounded.
    let zipped =
        plain.header("content-type", "application/json").header("content-encoding", "gzip");
    fixture.assert_refusal("gzip", zipped, &[400, 415]).await;
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equivalent_json_content_types_are_accepted() {
    let fixture = Fixture::new().await;
    for content_type in
        ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
    {
        let request = Request::chat(&fixture.tenant.key, chat("gpt-4o-mini", 5, false));
        let request = request.without_header("content-type").header("content-type", content_type);
        assert_eq!(request.send(&fixture.gateway.proxy).await.status, 200, "{content_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf_8_is_refused() {
    let fixture = Fixture::new().await;
    for (name, bytes) in [
        ("a lone byte", &b"\xff"[..]),
        ("cut in two", b"\xc3"),
        ("overlong", b"\xc0\xaf"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond the last", b"\xf4\x90\x80\x80"),
    ] {
        let text =
            [br#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":""#, bytes, b"\"}]}"];
        fixture.assert_bad_request(name, text.concat()).await;
        let key = [br#"{"model":"gpt-4o-mini","messages":[],""#, bytes, b"\":1}"];
        fixture.assert_bad_request(&format!("{name} in a key"), key.concat()).await;
    }
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_bodies_and_headers_are_refused() {
    let fixture = Fixture::new().await;
    let chat = Request::chat(&fixture.tenant.key, "{");
    let announced = chat.clone().header("content-length", "1099511627776");
    fixture.assert_refusal("a terabyte announced", announced, &[413]).await;
    // A chunk of a gigabyte, sent until the gateway stops reading.
    let chunked = chat.clone().header("transfer-encoding", "chunked").to_bytes();
    let chunked = [&chunked[..chunked.len() - 1], b"40000000\r\n", &vec![b' '; 256 * MIB]].concat();
    let answer = send_raw(&fixture.gateway.proxy, &chunked).await.expect("an answer, not a cut");
    assert_eq!(answer.status, 413, "a body of unknown length");
    let long = chat.clone().header("x-long", &"a".repeat(2 * MIB));
    let many = (0..5_000).fold(chat, |many, index| many.header(&format!("x-{index}"), "a"));
    for (name, request) in [("a long header", long), ("many headers", many)] {
        let answer = request.try_send(&fixture.gateway.proxy).await.expect(name);
        assert!([400, 413, 431].contains(&answer.status), "{name}: {}", answer.status);
    }
    fixture.assert_unharmed().await;
}

/// A client that writes its whole body before it reads must receive the refusal, not a reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_an_oversized_body_reads_the_refusal() {
    let fixture = Fixture::new().await;
    for (key, status) in [(fixture.tenant.key.as_str(), 413), ("sk-mtr-wrong", 401)] {
        for _ in 0..4 {
            let mut stream =
                TcpStream::connect(&fixture.gateway.proxy).await.expect("the proxy listens");
            let length = 40 * MIB;
            let request = Request::chat(key, "").header("connection", "close");
            let request = request.header("content-length", &length.to_string());
            stream.write_all(&request.to_bytes()).await.expect("the head is sent");
            for _ in 0..40 {
                stream.write_all(&vec![b' '; MIB]).await.expect("the whole body is sent");
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await.expect("an answer, not a reset");
            let head = String::from_utf8_lossy(&answer[..12]).into_owned();
            assert_eq!(head, format!("HTTP/1.1 {status}"));
        }
    }
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn non_http_bytes_do_no_harm() {
    let fixture = Fixture::new().await;
    let smuggled = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\
        transfer-encoding: chunked\r\n\r\n0\r\n\r\nG";
    for wire in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nauthorization: Bearer \xff\xfe\r\n\r\n",
        smuggled,
    ] {
        // The gateway closes some of these connections without a response, which no client could
        // parse.
        if let Ok(answer) = send_raw(&fixture.gateway.proxy, wire).await {
            assert!((400..500).contains(&answer.status), "{wire:?}: {}", answer.status);
        }
    }
    fixture.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_return_404() {
    let fixture = Fixture::new().await;
    let body = chat("gpt-4o-mini", 5, false);
    for path in [
        "/",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/chat/completions/x",
        "/v1/files",
        "/v1/batches",
        "/v1/fine_tuning/jobs",
        "//v1/chat/completions",
        "/v1/../v1/chat/completions",
        "/V1/chat/completions",
        "/v1/chat%2fcompletions",
        "/api/projects",
        "/metrics",
    ] {
        let request = Request::post(path, &body).bearer(&fixture.tenant.key);
        let answer = request.send(&fixture.gateway.proxy).await;
        assert_eq!(answer.status, 404, "POST {path}");
        assert!(!answer.json().await.at("error.message").text().is_empty(), "POST {path}");
    }
    for method in ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        let request = Request::new(method, "/v1/chat/completions").bearer(&fixture.tenant.key);
        let answer = request.send(&fixture.gateway.proxy).await;
        assert_eq!(answer.status, 404, "{method}");
        assert!(answer.header("access-control-allow-origin").is_none(), "{method}");
    }
    let answer = Request::get("/v1/chat/completions").bearer(&fixture.tenant.key);
    assert!([404, 405].contains(&answer.send(&fixture.gateway.proxy).await.status), "GET");
    fixture.assert_unharmed().await;
}

/// A provider front end that resolves escapes would serve another path with the gateway's
/// credential.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_name_with_path_escapes_is_refused() {
    let upstream = Upstream::start(|seen| reply(seen, Usage::of(1, 1), Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::of_demo(&gateway);
    for malicious in
        ["..%2f", "..%2f..%2fadmin", "%00", "a%00b", "x%0d%0aX-Evil:1", "a%3fb=c", "a%23b"]
    {
        let target = format!("/v1beta/models/{malicious}:generateContent");
        let call = Request::post(&target, r#"{"contents":[]}"#).bearer(&tenant.key);
        let answer = call.send(&tenant.proxy).await;
        assert_eq!(answer.status, 400, "{malicious}");
    }
    let call = Request::post(
        "/v1/chat/completions?api-key=KEY".replace("KEY", &tenant.key).as_str(),
        r#"{"model":"gpt-4o-mini","messages":[]}"#,
    );
    let call = call.bearer(&tenant.key).header("referer", &format!("http://x/?key={}", tenant.key));
    assert_eq!(call.send(&tenant.proxy).await.status, 200);
    let seen = upstream.requests();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(!seen[0].head.contains(&tenant.key), "{}", seen[0].head);
}
