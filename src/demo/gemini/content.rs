//! Contents on the wire: all at once, as events, or as a list that grows.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::demo::gemini::error::{GeminiError, JSON};
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::reply::{Reply, to_json, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams, ToolInvocation};

/// All of an answer, or a part of one.
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

/// Zeros are left out, as the real one does. Thoughts are no part of the candidates' tokens.
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

/// How many tokens are of which kind.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Modality {
    modality: &'static str,
    token_count: u64,
}

/// How the parts of a stream are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFraming {
    /// Server-sent events.
    Events,
    /// Entries of one JSON list.
    JsonArray,
}

const EVENTS: &str = "text/event-stream";

impl Modality {
    /// All of them are text.
    pub const fn text(token_count: u64) -> Self {
        Self { modality: "TEXT", token_count }
    }
}

impl Usage {
    fn of(used: ReportedUsage) -> Self {
        let told = |count: u64| Some(count).filter(|count| 0 < *count);
        Self {
            prompt_token_count: used.input,
            cached_content_token_count: told(used.cached),
            candidates_token_count: told(used.visible),
            total_token_count: used.input + used.output(),
            prompt_tokens_details: [Modality::text(used.input)],
            thoughts_token_count: told(used.reasoning),
        }
    }
}

/// The text of a response with these candidates.
fn response(
    asked: &DemoRequest<GenerationParams>,
) -> impl Fn(Vec<Candidate<'_>>, Option<ReportedUsage>) -> String {
    let response_id = unique_id();
    move |candidates, used| {
        let usage_metadata = used.map(Usage::of);
        let (model_version, response_id) = (&*asked.model, &*response_id);
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

const fn finish_reason(answer: &Generation) -> &'static str {
    if answer.is_truncated { "MAX_TOKENS" } else { "STOP" }
}

/// A call comes whole, or not at all where a bound cut it short.
fn function_call<'a>(tool: &'a ToolInvocation, answer: &Generation) -> Option<Part<'a>> {
    let args = serde_json::from_str(&answer.text()).ok()?;
    Some(Part::FunctionCall { name: &tool.name, args })
}

/// What is said, part by part, with the number of tokens of each.
fn parts<'a>(tool: Option<&'a ToolInvocation>, answer: &Generation) -> Vec<(Part<'a>, u64)> {
    match tool {
        Some(tool) => {
            let call = function_call(tool, answer);
            call.map(|call| (call, answer.tokens.len() as u64)).into_iter().collect()
        }
        None => {
            let portions = answer.deltas().into_iter();
            portions.map(|portion| (Part::Text(portion.text), portion.tokens)).collect()
        }
    }
}

/// All at once.
pub fn complete(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let candidate = |index| {
        let part = match &asked.params.tool {
            Some(tool) => function_call(tool, answer),
            None => Some(Part::Text(answer.text())).filter(|_| !answer.tokens.is_empty()),
        };
        candidate(index, part, Some(finish_reason(answer)))
    };
    let candidates = (0..asked.params.choices).map(candidate).collect();
    let text = response(asked)(candidates, ReportedUsage::of(asked, answer));
    Reply::complete(JSON, StatusCode::OK, text)
}

/// A few tokens at a time, each time with all that was used until then.
pub fn stream(
    asked: &DemoRequest<GenerationParams>,
    answer: &Generation,
    frame: StreamFraming,
) -> Reply {
    let all = ReportedUsage::of(asked, answer);
    let response = response(asked);
    let mut said = 0;
    let mut responses = Vec::new();
    for index in 0..asked.params.choices {
        for (part, tokens) in parts(asked.params.tool.as_ref(), answer) {
            said += tokens;
            let used = all.map(|all| ReportedUsage { visible: said, ..all });
            responses.push(response(vec![candidate(index, Some(part), None)], used));
        }
        // Of a call that was cut short the tokens count although nobody sees them.
        said = (index + 1) * answer.tokens.len() as u64;
        let last = candidate(index, Some(Part::Text(String::new())), Some(finish_reason(answer)));
        responses.push(response(vec![last], all.map(|all| ReportedUsage { visible: said, ..all })));
    }
    match frame {
        StreamFraming::Events => event_stream(&responses),
        StreamFraming::JsonArray => json_array(&responses),
    }
}

fn event_stream(responses: &[String]) -> Reply {
    let event = |text: &str| Bytes::from(format!("data: {text}\r\n\r\n"));
    let pieces = responses.iter().map(|response| event(response)).collect();
    Reply::stream(EVENTS, pieces, event(&GeminiError::stream_error()))
}

fn json_array(responses: &[String]) -> Reply {
    let entry = |(at, text): (usize, &String)| {
        Bytes::from(if at == 0 { format!("[{text}") } else { format!("\n,\r\n{text}") })
    };
    let mut pieces: Vec<Bytes> = responses.iter().enumerate().map(entry).collect();
    pieces.push(Bytes::from_static(b"\n]"));
    Reply::stream(JSON, pieces, Bytes::from(format!("\n,\r\n{}\n]", GeminiError::stream_error())))
}
