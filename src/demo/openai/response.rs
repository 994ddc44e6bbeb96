//! Wire format of responses, complete or as a stream, and of compactions and token counts.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::clock;
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::openai::error::OpenAiError;
use crate::demo::reply::{EVENT_STREAM, JSON, Reply, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams};

/// Stands for content that only the provider can decrypt.
const ENCRYPTED_CONTENT: &str = "Z0FBQUFBbWV0ZW9y";

/// The events of a stream, numbered in order.
#[derive(Debug, Default)]
struct Events(Vec<Bytes>);

impl Events {
    fn push(&mut self, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        data["sequence_number"] = self.0.len().into();
        self.0.push(format!("event: {kind}\ndata: {data}\n\n").into());
    }
}

const fn status(generation: &Generation) -> &'static str {
    if generation.is_truncated { "incomplete" } else { "completed" }
}

/// The response before any output.
fn in_progress(request: &DemoRequest<GenerationParams>) -> Value {
    json!({
        "id": format!("resp_{}", unique_id()),
        "object": "response",
        "created_at": clock::wall_now().0 / 1000,
        "status": "in_progress",
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": request.params.output_bound,
        "metadata": {},
        "model": request.model,
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

/// The response with its output and usage.
fn finished(
    mut response: Value,
    items: Vec<Value>,
    request: &DemoRequest<GenerationParams>,
    generation: &Generation,
) -> Value {
    response["status"] = status(generation).into();
    if generation.is_truncated {
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    response["output"] = items.into();
    response["usage"] = usage(request, generation);
    response
}

/// Usage, or null if the script turns it off.
fn usage(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Value {
    let usage = |used: ReportedUsage| {
        json!({
            "input_tokens": used.input,
            "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": 0},
            "output_tokens": used.output(),
            "output_tokens_details": {"reasoning_tokens": used.reasoning},
            "total_tokens": used.input + used.output(),
        })
    };
    ReportedUsage::of(request, generation).map_or(Value::Null, usage)
}

/// The output items: reasoning, then the message or function call.
fn output_items(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Vec<Value> {
    let reasoning =
        || json!({"type": "reasoning", "id": format!("rs_{}", unique_id()), "summary": []});
    let mut items: Vec<Value> =
        (0 < generation.reasoning_tokens).then(reasoning).into_iter().collect();
    let (text, status) = (generation.text(), status(generation));
    match &request.params.tool {
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

/// The response as one JSON object.
pub fn complete(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let response =
        finished(in_progress(request), output_items(request, generation), request, generation);
    Reply::complete(JSON, StatusCode::OK, response.to_string())
}

/// The response as a stream. The last event holds the whole response.
pub fn stream(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let (response, items) = (in_progress(request), output_items(request, generation));
    let mut events = Events::default();
    events.push("response.created", json!({"response": response}));
    events.push("response.in_progress", json!({"response": response}));
    for (index, item) in items.iter().enumerate() {
        add_item(&mut events, index, item, generation);
    }
    let last = format!("response.{}", status(generation));
    events.push(&last, json!({"response": finished(response, items, request, generation)}));
    let error_event = OpenAiError::response_stream_error(events.0.len() / 2);
    Reply::stream(EVENT_STREAM, events.0, error_event)
}

/// Adds the events of one output item.
fn add_item(events: &mut Events, index: usize, item: &Value, generation: &Generation) {
    let mut added = item.clone();
    for (name, empty) in
        [("content", json!([])), ("arguments", json!("")), ("status", json!("in_progress"))]
    {
        if let Some(value) = added.get_mut(name) {
            *value = empty;
        }
    }
    let added = json!({"output_index": index, "item": added});
    events.push("response.output_item.added", added);
    match item["type"].as_str() {
        Some("message") => add_text(events, index, item, generation),
        Some("function_call") => add_arguments(events, index, item, generation),
        _ => {}
    }
    let done = json!({"output_index": index, "item": item});
    events.push("response.output_item.done", done);
}

fn add_text(events: &mut Events, index: usize, item: &Value, generation: &Generation) {
    let data = |name: &str, value: Value| {
        let mut data = json!({"item_id": item["id"], "output_index": index, "content_index": 0});
        data[name] = value;
        data
    };
    let text = |name: &str, value: String| {
        let mut data = data(name, value.into());
        data["logprobs"] = json!([]);
        data
    };
    events.push("response.content_part.added", data("part", text_part("")));
    for text_delta in generation.deltas() {
        events.push("response.output_text.delta", text("delta", text_delta.text));
    }
    events.push("response.output_text.done", text("text", generation.text()));
    events.push("response.content_part.done", data("part", text_part(&generation.text())));
}

fn add_arguments(events: &mut Events, index: usize, item: &Value, generation: &Generation) {
    let kind = "response.function_call_arguments";
    let id = &item["id"];
    for text_delta in generation.deltas() {
        let data = json!({"item_id": id, "output_index": index, "delta": text_delta.text});
        events.push(&format!("{kind}.delta"), data);
    }
    let data = json!({"item_id": id, "output_index": index, "arguments": generation.text()});
    events.push(&format!("{kind}.done"), data);
}

/// Returns a compaction with encrypted content.
pub fn compact(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let id = format!("cmp_{}", unique_id());
    let compaction = json!({
        "id": format!("resp_{}", unique_id()),
        "object": "response.compaction",
        "created_at": clock::wall_now().0 / 1000,
        "output": [{"type": "compaction", "id": id, "encrypted_content": ENCRYPTED_CONTENT}],
        "usage": usage(request, generation),
    });
    Reply::complete(JSON, StatusCode::OK, compaction.to_string())
}

/// Returns the input token count.
pub fn input_token_count(request: &DemoRequest<GenerationParams>) -> Reply {
    let tokens = request.script.input_tokens.unwrap_or(request.params.input_tokens);
    let count = json!({"object": "response.input_tokens", "input_tokens": tokens});
    Reply::complete(JSON, StatusCode::OK, count.to_string())
}
