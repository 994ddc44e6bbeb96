//! Responses and moderations in the OpenAI dialect.

use serde_json::{Map, Value, json};

use crate::demo::canned_text;
use crate::demo::tests::harness::{ProviderResponse, event_data, start_provider};

const RESPONSES: &str = "/v1/responses";
const MODERATIONS: &str = "/v1/moderations";

/// Returns the events of a stream. Checks that names, types and sequence numbers agree.
fn events(response: &ProviderResponse) -> Vec<Value> {
    let events = response.events("text/event-stream; charset=utf-8", "\n\n");
    let read = |(number, event): (usize, &str)| {
        let (kind, line) = event.split_once('\n').expect("two lines");
        let data = event_data(line);
        assert_eq!(data["type"], kind.strip_prefix("event: ").expect("a name"));
        assert_eq!(data["sequence_number"], number);
        data
    };
    events.into_iter().enumerate().map(read).collect()
}

/// Returns the types of all events but deltas.
fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["type"].as_str().expect("a kind"));
    let kinds = kinds.map(|kind| kind.strip_prefix("response.").unwrap_or(kind));
    kinds.filter(|kind| !kind.contains("delta")).collect()
}

fn deltas(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["delta"].as_str()).collect()
}

#[tokio::test]
async fn a_response_has_the_real_wire_format() {
    let body = json!({"model": "gpt-4o", "input": "Say hello.", "instructions": "Be brief."});
    let response = start_provider().await.post(RESPONSES, &body).await;
    assert!(response.headers.contains_key("openai-processing-ms"));
    let response = response.json();
    assert!(response["id"].as_str().is_some_and(|id| id.starts_with("resp_")));
    let fields = ["object", "model", "status", "service_tier"].map(|name| &response[name]);
    assert_eq!(fields, ["response", "gpt-4o", "completed", "default"]);
    assert_eq!((&response["error"], &response["incomplete_details"]), (&Value::Null, &Value::Null));
    let message = &response["output"][0];
    assert_eq!((&message["type"], &message["status"]), (&json!("message"), &json!("completed")));
    let text: String = canned_text::tokens(canned_text::default_tokens()).collect();
    assert_eq!(message["content"][0]["text"], text);
    // 3 tokens for the prompt, 4 for each of two messages and 3 for each of their texts.
    let (input, output) = (17, canned_text::default_tokens());
    let usage = json!({"input_tokens": input, "output_tokens": output,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + output});
    assert_eq!(response["usage"], usage);
}

#[tokio::test]
async fn a_streamed_response_has_the_same_output() {
    let provider = start_provider().await;
    let body = json!({"model": "gpt-4o", "stream": true,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "/tokens 9"}]}]});
    let events = events(&provider.post(RESPONSES, &body).await);
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ];
    assert_eq!(kinds(&events), expected);
    let text: String = canned_text::tokens(9).collect();
    assert_eq!(deltas(&events), text);
    assert_eq!(events[0]["response"]["usage"], Value::Null);
    assert_eq!(
        (&events[2]["item"]["content"], &events[3]["part"]["text"]),
        (&json!([]), &"".into())
    );
    let last = &events.last().expect("an end")["response"];
    assert_eq!(last["id"], events[0]["response"]["id"]);
    assert_eq!(last["output"][0]["id"], events[2]["item"]["id"]);
    assert_eq!(last["output"][0]["content"][0]["text"], text);
    assert_eq!(last["usage"]["output_tokens"], 9);
}

#[tokio::test]
async fn reasoning_is_an_item_and_the_output_limit_truncates() {
    let provider = start_provider().await;
    let mut body = json!({"model": "o4-mini", "input": "/tokens 50", "max_output_tokens": 20});
    let complete = provider.post(RESPONSES, &body).await.json();
    assert_eq!(complete["output"][0]["type"], "reasoning");
    assert_eq!(complete["output"][1]["status"], "incomplete");
    assert_eq!(complete["status"], "incomplete");
    assert_eq!(complete["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(complete["usage"]["output_tokens"], 20);
    assert_eq!(complete["usage"]["output_tokens_details"]["reasoning_tokens"], 10);
    body["stream"] = true.into();
    let events = events(&provider.post(RESPONSES, &body).await);
    assert_eq!(kinds(&events)[2..4], ["output_item.added", "output_item.done"]);
    let last = events.last().expect("an end");
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["usage"], complete["usage"]);
    body["input"] = "/think 20 /nousage".into();
    body["stream"] = false.into();
    let without_usage = provider.post(RESPONSES, &body).await.json();
    assert_eq!(
        without_usage["output"].as_array().map(Vec::len),
        Some(1),
        "all tokens are reasoning"
    );
    assert_eq!(without_usage["usage"], Value::Null);
}

#[tokio::test]
async fn a_response_calls_the_demanded_function() {
    let provider = start_provider().await;
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let function = |name| json!({"type": "function", "name": name, "parameters": city});
    let mut body = json!({"model": "gpt-4o", "input": "x",
        "tools": [function("weather"), function("time")],
        "tool_choice": {"type": "function", "name": "time"}});
    let complete = provider.post(RESPONSES, &body).await.json();
    let call = &complete["output"][0];
    let fields = ["type", "name", "arguments", "status"].map(|name| &call[name]);
    assert_eq!(fields, ["function_call", "time", r#"{"city":"demo"}"#, "completed"]);
    body["tool_choice"] = "required".into();
    body["stream"] = true.into();
    let events = events(&provider.post(RESPONSES, &body).await);
    let inside = ["output_item.added", "function_call_arguments.done", "output_item.done"];
    assert_eq!(kinds(&events)[2..5], inside);
    let added = &events[2]["item"];
    assert_eq!((&added["name"], &added["arguments"]), (&json!("weather"), &json!("")));
    assert_eq!(deltas(&events), r#"{"city":"demo"}"#);
}

#[tokio::test]
async fn a_streamed_response_can_end_with_an_error() {
    let body = json!({"model": "m", "input": "/breakoff", "stream": true});
    let events = events(&start_provider().await.post(RESPONSES, &body).await);
    let (last, others) = events.split_last().expect("events");
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("service_unavailable"))
    );
    assert!(2 < others.len() && others.iter().all(|event| event.get("error").is_none()));
}

#[tokio::test]
async fn input_can_be_counted_or_compacted() {
    let provider = start_provider().await;
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,AA=="});
    for (input, tokens) in [
        (json!("Say hello."), 10),
        (json!([{"role": "user", "content": [image]}]), 92),
        (json!([{"type": "function_call_output", "call_id": "c", "output": "abcd"}]), 8),
        (json!("/input 4711"), 4711),
    ] {
        let body = json!({"model": "m", "input": input});
        let count = provider.post("/v1/responses/input_tokens", &body).await.json();
        let expected = json!({"object": "response.input_tokens", "input_tokens": tokens});
        assert_eq!(count, expected, "{input}");
        let short = provider.post("/v1/responses/compact", &body).await.json();
        assert_eq!(short["object"], "response.compaction");
        assert_eq!(short["output"][0]["type"], "compaction");
        assert_eq!(short["usage"]["input_tokens"], tokens);
    }
    for (name, value) in [
        ("input", json!(null)),
        ("input", json!([])),
        ("input", json!(7)),
        ("max_output_tokens", json!(0)),
    ] {
        let mut body = json!({"model": "m", "input": "x"});
        body[name] = value;
        let response = provider.post(RESPONSES, &body).await;
        assert_eq!(
            (response.status.as_u16(), &response.json()["error"]["param"]),
            (400, &json!(name))
        );
    }
    let refused = provider.post(RESPONSES, &json!({"model": "m", "input": "/error 429"})).await;
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
}

#[tokio::test]
async fn moderation_never_flags() {
    let provider = start_provider().await;
    let parts = json!([{"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "https://a/b"}}]);
    for (input, count) in [(json!("a"), 1), (json!(["a", "b"]), 2), (parts, 1)] {
        let result = provider.post(MODERATIONS, &json!({"input": input})).await.json();
        assert_eq!(result["model"], "omni-moderation-latest");
        let results = result["results"].as_array().expect("results");
        assert_eq!(results.len(), count, "{input}");
        assert_eq!(results[0]["flagged"], false);
        for (category, flagged) in results[0]["categories"].as_object().expect("categories") {
            assert_eq!(
                (flagged, &results[0]["category_scores"][category]),
                (&json!(false), &json!(0))
            );
        }
        assert_eq!(results[0]["categories"].as_object().map(Map::len), Some(13));
    }
    for input in [json!(null), json!([]), json!(7), json!([7])] {
        let response = provider.post(MODERATIONS, &json!({"input": input})).await;
        assert_eq!(
            (response.status.as_u16(), &response.json()["error"]["param"]),
            (400, &json!("input"))
        );
    }
    let refused = provider.post(MODERATIONS, &json!({"input": ["a", "/error 500"]})).await;
    assert_eq!(refused.status, 500);
}
