//! A response on the wire: all at once, or a stream of its events. And what only counts or shortens.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::clock;
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::openai::error::OpenAiError;
use crate::demo::reply::{EVENT_STREAM, JSON, Reply, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams};

/// What nobody but the provider could read.
const ENCRYPTED_CONTENT: &str = "Z0FBQUFBbWV0ZW9y";

/// The events of a stream, each with its number.
#[derive(Debug, Default)]
struct Events(Vec<Bytes>);

impl Events {
    fn push(&mut self, kind: &str, mut said: Value) {
        said["type"] = kind.into();
        said["sequence_number"] = self.0.len().into();
        self.0.push(format!("event: {kind}\ndata: {said}\n\n").into());
    }
}

const fn status(answer: &Generation) -> &'static str {
    if answer.is_truncated { "incomplete" } else { "completed" }
}

/// A response before anything was said.
fn in_progress(asked: &DemoRequest<GenerationParams>) -> Value {
    json!({
        "id": format!("resp_{}", unique_id()),
        "object": "response",
        "created_at": clock::wall_now().0 / 1000,
        "status": "in_progress",
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": asked.params.output_bound,
        "metadata": {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "service_tier": "default",
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
        "usage": null,
    })
}

/// The same when all was said.
fn finished(
    mut response: Value,
    items: Vec<Value>,
    asked: &DemoRequest<GenerationParams>,
    answer: &Generation,
) -> Value {
    response["status"] = status(answer).into();
    if answer.is_truncated {
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    response["output"] = items.into();
    response["usage"] = usage(asked, answer);
    response
}

/// The usage; null if the script says that it is not told.
fn usage(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Value {
    let told = |used: ReportedUsage| {
        json!({
            "input_tokens": used.input,
            "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": 0},
            "output_tokens": used.output(),
            "output_tokens_details": {"reasoning_tokens": used.reasoning},
            "total_tokens": used.input + used.output(),
        })
    };
    ReportedUsage::of(asked, answer).map_or(Value::Null, told)
}

/// The items of the output: the thoughts, then the message or the call of a function.
fn output_items(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Vec<Value> {
    let thoughts =
        || json!({"type": "reasoning", "id": format!("rs_{}", unique_id()), "summary": []});
    let mut items: Vec<Value> = (0 < answer.reasoning_tokens).then(thoughts).into_iter().collect();
    let (text, status) = (answer.text(), status(answer));
    match &asked.params.tool {
        _ if text.is_empty() => {}
        Some(tool) => items.push(json!({
            "type": "function_call", "id": format!("fc_{}", unique_id()), "status": status,
            "call_id": format!("call_{}", unique_id()), "name": tool.name, "arguments": text,
        })),
        None => items.push(json!({
            "type": "message", "id": format!("msg_{}", unique_id()), "status": status,
            "role": "assistant", "content": [text_part(&text)],
        })),
    }
    items
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// All at once.
pub fn complete(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let response = finished(in_progress(asked), output_items(asked, answer), asked, answer);
    Reply::complete(JSON, StatusCode::OK, response.to_string())
}

/// A few tokens at a time, with the whole response at the end.
pub fn stream(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let (begun, items) = (in_progress(asked), output_items(asked, answer));
    let mut events = Events::default();
    events.push("response.created", json!({"response": begun}));
    events.push("response.in_progress", json!({"response": begun}));
    for (index, item) in items.iter().enumerate() {
        add_item(&mut events, index, item, answer);
    }
    let last = format!("response.{}", status(answer));
    events.push(&last, json!({"response": finished(begun, items, asked, answer)}));
    let breakoff = OpenAiError::response_stream_error(events.0.len() / 2);
    Reply::stream(EVENT_STREAM, events.0, breakoff)
}

/// An item with what is said in it.
fn add_item(events: &mut Events, index: usize, item: &Value, answer: &Generation) {
    let mut silent = item.clone();
    for (name, nothing) in
        [("content", json!([])), ("arguments", json!("")), ("status", json!("in_progress"))]
    {
        if let Some(value) = silent.get_mut(name) {
            *value = nothing;
        }
    }
    let added = json!({"output_index": index, "item": silent});
    events.push("response.output_item.added", added);
    match item["type"].as_str() {
        Some("message") => add_text(events, index, item, answer),
        Some("function_call") => add_arguments(events, index, item, answer),
        _ => {}
    }
    let done = json!({"output_index": index, "item": item});
    events.push("response.output_item.done", done);
}

fn add_text(events: &mut Events, index: usize, item: &Value, answer: &Generation) {
    let place = |name: &str, value: Value| {
        let mut said = json!({"item_id": item["id"], "output_index": index, "content_index": 0});
        said[name] = value;
        said
    };
    let text = |name: &str, value: String| {
        let mut said = place(name, value.into());
        said["logprobs"] = json!([]);
        said
    };
    events.push("response.content_part.added", place("part", text_part("")));
    for portion in answer.deltas() {
        events.push("response.output_text.delta", text("delta", portion.text));
    }
    events.push("response.output_text.done", text("text", answer.text()));
    events.push("response.content_part.done", place("part", text_part(&answer.text())));
}

fn add_arguments(events: &mut Events, index: usize, item: &Value, answer: &Generation) {
    let kind = "response.function_call_arguments";
    let id = &item["id"];
    for portion in answer.deltas() {
        let said = json!({"item_id": id, "output_index": index, "delta": portion.text});
        events.push(&format!("{kind}.delta"), said);
    }
    let said = json!({"item_id": id, "output_index": index, "arguments": answer.text()});
    events.push(&format!("{kind}.done"), said);
}

/// A shorter form of what was said, which only the provider can read.
pub fn compact(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let id = format!("cmp_{}", unique_id());
    let compaction = json!({
        "id": format!("resp_{}", unique_id()),
        "object": "response.compaction",
        "created_at": clock::wall_now().0 / 1000,
        "output": [{"type": "compaction", "id": id, "encrypted_content": ENCRYPTED_CONTENT}],
        "usage": usage(asked, answer),
    });
    Reply::complete(JSON, StatusCode::OK, compaction.to_string())
}

/// How many tokens the input comes to.
pub fn input_token_count(asked: &DemoRequest<GenerationParams>) -> Reply {
    let tokens = asked.script.input_tokens.unwrap_or(asked.params.input_tokens);
    let count = json!({"object": "response.input_tokens", "input_tokens": tokens});
    Reply::complete(JSON, StatusCode::OK, count.to_string())
}
