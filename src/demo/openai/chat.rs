//! A chat completion on the wire: all at once, or a stream of its chunks.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock;
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::openai::error::OpenAiError;
use crate::demo::openai::usage::{OpenAiUsage, UsageField};
use crate::demo::reply::{EVENT_STREAM, JSON, Reply, to_json, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams, ToolInvocation};

/// What every chunk and every completion begins with, in the order of the real ones.
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

fn head<'a>(asked: &'a DemoRequest<GenerationParams>, object: &'static str) -> Head<'a> {
    Head {
        id: format!("chatcmpl-{}", unique_id()),
        object,
        created: clock::wall_now().0 / 1000,
        model: &asked.model,
        service_tier: "default",
        system_fingerprint: "fp_d3a0b5c1e7",
    }
}

fn tool_call(tool: &ToolInvocation, arguments: String) -> ToolCall<'_> {
    let function = Function { name: Some(&tool.name), arguments };
    ToolCall { id: format!("call_{}", unique_id()), kind: "function", function }
}

/// A function that was named is called without a word about it: the real one says `stop`.
const fn finish_reason(talk: &GenerationParams, answer: &Generation) -> &'static str {
    match &talk.tool {
        _ if answer.is_truncated => "length",
        Some(tool) if !tool.was_named => "tool_calls",
        _ => "stop",
    }
}

/// All at once.
pub fn complete(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let choice = |index| {
        let tool = asked.params.tool.as_ref();
        let message = Message {
            role: "assistant",
            content: tool.is_none().then(|| answer.text()),
            tool_calls: tool.map(|tool| [tool_call(tool, answer.text())]),
            refusal: None,
            annotations: [],
        };
        let finish_reason = finish_reason(&asked.params, answer);
        Choice { index, message, logprobs: None, finish_reason }
    };
    let head = head(asked, "chat.completion");
    let choices = (0..asked.params.choices).map(choice).collect();
    let usage = ReportedUsage::of(asked, answer).map(OpenAiUsage::of_chat);
    Reply::complete(JSON, StatusCode::OK, to_json(&Completion { head, choices, usage }))
}

/// A few tokens at a time, with the usage at the end if that was asked for.
pub fn stream(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let usage = ReportedUsage::of(asked, answer).filter(|_| asked.params.includes_usage);
    let usage = usage.map(OpenAiUsage::of_chat);
    let head = head(asked, "chat.completion.chunk");
    let event = |choices, usage| {
        Bytes::from(format!("data: {}\n\n", to_json(&Chunk { head: &head, choices, usage })))
    };
    let piece = |index, delta, finish_reason| {
        let choice = ChunkChoice { index, delta, logprobs: None, finish_reason };
        event(vec![choice], UsageField::until_last_chunk(usage))
    };
    let tool = asked.params.tool.as_ref();
    let mut pieces = Vec::new();
    for index in 0..asked.params.choices {
        let start = Delta::Start {
            role: "assistant",
            content: tool.is_none().then_some(""),
            tool_calls: tool
                .map(|tool| [Indexed { index: 0, call: tool_call(tool, String::new()) }]),
            refusal: None,
        };
        pieces.push(piece(index, start, None));
        for portion in answer.deltas() {
            let delta = if tool.is_some() {
                let function = Function { name: None, arguments: portion.text };
                Delta::Arguments {
                    tool_calls: [Indexed { index: 0, call: Arguments { function } }],
                }
            } else {
                Delta::Text { content: portion.text }
            };
            pieces.push(piece(index, delta, None));
        }
        pieces.push(piece(index, Delta::End {}, Some(finish_reason(&asked.params, answer))));
    }
    pieces.extend(usage.map(|usage| event(Vec::new(), UsageField::Value(usage))));
    pieces.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::stream(EVENT_STREAM, pieces, OpenAiError::stream_error())
}
