//! Tool calls and stream errors in the OpenAI dialect.

use serde_json::{Value, json};

use crate::demo::tests::harness::{CHAT, event_data, messages, start_provider};

fn with_tools(prompt: &str, choice: &Value, stream: bool) -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let function = |name: &str| {
        json!({"type": "function", "function": {"name": name,
        "parameters": city}})
    };
    json!({"model": "gpt-4o", "messages": messages(prompt), "stream": stream, "tool_choice": choice,
        "tools": [function("weather"), function("time")]})
}

#[tokio::test]
async fn a_demanded_tool_is_called() {
    let provider = start_provider().await;
    let named = json!({"type": "function", "function": {"name": "time"}});
    for (prompt, choice, name, finish) in [
        ("x", json!("required"), "weather", "tool_calls"),
        ("/tool", json!("auto"), "weather", "tool_calls"),
        ("x", named, "time", "stop"),
    ] {
        let complete = provider.post(CHAT, &with_tools(prompt, &choice, false)).await.json();
        let complete_choice = &complete["choices"][0];
        assert_eq!(complete_choice["message"]["content"], Value::Null);
        let call = &complete_choice["message"]["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!(name)));
        assert_eq!(call["function"]["arguments"], r#"{"city":"demo"}"#);
        assert_eq!(complete_choice["finish_reason"], finish);
        assert_eq!(complete["usage"]["completion_tokens"], 4);

        let chunks = provider.post(CHAT, &with_tools(prompt, &choice, true)).await.chunks();
        let calls = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]);
        let calls: Vec<&Value> = calls.filter(|call| !call.is_null()).collect();
        assert_eq!((&calls[0]["index"], &calls[0]["function"]["name"]), (&json!(0), &json!(name)));
        let arguments = calls.iter().filter_map(|call| call["function"]["arguments"].as_str());
        assert_eq!(arguments.collect::<String>(), r#"{"city":"demo"}"#);
        let last = chunks.last().expect("a last chunk");
        assert_eq!(last["choices"][0]["finish_reason"], finish);
    }
}

#[tokio::test]
async fn no_tool_is_called_without_a_demand() {
    let provider = start_provider().await;
    let undemanded = provider.post(CHAT, &with_tools("x", &json!("auto"), false)).await.json();
    assert!(undemanded["choices"][0]["message"].get("tool_calls").is_none());
    let without = provider.chat("/tool", false).await.json();
    assert_eq!(without["choices"][0]["finish_reason"], "stop");
    let mut truncated = with_tools("x", &json!("required"), false);
    truncated["max_tokens"] = json!(2);
    let truncated = provider.post(CHAT, &truncated).await.json();
    assert_eq!(truncated["usage"]["completion_tokens"], 2);
    assert_eq!(truncated["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_stream_can_end_with_an_error() {
    let provider = start_provider().await;
    let broken = provider.chat("/breakoff", true).await;
    let events = broken.events("text/event-stream; charset=utf-8", "\n\n");
    assert!(broken.is_complete && 2 < events.len() && !broken.text.contains("[DONE]"));
    let (last, others) = events.split_last().expect("events");
    assert_eq!(event_data(last)["error"]["type"], "service_unavailable");
    assert!(others.iter().all(|event| event_data(event).get("error").is_none()));
    assert!(others.iter().all(|event| event_data(event)["choices"][0]["finish_reason"].is_null()));
    let complete = provider.chat("/breakoff", false).await;
    assert_eq!(complete.json()["choices"][0]["finish_reason"], "stop");
}
