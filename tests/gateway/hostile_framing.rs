//! Hostile framing: unusual line ends, heads, lengths and content types, and responses without
//! usage.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::dialect_routing::start_gateway;
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, WORDS, chat, completion, events};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::{anthropic, gemini};

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };

/// Starts an upstream that writes these bytes after each request.
async fn start_raw_upstream(response: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            // Requests in this file end with the closing brace of their body.
            while !read.ends_with(b"}") {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = stream.write_all(&response).await;
            let _ = stream.shutdown().await;
        }
    });
    url
}

async fn start_openai_gateway(url: &str) -> (Server, Tenant) {
    let rows = upstream("all", url) + &model("plain", "upstream = \"all\"");
    let server = Server::start(ConfigDir::new(&rows)).await;
    let tenant = server.tenant(1_000_000_000, "{}").await;
    (server, tenant)
}

fn assert_usage(log: &Json, usage: Usage) {
    assert_eq!(log.at("settledBy").text(), "usage", "{log}");
    assert_eq!(log.at("usage.inputTokens").count(), usage.prompt, "{log}");
    assert_eq!(log.at("usage.outputTokens").count(), usage.completion, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_and_trailers_are_not_relayed() {
    let body = completion(USAGE);
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let length = format!("{hints}{head}content-length: {}\r\n\r\n{body}", body.len());
    let trailed = format!(
        "{head}trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-sum: 1\r\n\r\n",
        body.len()
    );
    for response in [length, trailed] {
        let (_server, tenant) =
            start_openai_gateway(&start_raw_upstream(response.into_bytes()).await).await;
        let response =
            Request::chat(&tenant.key, chat("plain", 50, false)).send(&tenant.proxy).await;
        assert_eq!(
            (response.status, response.header("link"), response.header("trailer")),
            (200, None, None)
        );
        let id = response.id();
        assert_eq!(response.text().await, body);
        assert_usage(&tenant.log(&id).await, USAGE);
        tenant.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_honored() {
    let provider = Upstream::start(|_| Plan::json(200, completion(USAGE))).await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let wire =
        Request::chat(&tenant.key, chat("plain", 50, false)).header("expect", "100-continue");
    let wire = wire.to_bytes();
    let end = wire.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let mut stream = TcpStream::connect(&tenant.proxy).await.expect("the gateway listens");
    stream.write_all(&wire[..end]).await.expect("the head is sent");
    let mut interim = vec![0; 25];
    stream.read_exact(&mut interim).await.expect("an interim response");
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&wire[end..]).await.expect("the body is sent");
    let mut head = vec![0; 12];
    stream.read_exact(&mut head).await.expect("a response");
    assert_eq!(head, b"HTTP/1.1 200");
    assert_eq!(provider.requests()[0].header("expect"), None);
}

/// The bytes decide whether a response is a stream, not its content type or length.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_metered_under_any_content_type_and_framing() {
    const TYPES: [&str; 4] = ["", "text/plain", "application/json", "application/octet-stream"];
    let provider = Upstream::start(move |seen| {
        let mut plan = if seen.target.contains("/messages") {
            Plan::stream(anthropic::events(anthropic::WORDS, USAGE), Duration::ZERO)
        } else {
            Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO)
        };
        let kind = seen.header("x-stainless-kind").expect("the header passes");
        let kind = TYPES.iter().find(|name| **name == kind).filter(|name| !name.is_empty());
        plan.headers = kind.map(|kind| ("content-type", (*kind).to_owned())).into_iter().collect();
        plan.chunked = seen.header("x-stainless-chunked") == Some("true");
        plan
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for (kind, chunked) in TYPES.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let call = async |target: &str, body: String| {
            let request = Request::post(target, body).bearer(&tenant.key);
            let request = request.header("x-stainless-kind", kind);
            let request = request.header("x-stainless-chunked", &chunked.to_string());
            request.send(&tenant.proxy).await
        };
        let with_usage = chat("plain", 50, true).replacen(
            '{',
            r#"{"stream_options":{"include_usage":true},"#,
            1,
        );
        let message = anthropic::message("plain", Some(50), true);
        for (target, body) in [("/v1/chat/completions", with_usage), ("/v1/messages", message)] {
            let mut response = call(target, body).await;
            let (id, (_, complete)) = (response.id(), response.read_to_end().await);
            assert!(complete, "{target} {kind:?}");
            assert_usage(&tenant.log(&id).await, USAGE);
        }
        // A response declared as a document passes unmodified; others lose the usage that was not
        // requested.
        let response = call("/v1/chat/completions", chat("plain", 50, true)).await;
        let is_document = kind == "application/json";
        let expected = if is_document { events(WORDS, Some(USAGE)) } else { events(WORDS, None) };
        assert_eq!(response.text().await, expected.concat(), "{kind:?}");
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_a_stream_content_type_is_metered() {
    let provider = Upstream::start(|seen| {
        let body = if seen.target.contains("/messages") {
            anthropic::complete_message(USAGE)
        } else {
            completion(USAGE)
        };
        Plan::stream([body], Duration::ZERO)
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for (target, body, expected) in [
        ("/v1/chat/completions", chat("plain", 50, true), completion(USAGE)),
        (
            "/v1/messages",
            anthropic::message("plain", Some(50), true),
            anthropic::complete_message(USAGE),
        ),
    ] {
        let response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        let id = response.id();
        assert_eq!(response.text().await, expected);
        assert_usage(&tenant.log(&id).await, USAGE);
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cr_line_ends_and_a_byte_order_mark_are_read() {
    let provider = Upstream::start(|seen| {
        let stream = if seen.target.contains("/messages") {
            anthropic::events(&["a"], USAGE).concat()
        } else {
            "\u{feff}".to_owned() + &events(&["a"], Some(USAGE)).concat()
        };
        let bytes = stream.replace('\n', "\r").into_bytes();
        Plan::stream(bytes.chunks(7).map(<[u8]>::to_vec), Duration::ZERO)
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let expected = "\u{feff}".to_owned() + &events(&["a"], None).concat();
    for (target, body, expected) in [
        ("/v1/chat/completions", chat("plain", 50, true), expected),
        (
            "/v1/messages",
            anthropic::message("plain", Some(50), true),
            anthropic::events(&["a"], USAGE).concat(),
        ),
    ] {
        let response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        let id = response.id();
        assert_eq!(response.text().await, expected.replace('\n', "\r"), "{target}");
        assert_usage(&tenant.log(&id).await, USAGE);
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_images_pass_in_both_directions_and_are_metered() {
    let image = "iVBORw0K".repeat(750_000);
    let part = format!(r#"{{"inlineData":{{"mimeType":"image/png","data":"{image}"}}}}"#);
    let chunk = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{part}]}},"finishReason":"STOP"}}],"usageMetadata":{{"promptTokenCount":5,"candidatesTokenCount":1290}}}}"#
    );
    let sent = chunk.clone();
    let provider = Upstream::start(move |seen| {
        if seen.target.contains("alt=sse") {
            Plan::stream([format!("data: {sent}\r\n\r\n")], Duration::ZERO)
        } else {
            gemini::json(200, sent.clone())
        }
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let part = part.replacen(&image[..5_000_000], "", 1);
    let body = format!(r#"{{"contents":[{{"parts":[{part}]}}]}}"#);
    for target in [
        "/v1beta/models/plain:streamGenerateContent?alt=sse",
        "/v1beta/models/plain:generateContent",
    ] {
        let request = Request::post(target, &body).bearer(&tenant.key);
        let response = request.send(&tenant.proxy).await;
        assert_eq!(response.status, 200);
        let id = response.id();
        assert!(response.text().await.contains(&chunk), "{target}");
        assert_usage(&tenant.log(&id).await, Usage::of(5, 1_290));
        assert!(provider.requests().pop().expect("the call").body == body);
    }
    tenant.assert_settled().await;
}

/// Responses without usage in each dialect, streamed and whole.
fn calls_without_usage() -> Vec<(&'static str, String, Plan)> {
    let none = Duration::ZERO;
    let text = r#"{"candidates":[{"content":{"parts":[{"text":"Hello there, you"}]},"finishReason":"STOP"}]}"#;
    let stream: Vec<String> = anthropic::events(&["Hello there, you"], USAGE);
    let stream = stream.into_iter().filter(|event| !event.contains("usage"));
    vec![
        ("/v1/chat/completions", chat("plain", 50, true), Plan::stream(events(WORDS, None), none)),
        (
            "/v1/chat/completions",
            chat("plain", 50, false),
            Plan::json(200, r#"{"choices":[{"message":{"content":"Hello there"}}]}"#),
        ),
        (
            "/v1/embeddings",
            r#"{"model":"plain","input":["Hello there"]}"#.to_owned(),
            Plan::json(200, r#"{"data":[{"embedding":[0.5]}]}"#),
        ),
        (
            "/v1/messages",
            anthropic::message("plain", Some(50), true),
            Plan::stream(stream.collect::<Vec<_>>(), none),
        ),
        (
            "/v1/messages",
            anthropic::message("plain", Some(50), false),
            Plan::json(200, r#"{"content":[{"type":"text","text":"Hello there"}]}"#),
        ),
        (
            "/v1beta/models/plain:generateContent",
            gemini::contents(Some(50)),
            gemini::json(200, text),
        ),
        (
            "/v1beta/models/plain:streamGenerateContent",
            gemini::contents(Some(50)),
            gemini::json(200, format!("[{text}]")),
        ),
        (
            "/v1beta/models/plain:streamGenerateContent?alt=sse",
            gemini::contents(Some(50)),
            Plan::stream([format!("data: {text}\r\n\r\n")], none),
        ),
        (
            "/v1beta/models/plain:embedContent",
            r#"{"content":{"parts":[{"text":"Hello there"}]}}"#.to_owned(),
            gemini::json(200, r#"{"embedding":{"values":[0.5]}}"#),
        ),
        (
            "/v1beta/models/plain:batchEmbedContents",
            r#"{"requests":[{"model":"models/plain","content":{"parts":[{"text":"Hello"}]}}]}"#
                .to_owned(),
            gemini::json(200, r#"{"embeddings":[{"values":[0.5]}]}"#),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_usage_is_estimated_in_every_dialect() {
    let provider = Upstream::start(|seen| {
        let index = seen.header("x-stainless-index").and_then(|index| index.parse::<usize>().ok());
        calls_without_usage()[index.expect("the index passes")].2.clone()
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for (index, (target, body, _)) in calls_without_usage().iter().enumerate() {
        let request = Request::post(target, body).bearer(&tenant.key);
        let request = request.header("x-stainless-index", &index.to_string());
        let mut response = request.send(&tenant.proxy).await;
        let (id, status, (_, complete)) =
            (response.id(), response.status, response.read_to_end().await);
        assert!(complete && status == 200, "{target}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("outcome").text(), "Completed", "{target}: {log}");
        assert_eq!(log.at("settledBy").text(), "estimate", "{target}: {log}");
        let embeds = target.to_ascii_lowercase().contains("embed");
        assert_eq!(log.at("usage.outputTokens").count() == 0, embeds, "{target}: {log}");
        assert!(0 < log.at("usage.inputTokens").count(), "{target}: {log}");
        assert!(0 < log.at("cost").nano(), "{target}: {log}");
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mid_stream_error_fails_the_call_and_charges_output() {
    let raw = "{\n  \"error\": {\n    \"code\": 503,\n    \"message\": \"m\",\n    \"status\": \"UNAVAILABLE\"\n  }\n}\n";
    let chunk = r#"{"candidates":[{"content":{"parts":[{"text":"Hello there"}]}}]}"#;
    let begun = |text: &str| Step::Send(text.as_bytes().to_vec());
    let gemini_error = gemini::error_event(503, "UNAVAILABLE");
    let first = events(WORDS, None)[..3].concat();
    let groq = "event: error\ndata: {\"error\":{\"message\":\"m\",\"status_code\":413}}\n\n";
    let start: String = anthropic::events(&["Hello"], USAGE)[..4].concat();
    let sse = format!("data: {chunk}\r\n\r\n");
    let chat = || chat("plain", 50, true);
    let message = || anthropic::message("plain", Some(50), true);
    let (array, stream) = (
        "/v1beta/models/plain:streamGenerateContent",
        "/v1beta/models/plain:streamGenerateContent?alt=sse",
    );
    let contents = || gemini::contents(Some(50));
    for (target, body, kind, pieces) in [
        ("/v1/chat/completions", chat(), "text/event-stream", [&*first, groq]),
        (
            "/v1/messages",
            message(),
            "text/event-stream",
            [&*start, &*anthropic::error_event("overloaded_error")],
        ),
        (stream, contents(), "text/event-stream", [&*sse, &*gemini_error]),
        (stream, contents(), "text/event-stream", [&*sse, raw]),
        (array, contents(), "application/json", [&*format!("[{chunk}"), &*format!(",\n{raw}]")]),
    ] {
        let plan = Plan {
            status: 200,
            headers: vec![("content-type", kind.to_owned())],
            chunked: true,
            steps: pieces.map(begun).to_vec(),
        };
        let provider = Upstream::start(move |_| plan.clone()).await;
        let (_server, tenant) = start_gateway(&provider, "").await;
        let response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        let id = response.id();
        assert_eq!(response.text().await, pieces.concat());
        let log = tenant.log(&id).await;
        assert_eq!(log.at("outcome").text(), "Failed", "{target}: {log}");
        assert_eq!(log.at("settledBy").text(), "estimate", "{target}: {log}");
        assert!(0 < log.at("usage.outputTokens").count() && 0 < log.at("cost").nano(), "{log}");
        tenant.assert_settled().await;
    }
}
