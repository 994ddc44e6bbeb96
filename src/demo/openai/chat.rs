//! Wire format of a chat completion, complete or as a stream.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock;
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::openai::error::OpenAiError;
use crate::demo::openai::usage::{OpenAiUsage, UsageField};
use crate::demo::reply::{EVENT_STREAM, JSON, Reply, to_json, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams, ToolInvocation};

/// The fields shared by completions and chunks, in the order of the real provider.
#[derive(Debug, Clone, Serialize)]
struct Head<'a> {
    id: String,
    object: &'static str,
    created: i64,
    model: &'a str,
    service_tier: &'static str,
    system_fingerprint: &'static str,
}

#[derive(Debug, Serialize)]
struct Completion<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<OpenAiUsage>,
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: u64,
    message: Message<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
    refusal: Option<()>,
    annotations: [(); 0],
}

#[derive(Debug, Serialize)]
struct ToolCall<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Debug, Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: String,
}

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head<'a>,
    choices: Vec<ChunkChoice<'a>>,
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    usage: UsageField,
}

#[derive(Debug, Serialize)]
struct ChunkChoice<'a> {
    index: u64,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Delta<'a> {
    Start {
        role: &'static str,
        content: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_calls: Option<[Indexed<ToolCall<'a>>; 1]>,
        refusal: Option<()>,
    },
    Text {
        content: String,
    },
    Arguments {
        tool_calls: [Indexed<Arguments<'a>>; 1],
    },
    End {},
}

#[derive(Debug, Serialize)]
struct Indexed<T> {
    index: u64,
    #[serde(flatten)]
    call: T,
}

#[derive(Debug, Serialize)]
struct Arguments<'a> {
    function: Function<'a>,
}

fn head<'a>(request: &'a DemoRequest<GenerationParams>, object: &'static str) -> Head<'a> {
    Head {
        id: format!("chatcmpl-{}", unique_id()),
        object,
        created: clock::wall_now().0 / 1000,
        model: &request.model,
        service_tier: "default",
        system_fingerprint: "fp_d3a0b5c1e7",
    }
}

fn tool_call(tool: &ToolInvocation, arguments: String) -> ToolCall<'_> {
    let function = Function { name: Some(&tool.name), arguments };
    ToolCall { id: format!("call_{}", unique_id()), kind: "function", function }
}

/// The real provider reports `stop` for a call of a function that the request named.
const fn finish_reason(params: &GenerationParams, generation: &Generation) -> &'static str {
    match &params.tool {
        _ if generation.is_truncated => "length",
        Some(tool) if !tool.was_named => "tool_calls",
        _ => "stop",
    }
}

/// The completion as one JSON object.
pub fn complete(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let choice = |index| {
        let tool = request.params.tool.as_ref();
        let message = Message {
            role: "assistant",
            content: tool.is_none().then(|| generation.text()),
            tool_calls: tool.map(|tool| [tool_call(tool, generation.text())]),
            refusal: None,
            annotations: [],
        };
        let finish_reason = finish_reason(&request.params, generation);
        Choice { index, message, logprobs: None, finish_reason }
    };
    let head = head(request, "chat.completion");
    let choices = (0..request.params.choices).map(choice).collect();
    let usage = ReportedUsage::of(request, generation).map(OpenAiUsage::of_chat);
    Reply::complete(JSON, StatusCode::OK, to_json(&Completion { head, choices, usage }))
}

/// The completion as a stream, with usage in the last chunk if requested.
pub fn stream(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let usage = ReportedUsage::of(request, generation).filter(|_| request.params.includes_usage);
    let usage = usage.map(OpenAiUsage::of_chat);
    let head = head(request, "chat.completion.chunk");
    let event = |choices, usage| {
        Bytes::from(format!("data: {}\n\n", to_json(&Chunk { head: &head, choices, usage })))
    };
    let chunk = |index, delta, finish_reason| {
        let choice = ChunkChoice { index, delta, logprobs: None, finish_reason };
        event(vec![choice], UsageField::until_last_chunk(usage))
    };
    let tool = request.params.tool.as_ref();
    let mut chunks = Vec::new();
    for index in 0..request.params.choices {
        let start = Delta::Start {
            role: "assistant",
            content: tool.is_none().then_some(""),
            tool_calls: tool
                .map(|tool| [Indexed { index: 0, call: tool_call(tool, String::new()) }]),
            refusal: None,
        };
        chunks.push(chunk(index, start, None));
        for text_delta in generation.deltas() {
            let delta = if tool.is_some() {
                let function = Function { name: None, arguments: text_delta.text };
                Delta::Arguments {
                    tool_calls: [Indexed { index: 0, call: Arguments { function } }],
                }
            } else {
                Delta::Text { content: text_delta.text }
            };
            chunks.push(chunk(index, delta, None));
        }
        chunks.push(chunk(index, Delta::End {}, Some(finish_reason(&request.params, generation))));
    }
    chunks.extend(usage.map(|usage| event(Vec::new(), UsageField::Value(usage))));
    chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::stream(EVENT_STREAM, chunks, OpenAiError::stream_error())
}
