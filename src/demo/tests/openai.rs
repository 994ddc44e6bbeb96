//! Chat completions in the OpenAI dialect.

use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::canned_text;
use crate::demo::tests::harness::{CHAT, ProviderResponse, messages, request, start_provider};

fn error(response: &ProviderResponse) -> (u16, Value) {
    assert!(response.is_complete && response.headers.contains_key("x-request-id"));
    (response.status.as_u16(), response.json()["error"].clone())
}

fn text_of(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_completion_has_the_real_wire_format() {
    let response = start_provider().await.chat("Say hello.", false).await;
    assert_eq!((response.status, response.is_complete), (StatusCode::OK, true));
    assert_eq!(response.headers["content-type"], "application/json");
    assert_eq!(response.headers["content-length"], response.text.len().to_string().as_str());
    assert!(response.text.starts_with(r#"{"id":"chatcmpl-"#), "{}", response.text);
    let body = response.json();
    assert_eq!(
        (&body["object"], &body["model"]),
        (&json!("chat.completion"), &json!("gpt-4o-mini"))
    );
    assert!(1_700_000_000 < body["created"].as_i64().expect("a timestamp"));
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let text: String = canned_text::tokens(canned_text::default_tokens()).collect();
    assert_eq!(choice["message"]["content"], text);
    // 3 tokens for the prompt, 4 per message and 3 for each of the two texts.
    assert_eq!(body["usage"]["prompt_tokens"], 17);
    assert_eq!(body["usage"]["completion_tokens"], canned_text::default_tokens());
    assert_eq!(body["usage"]["total_tokens"], 17 + canned_text::default_tokens());
}

#[tokio::test]
async fn a_stream_has_the_same_text() {
    let provider = start_provider().await;
    let complete = provider.chat("Say hello.", false).await.json();
    let chunks = provider.chat("Say hello.", true).await.chunks();
    assert_eq!(text_of(&chunks), complete["choices"][0]["message"]["content"]);
    let first = &chunks[0];
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role":"assistant","content":"","refusal":null})
    );
    assert!(chunks.iter().all(|chunk| chunk["id"] == first["id"]));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "usage was not requested");
    let last = chunks.last().expect("a last chunk");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({}));
}

#[tokio::test]
async fn a_stream_reports_usage_if_requested() {
    let provider = start_provider().await;
    let body = json!({"model": "gpt-4o", "messages": messages("x"), "stream": true,
        "stream_options": {"include_usage": true}, "max_completion_tokens": 5});
    let chunks = provider.post(CHAT, &body).await.chunks();
    let (last, others) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 5);
    for other in others {
        assert_eq!(other.get("usage"), Some(&Value::Null));
    }
    assert_eq!(others.last().expect("a finish")["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn output_limits_and_choices_are_applied_and_counted() {
    let provider = start_provider().await;
    for (limit, model, reasoning) in
        [("max_tokens", "gpt-4o", 0), ("max_completion_tokens", "o4-mini", 10)]
    {
        let body = json!({"model": model, "messages": messages("/tokens 50"), limit: 20, "n": 3});
        let response = provider.post(CHAT, &body).await.json();
        assert_eq!(response["choices"].as_array().map(Vec::len), Some(3));
        assert_eq!(response["choices"][2]["finish_reason"], "length");
        assert_eq!(response["usage"]["completion_tokens"], 60);
        let parts = &response["usage"]["completion_tokens_details"];
        assert_eq!(parts["reasoning_tokens"], 3 * reasoning);
    }
    let response =
        provider.chat("/tokens 100 /input 1000 /cached 400 /think 7", false).await.json();
    assert_eq!(response["usage"]["prompt_tokens"], 1000);
    assert_eq!(response["usage"]["prompt_tokens_details"]["cached_tokens"], 400);
    assert_eq!(response["usage"]["completion_tokens"], 107);
    assert_eq!(response["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn usage_can_be_turned_off() {
    let provider = start_provider().await;
    assert!(provider.chat("/nousage", false).await.json().get("usage").is_none());
    let body = json!({"model": "m", "messages": messages("/nousage"), "stream": true,
        "stream_options": {"include_usage": true}});
    let chunks = provider.post(CHAT, &body).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn errors_have_the_real_wire_format() {
    let provider = start_provider().await;
    let response = provider.chat("/error 429 please", true).await;
    assert_eq!(response.headers["retry-after"], "1");
    assert_eq!(error(&response).1["code"], "rate_limit_exceeded");
    for status in [400_u16, 401, 403, 404, 500, 503, 529] {
        let response = provider.chat(&format!("/error {status}"), false).await;
        assert_eq!(error(&response).0, status);
    }
    let of = async |body: &str| error(&provider.send(request(CHAT, body)).await);
    assert_eq!(of("{").await.0, 400);
    assert_eq!(of(r#"{"messages":[]}"#).await.1["message"], "you must provide a model parameter");
    assert_eq!(of(r#"{"model":"m"}"#).await.1["param"], "messages");
    assert_eq!(of(r#"{"model":"m","messages":[]}"#).await.1["code"], "empty_array");
    let bad = json!({"model": "m", "messages": messages("x"), "max_tokens": 0}).to_string();
    assert_eq!(of(&bad).await.1["param"], "max_tokens");
    let unknown = json!({"model": "m", "messages": messages("/tokens many")}).to_string();
    assert_eq!(of(&unknown).await.1["code"], "invalid_demo_command");
    assert_eq!(error(&provider.send(request("/v1/nothing", "{}")).await).0, 404);
}

#[tokio::test]
async fn models_are_listed() {
    let provider = start_provider().await;
    let list = provider.get("/v1/models").await.json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(16));
    let one = provider.get("/v1/models/gpt-4o").await.json();
    assert_eq!(one["id"], "gpt-4o");
    assert_eq!(error(&provider.get("/v1/models/none").await).0, 404);
}
