//! Wire format of a message, complete or as a stream.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::demo::anthropic::error::AnthropicError;
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::reply::{EVENT_STREAM, JSON, Reply, to_json, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams};

#[derive(Debug, Serialize)]
struct Message<'a> {
    model: &'a str,
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    content: Vec<Block<'a>>,
    #[serde(flatten)]
    stop: StopFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct StopFields {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<()>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Thinking { thinking: &'static str, signature: &'static str },
    Text { text: String },
    ToolUse { id: String, name: &'a str, input: Value },
}

/// Usage, reported in the first and the last event of a stream. `input_tokens` excludes cached
/// ones.
#[derive(Debug, Clone, Copy, Serialize)]
struct Usage {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation: Option<CacheCreation>,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_geo: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct OutputDetails {
    thinking_tokens: u64,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    MessageStart {
        message: Message<'a>,
    },
    ContentBlockStart {
        index: usize,
        content_block: Block<'a>,
    },
    Ping,
    ContentBlockDelta {
        index: usize,
        delta: Delta,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: StopFields,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    MessageStop,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Delta {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'static str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'static str },
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: String },
}

const THINKING: &str = "The response is the same for every request.";
const SIGNATURE: &str = "bWV0ZW9y";

impl Event<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::Ping => "ping",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }

    fn to_sse(&self) -> Bytes {
        Bytes::from(format!("event: {}\ndata: {}\n\n", self.name(), to_json(self)))
    }
}

impl Usage {
    fn of(used: ReportedUsage) -> Self {
        let parts = OutputDetails { thinking_tokens: used.reasoning };
        Self {
            input_tokens: used.input - used.cached,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: used.cached,
            cache_creation: Some(CacheCreation {
                ephemeral_5m_input_tokens: 0,
                ephemeral_1h_input_tokens: 0,
            }),
            output_tokens: used.output(),
            output_tokens_details: (0 < used.reasoning).then_some(parts),
            service_tier: Some("standard"),
            inference_geo: Some("not_available"),
        }
    }

    /// Usage in the first event. The real provider reports one output token here.
    fn at_start(used: ReportedUsage) -> Self {
        let output_tokens = used.output().min(1);
        Self { output_tokens, output_tokens_details: None, ..Self::of(used) }
    }

    /// Usage in the last event: totals of the whole message.
    fn at_end(used: ReportedUsage) -> Self {
        Self { cache_creation: None, service_tier: None, inference_geo: None, ..Self::of(used) }
    }
}

fn message(request: &DemoRequest<GenerationParams>) -> Message<'_> {
    Message {
        model: &request.model,
        id: format!("msg_{}", unique_id()),
        kind: "message",
        role: "assistant",
        content: Vec::new(),
        stop: StopFields::default(),
        usage: None,
    }
}

const fn stop_fields(params: &GenerationParams, generation: &Generation) -> StopFields {
    let reason = match params.tool {
        _ if generation.is_truncated => "max_tokens",
        Some(_) => "tool_use",
        None => "end_turn",
    };
    StopFields { stop_reason: Some(reason), stop_sequence: None }
}

/// The output block: text, or the use of a tool with this input.
fn output_block(request: &DemoRequest<GenerationParams>, text: String, input: Value) -> Block<'_> {
    match &request.params.tool {
        Some(tool) => {
            Block::ToolUse { id: format!("toolu_{}", unique_id()), name: &tool.name, input }
        }
        None => Block::Text { text },
    }
}

/// The message as one JSON object. Tool input that is truncated is no valid JSON and therefore
/// omitted.
pub fn complete(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let reasoning = Block::Thinking { thinking: THINKING, signature: SIGNATURE };
    let mut content: Vec<Block<'_>> =
        (0 < generation.reasoning_tokens).then_some(reasoning).into_iter().collect();
    if !generation.tokens.is_empty() {
        let input = serde_json::from_str(&generation.text()).unwrap_or_else(|_| empty_input());
        content.push(output_block(request, generation.text(), input));
    }
    let (stop, usage) = (
        stop_fields(&request.params, generation),
        ReportedUsage::of(request, generation).map(Usage::of),
    );
    let message = Message { content, stop, usage, ..message(request) };
    Reply::complete(JSON, StatusCode::OK, to_json(&message))
}

/// The message as a stream, with usage in the first and the last event.
pub fn stream(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let used = ReportedUsage::of(request, generation);
    let message = Message { usage: used.map(Usage::at_start), ..message(request) };
    let mut events = vec![Event::MessageStart { message }];
    if 0 < generation.reasoning_tokens {
        let content_block = Block::Thinking { thinking: "", signature: "" };
        let delta = Delta::Thinking { thinking: THINKING };
        add_block(
            &mut events,
            content_block,
            vec![delta, Delta::Signature { signature: SIGNATURE }],
        );
    }
    if !generation.tokens.is_empty() {
        let deltas = generation.deltas().into_iter().map(|text_delta| match request.params.tool {
            Some(_) => Delta::Input { partial_json: text_delta.text },
            None => Delta::Text { text: text_delta.text },
        });
        add_block(
            &mut events,
            output_block(request, String::new(), empty_input()),
            deltas.collect(),
        );
    }
    let delta = stop_fields(&request.params, generation);
    events.push(Event::MessageDelta { delta, usage: used.map(Usage::at_end) });
    events.push(Event::MessageStop);
    let chunks = events.iter().map(Event::to_sse).collect();
    Reply::stream(EVENT_STREAM, chunks, AnthropicError::stream_error())
}

fn empty_input() -> Value {
    Value::Object(Map::new())
}

/// Adds a block and its deltas. A ping follows the start of the first block, as in real streams.
fn add_block<'a>(events: &mut Vec<Event<'a>>, content_block: Block<'a>, deltas: Vec<Delta>) {
    let stops = |event: &&Event<'_>| matches!(event, Event::ContentBlockStop { .. });
    let index = events.iter().filter(stops).count();
    events.push(Event::ContentBlockStart { index, content_block });
    events.extend((index == 0).then_some(Event::Ping));
    events.extend(deltas.into_iter().map(|delta| Event::ContentBlockDelta { index, delta }));
    events.push(Event::ContentBlockStop { index });
}
