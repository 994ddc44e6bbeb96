//! The answer on the wire: one completion, or a stream of its chunks.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock;
use crate::demo::openai::ask::Ask;
use crate::demo::openai::length::{Length, Usage};
use crate::demo::prose;
use crate::demo::reply::{Reply, json, opaque};

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
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u64,
    message: Message,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<()>,
    annotations: [(); 0],
}

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head<'a>,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Told::is_absent")]
    usage: Told,
}

/// The key `usage` of a chunk.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
enum Told {
    /// Nobody asked for it: there is no such key.
    Absent,
    /// It was asked for and is not known yet: null.
    Later,
    /// In the last chunk.
    Now(Usage),
}

impl Told {
    const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: u64,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Null where it is there at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<()>,
}

/// How many tokens come in each chunk, over and over.
const TOKENS_OF_CHUNKS: [usize; 4] = [1, 2, 3, 2];

fn head<'a>(ask: &'a Ask, object: &'static str) -> Head<'a> {
    Head {
        id: format!("chatcmpl-{}", opaque()),
        object,
        created: clock::now().0 / 1000,
        model: &ask.model,
        service_tier: "default",
        system_fingerprint: "fp_d3a0b5c1e7",
    }
}

/// All at once.
pub fn whole(ask: &Ask, length: Length, usage: Option<Usage>) -> Reply {
    let choice = |index| Choice {
        index,
        message: Message {
            role: "assistant",
            content: prose::tokens(length.text).collect(),
            refusal: None,
            annotations: [],
        },
        logprobs: None,
        finish_reason: length.finish_reason,
    };
    let head = head(ask, "chat.completion");
    let choices = (0..ask.choices).map(choice).collect();
    Reply::json(StatusCode::OK, json(&Completion { head, choices, usage }))
}

/// A few tokens at a time, with the usage at the end if that was asked for.
pub fn stream(ask: &Ask, length: Length, usage: Option<Usage>) -> Reply {
    let usage = usage.filter(|_| ask.includes_usage);
    let before = if usage.is_some() { Told::Later } else { Told::Absent };
    let head = head(ask, "chat.completion.chunk");
    let event = |choices, usage| {
        Bytes::from(format!("data: {}\n\n", json(&Chunk { head: &head, choices, usage })))
    };
    let piece = |index, delta, finish_reason| {
        event(vec![ChunkChoice { index, delta, logprobs: None, finish_reason }], before)
    };
    let mut pieces = Vec::new();
    for index in 0..ask.choices {
        let role =
            Delta { role: Some("assistant"), content: Some(String::new()), refusal: Some(()) };
        pieces.push(piece(index, role, None));
        let mut tokens = prose::tokens(length.text);
        for count in TOKENS_OF_CHUNKS.into_iter().cycle() {
            let content: String = tokens.by_ref().take(count).collect();
            if content.is_empty() {
                break;
            }
            pieces.push(piece(index, Delta { content: Some(content), ..Delta::default() }, None));
        }
        pieces.push(piece(index, Delta::default(), Some(length.finish_reason)));
    }
    pieces.extend(usage.map(|usage| event(Vec::new(), Told::Now(usage))));
    pieces.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::events(pieces)
}
