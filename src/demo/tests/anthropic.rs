//! Messages in the Anthropic dialect.

use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::canned_text;
use crate::demo::tests::harness::{
    ProviderResponse, TestProvider, event_data, request, start_provider,
};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn message_body(prompt: &str, stream: bool) -> Value {
    json!({"model": "claude-haiku-4-5", "max_tokens": 1000, "stream": stream,
        "system": "Be brief.", "messages": [{"role": "user", "content": prompt}]})
}

async fn send_message(provider: &TestProvider, prompt: &str, stream: bool) -> ProviderResponse {
    provider.post(MESSAGES, &message_body(prompt, stream)).await
}

/// Returns the events of a stream. The name of each event equals its type.
fn events(response: &ProviderResponse) -> Vec<Value> {
    let events = response.events("text/event-stream; charset=utf-8", "\n\n");
    let fields = events.into_iter().map(|event| {
        let (name, rest) = event.split_once('\n').expect("two lines");
        let data = event_data(rest);
        assert_eq!(name, format!("event: {}", data["type"].as_str().expect("a type")));
        data
    });
    fields.collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    types.dedup();
    types
}

fn deltas(events: &[Value], name: &str) -> String {
    events.iter().filter_map(|event| event["delta"][name].as_str()).collect()
}

fn error(response: &ProviderResponse) -> (u16, Value) {
    let body = response.json();
    assert_eq!(body["type"], "error");
    assert_eq!(body["request_id"], response.headers["request-id"].to_str().expect("a text"));
    (response.status.as_u16(), body["error"].clone())
}

#[tokio::test]
async fn a_message_has_the_real_wire_format() {
    let provider = start_provider().await;
    let response = send_message(&provider, "Say hello.", false).await;
    assert_eq!((response.status, response.is_complete), (StatusCode::OK, true));
    assert_eq!(response.headers["content-type"], "application/json");
    assert!(response.headers.contains_key("request-id"));
    let body = response.json();
    assert!(body["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
    let text: String = canned_text::tokens(canned_text::default_tokens()).collect();
    assert_eq!(body["content"], json!([{"type": "text", "text": text}]));
    assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    let usage = json!({"input_tokens": 17, "output_tokens": canned_text::default_tokens(),
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation":
        {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard", "inference_geo": "not_available"});
    assert_eq!(body["usage"], usage);
}

#[tokio::test]
async fn a_stream_reports_usage_at_start_and_end() {
    let provider = start_provider().await;
    let response =
        provider.post("/v1/messages?beta=true", &message_body("/cached 5 x", true)).await;
    let events = events(&response);
    let expected = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types(&events), expected);
    let message = &events[0]["message"];
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!(message["usage"]["input_tokens"], 12, "cached tokens are excluded");
    assert_eq!(message["usage"]["cache_read_input_tokens"], 5);
    assert_eq!(message["usage"]["output_tokens"], 1);
    assert_eq!(events[1]["content_block"], json!({"type": "text", "text": ""}));
    let text: String = canned_text::tokens(canned_text::default_tokens()).collect();
    assert_eq!(deltas(&events, "text"), text);
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"], json!({"stop_reason": "end_turn", "stop_sequence": null}));
    let usage = json!({"input_tokens": 12, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 5, "output_tokens": canned_text::default_tokens()});
    assert_eq!(last["usage"], usage);
}

#[tokio::test]
async fn max_tokens_is_applied_and_optional() {
    let provider = start_provider().await;
    let mut body = message_body("/tokens 50", false);
    body["max_tokens"] = json!(20);
    let truncated = provider.post(MESSAGES, &body).await.json();
    assert_eq!(
        (&truncated["stop_reason"], &truncated["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(20))
    );
    body.as_object_mut().expect("an object").remove("max_tokens");
    let long = provider.post(MESSAGES, &body).await.json();
    assert_eq!(
        (&long["stop_reason"], &long["usage"]["output_tokens"]),
        (&json!("end_turn"), &json!(50))
    );
}

#[tokio::test]
async fn reasoning_comes_first_and_counts() {
    let provider = start_provider().await;
    let mut body = message_body("/tokens 9", true);
    body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    let events = events(&provider.post(MESSAGES, &body).await);
    let blocks = events.iter().filter(|event| event["type"] == "content_block_start");
    let blocks: Vec<&Value> = blocks.map(|event| &event["content_block"]["type"]).collect();
    assert_eq!(blocks, ["thinking", "text"]);
    assert!(!deltas(&events, "thinking").is_empty() && !deltas(&events, "signature").is_empty());
    let usage = &events[events.len() - 2]["usage"];
    assert_eq!(usage["output_tokens"], 41);
    assert_eq!(usage["output_tokens_details"]["thinking_tokens"], 32);
    let complete = send_message(&provider, "/think 7 /tokens 9", false).await.json();
    assert_eq!(
        (&complete["content"][0]["type"], &complete["content"][1]["type"]),
        (&json!("thinking"), &json!("text"))
    );
    assert_eq!(complete["usage"]["output_tokens"], 16);
}

#[tokio::test]
async fn a_demanded_tool_is_used() {
    let provider = start_provider().await;
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tools = json!([{"name": "weather", "input_schema": schema}, {"name": "time",
        "input_schema": schema}]);
    for (prompt, choice, name) in [
        ("x", json!({"type": "any"}), "weather"),
        ("/tool", json!({"type": "auto"}), "weather"),
        ("x", json!({"type": "tool", "name": "time"}), "time"),
    ] {
        let mut body = message_body(prompt, false);
        (body["tools"], body["tool_choice"]) = (tools.clone(), choice);
        let complete = provider.post(MESSAGES, &body).await.json();
        let used = &complete["content"][0];
        assert_eq!((&used["type"], &used["name"]), (&json!("tool_use"), &json!(name)));
        assert_eq!(
            (&used["input"], &complete["stop_reason"]),
            (&json!({"city": "demo"}), &json!("tool_use"))
        );
        assert_eq!(complete["usage"]["output_tokens"], 4);
        body["stream"] = json!(true);
        let events = events(&provider.post(MESSAGES, &body).await);
        let block = &events[1]["content_block"];
        assert_eq!(
            (&block["type"], &block["name"], &block["input"]),
            (&json!("tool_use"), &json!(name), &json!({}))
        );
        assert_eq!(deltas(&events, "partial_json"), r#"{"city":"demo"}"#);
        assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    }
    let mut undemanded = message_body("x", false);
    undemanded["tools"] = tools;
    assert_eq!(provider.post(MESSAGES, &undemanded).await.json()["stop_reason"], "end_turn");
}

#[tokio::test]
async fn a_stream_can_end_with_an_error() {
    let provider = start_provider().await;
    let broken = send_message(&provider, "/breakoff", true).await;
    let events = events(&broken);
    assert!(broken.is_complete && 3 < events.len());
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message":
        "Overloaded"}});
    assert_eq!(events.last(), Some(&error));
    assert!(!types(&events).contains(&"message_delta"));
    let complete = send_message(&provider, "/breakoff", false).await.json();
    assert_eq!(complete["stop_reason"], "end_turn");
}

#[tokio::test]
async fn usage_can_be_turned_off() {
    let provider = start_provider().await;
    assert!(send_message(&provider, "/nousage", false).await.json().get("usage").is_none());
    let response = send_message(&provider, "/nousage", true).await;
    assert!(
        !response.text.contains(r#""usage":"#)
            && types(&events(&response)).contains(&"message_stop")
    );
}

#[tokio::test]
async fn token_counts_match_message_usage() {
    let provider = start_provider().await;
    let body = message_body("Say hello.", false);
    assert_eq!(provider.post(COUNT, &body).await.text, r#"{"input_tokens":17}"#);
    let blocks = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "abcd"}, {"type": "image", "source": {}}]}]});
    assert_eq!(provider.post(COUNT, &blocks).await.text, r#"{"input_tokens":93}"#);
    assert_eq!(error(&provider.post(COUNT, &message_body("/error 529", false)).await).0, 529);
}

#[tokio::test]
async fn errors_have_the_real_wire_format() {
    let provider = start_provider().await;
    for (status, kind) in [
        (400_u16, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ] {
        let response = send_message(&provider, &format!("/error {status}"), true).await;
        let (fields, error) = error(&response);
        assert_eq!((fields, &error["type"]), (status, &json!(kind)));
        assert_eq!(response.headers.contains_key("retry-after"), status == 429);
    }
    for (name, value, message) in [
        ("model", json!(""), "model: Field required"),
        ("messages", Value::Null, "messages: Field required"),
        ("messages", json!([]), "messages: at least one message is required"),
        ("max_tokens", json!(0), "Invalid 'max_tokens'"),
    ] {
        let mut body = message_body("x", false);
        body[name] = value;
        let (status, error) = error(&provider.post(MESSAGES, &body).await);
        assert_eq!(status, 400);
        assert!(error["message"].as_str().is_some_and(|text| text.starts_with(message)), "{error}");
    }
    let mut bare = request(MESSAGES, &message_body("x", false).to_string());
    bare.headers_mut().remove("anthropic-version");
    let (status, error) = error(&provider.send(bare).await);
    assert_eq!((status, &error["message"]), (400, &json!("anthropic-version: header is required")));
}
