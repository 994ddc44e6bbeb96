//! Wire format of generated content: one object, an event stream or a JSON array.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::demo::gemini::error::{GeminiError, JSON};
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::reply::{Reply, to_json, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams, ToolInvocation};

/// A response, or one part of a stream.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerateContentResponse<'a> {
    candidates: Vec<Candidate<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_metadata: Option<Usage>,
    model_version: &'a str,
    response_id: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'static str>,
    index: u64,
}

#[derive(Debug, Serialize)]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<[Part<'a>; 1]>,
    role: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Part<'a> {
    Text(String),
    FunctionCall { name: &'a str, args: Value },
}

/// Usage. Zero counts are omitted, as by the real provider. Candidate tokens exclude reasoning.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    prompt_token_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_content_token_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates_token_count: Option<u64>,
    total_token_count: u64,
    prompt_tokens_details: [Modality; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    thoughts_token_count: Option<u64>,
}

/// Token count of one modality.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Modality {
    modality: &'static str,
    token_count: u64,
}

/// How the parts of a stream are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFraming {
    /// Server-sent events.
    Events,
    /// Elements of a JSON array.
    JsonArray,
}

const EVENTS: &str = "text/event-stream";

impl Modality {
    pub const fn text(token_count: u64) -> Self {
        Self { modality: "TEXT", token_count }
    }
}

impl Usage {
    fn of(used: ReportedUsage) -> Self {
        let non_zero = |count: u64| Some(count).filter(|count| 0 < *count);
        Self {
            prompt_token_count: used.input,
            cached_content_token_count: non_zero(used.cached),
            candidates_token_count: non_zero(used.visible),
            total_token_count: used.input + used.output(),
            prompt_tokens_details: [Modality::text(used.input)],
            thoughts_token_count: non_zero(used.reasoning),
        }
    }
}

/// Returns a function that serializes a response with these candidates and this usage.
fn response(
    request: &DemoRequest<GenerationParams>,
) -> impl Fn(Vec<Candidate<'_>>, Option<ReportedUsage>) -> String {
    let response_id = unique_id();
    move |candidates, used| {
        let usage_metadata = used.map(Usage::of);
        let (model_version, response_id) = (&*request.model, &*response_id);
        to_json(&GenerateContentResponse { candidates, usage_metadata, model_version, response_id })
    }
}

fn candidate<'a>(
    index: u64,
    part: Option<Part<'a>>,
    finish_reason: Option<&'static str>,
) -> Candidate<'a> {
    let content = Content { parts: part.map(|part| [part]), role: "model" };
    Candidate { content, finish_reason, index }
}

const fn finish_reason(generation: &Generation) -> &'static str {
    if generation.is_truncated { "MAX_TOKENS" } else { "STOP" }
}

/// The function call, or `None` if its arguments are truncated.
fn function_call<'a>(tool: &'a ToolInvocation, generation: &Generation) -> Option<Part<'a>> {
    let args = serde_json::from_str(&generation.text()).ok()?;
    Some(Part::FunctionCall { name: &tool.name, args })
}

/// The parts of a stream, each with its number of tokens.
fn parts<'a>(tool: Option<&'a ToolInvocation>, generation: &Generation) -> Vec<(Part<'a>, u64)> {
    match tool {
        Some(tool) => {
            let call = function_call(tool, generation);
            call.map(|call| (call, generation.tokens.len() as u64)).into_iter().collect()
        }
        None => {
            let text_deltas = generation.deltas().into_iter();
            text_deltas.map(|text_delta| (Part::Text(text_delta.text), text_delta.tokens)).collect()
        }
    }
}

/// The response as one JSON object.
pub fn complete(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let candidate = |index| {
        let part = match &request.params.tool {
            Some(tool) => function_call(tool, generation),
            None => Some(Part::Text(generation.text())).filter(|_| !generation.tokens.is_empty()),
        };
        candidate(index, part, Some(finish_reason(generation)))
    };
    let candidates = (0..request.params.choices).map(candidate).collect();
    let text = response(request)(candidates, ReportedUsage::of(request, generation));
    Reply::complete(JSON, StatusCode::OK, text)
}

/// The response as a stream. Each part reports the usage so far.
pub fn stream(
    request: &DemoRequest<GenerationParams>,
    generation: &Generation,
    frame: StreamFraming,
) -> Reply {
    let total = ReportedUsage::of(request, generation);
    let response = response(request);
    let mut visible = 0;
    let mut responses = Vec::new();
    for index in 0..request.params.choices {
        for (part, tokens) in parts(request.params.tool.as_ref(), generation) {
            visible += tokens;
            let used = total.map(|total| ReportedUsage { visible, ..total });
            responses.push(response(vec![candidate(index, Some(part), None)], used));
        }
        // The tokens of a truncated function call count, although the call is not sent.
        visible = (index + 1) * generation.tokens.len() as u64;
        let last =
            candidate(index, Some(Part::Text(String::new())), Some(finish_reason(generation)));
        responses.push(response(vec![last], total.map(|total| ReportedUsage { visible, ..total })));
    }
    match frame {
        StreamFraming::Events => event_stream(&responses),
        StreamFraming::JsonArray => json_array(&responses),
    }
}

fn event_stream(responses: &[String]) -> Reply {
    let event = |text: &str| Bytes::from(format!("data: {text}\r\n\r\n"));
    let chunks = responses.iter().map(|response| event(response)).collect();
    Reply::stream(EVENTS, chunks, event(&GeminiError::stream_error()))
}

fn json_array(responses: &[String]) -> Reply {
    let entry = |(index, text): (usize, &String)| {
        Bytes::from(if index == 0 { format!("[{text}") } else { format!("\n,\r\n{text}") })
    };
    let mut chunks: Vec<Bytes> = responses.iter().enumerate().map(entry).collect();
    chunks.push(Bytes::from_static(b"\n]"));
    Reply::stream(JSON, chunks, Bytes::from(format!("\n,\r\n{}\n]", GeminiError::stream_error())))
}
