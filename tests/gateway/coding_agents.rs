//! What coding agents require of a gateway, in addition to unmodified bodies.

use std::time::Duration;

use crate::harness::anthropic;
use crate::harness::client::Request;
use crate::harness::openai::Usage;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };
const MESSAGE: &str = r#"{"model":"claude-a","max_tokens":9,"stream":true,"messages":[]}"#;
const CHAT_WITHOUT_USAGE: &str = r#"{"model":"gpt-a","stream":true,"messages":[]}"#;
const CHAT: &str =
    r#"{"model":"gpt-a","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;

async fn start_gateway(provider: &Upstream) -> (Server, Tenant) {
    let rows = upstream("all", &provider.url)
        + "dialects = [\"openai\", \"anthropic\", \"gemini\"]\n"
        + &model("claude-a", "upstream = \"all\"")
        + &model("gpt-a", "upstream = \"all\"");
    let server = Server::start(ConfigDir::new(&rows)).await;
    let tenant = server.tenant(1_000_000_000, "{}").await;
    (server, tenant)
}

/// The request as a coding agent sends it, with its key in either header.
fn as_coding_agent(request: Request, key: &str, as_bearer: bool) -> Request {
    let request = request
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "claude-code-20250219,context-management-2025-06-27")
        .header("anthropic-dangerous-direct-browser-access", "true")
        .header("x-app", "cli")
        .header("x-claude-code-session-id", "5d0b")
        .header("x-claude-code-agent-id", "agent-1")
        .header("user-agent", "claude-cli/2.0.1 (external, cli)");
    if as_bearer { request.bearer(key) } else { request.header("x-api-key", key) }
}

fn anthropic_reply(seen: &ReceivedRequest) -> Plan {
    let mut plan = anthropic::reply(seen, USAGE, Duration::ZERO);
    plan.headers.push(("x-future-header", "kept".to_owned()));
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn coding_agent_calls_work_with_either_key_header() {
    let provider = Upstream::start(anthropic_reply).await;
    let (_server, tenant) = start_gateway(&provider).await;
    for as_bearer in [true, false] {
        for target in ["/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"] {
            let request = as_coding_agent(Request::post(target, MESSAGE), &tenant.key, as_bearer);
            let response = request.send(&tenant.proxy).await;
            assert_eq!(response.status, 200, "{target}");
            assert_eq!(response.header("x-future-header"), Some("kept"));
            let seen = provider.requests().pop().expect("the call");
            assert_eq!((&*seen.target, &*seen.body), (target, MESSAGE));
            for (name, value) in [
                ("anthropic-version", Some("2023-06-01")),
                ("anthropic-beta", Some("claude-code-20250219,context-management-2025-06-27")),
                ("anthropic-dangerous-direct-browser-access", Some("true")),
                ("x-app", Some("cli")),
                ("x-claude-code-session-id", Some("5d0b")),
                ("x-claude-code-agent-id", Some("agent-1")),
                ("user-agent", Some("claude-cli/2.0.1 (external, cli)")),
                ("content-type", Some("application/json")),
                ("authorization", None),
                ("x-api-key", None),
            ] {
                assert_eq!(seen.header(name), value, "{name}");
            }
            let plan = anthropic_reply(&seen);
            let content_type = plan.headers.iter().find(|(name, _)| *name == "content-type");
            assert_eq!(response.header("content-type"), content_type.map(|(_, value)| &**value));
            response.text().await;
        }
        let request =
            as_coding_agent(Request::get("/v1/models?limit=1000"), &tenant.key, as_bearer);
        let list = request.send(&tenant.proxy).await.json().await;
        assert_eq!(list.at("data").list()[0].at("type").text(), "model", "{list}");
        assert!(!list.at("has_more").is_true());
    }
    assert_eq!(provider.request_count(), 4, "the gateway lists models itself");
    tenant.assert_settled().await;
}

/// The stream stalls after a ping or comment until released.
#[tokio::test(flavor = "multi_thread")]
async fn pings_and_comments_pass_before_the_next_event() {
    const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n";
    const DELTA: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":4}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    const CHUNK: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    const DONE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";
    const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    let with_crlf = |text: &str| text.replace('\n', "\r\n");
    let (messages, chat) = ("/v1/messages?beta=true", "/v1/chat/completions");
    for (target, body, pieces) in [
        (messages, MESSAGE, [START, PING, DELTA].map(str::to_owned)),
        (messages, MESSAGE, [PING, PING, DELTA].map(str::to_owned)),
        (messages, MESSAGE, [START, PING, DELTA].map(with_crlf)),
        (messages, MESSAGE, [START, ": keep-alive\n\n", DELTA].map(str::to_owned)),
        (messages, MESSAGE, [START, ":\n", DELTA].map(str::to_owned)),
        (chat, CHAT, [CHUNK, ": PROCESSING\n\n", DONE].map(str::to_owned)),
        (chat, CHAT, [CHUNK, ":\n", DONE].map(str::to_owned)),
        (chat, CHAT_WITHOUT_USAGE, [CHUNK, ": PROCESSING\n\n", DONE].map(str::to_owned)),
        (chat, CHAT_WITHOUT_USAGE, [": PROCESSING\r\n\r\n", ":\r\n\r\n", DONE].map(str::to_owned)),
        (chat, CHAT_WITHOUT_USAGE, [CHUNK, ":\n", DONE].map(str::to_owned)),
    ] {
        let sent = pieces.clone();
        let provider = Upstream::start(move |_| {
            Plan::stream(sent.clone(), Duration::ZERO).insert_step(2, Step::Stall)
        })
        .await;
        let (_server, tenant) = start_gateway(&provider).await;
        let request = as_coding_agent(Request::post(target, body), &tenant.key, true);
        let mut response = request.send(&tenant.proxy).await;
        let (mut received, expected) = (Vec::new(), pieces[..2].concat());
        while received.len() < expected.len() {
            let piece = response.piece().await;
            let piece = piece.unwrap_or_else(|fault| panic!("{target} {pieces:?}: {fault}"));
            received.extend(piece.expect("more to come"));
        }
        assert_eq!(String::from_utf8_lossy(&received), expected);
        provider.release();
        let (rest, complete) = response.read_to_end().await;
        assert!(complete, "{pieces:?}");
        let expected_end = if body == CHAT_WITHOUT_USAGE { "data: [DONE]\n\n" } else { &pieces[2] };
        assert_eq!(String::from_utf8_lossy(&rest), expected_end);
        tenant.assert_settled().await;
    }
}
