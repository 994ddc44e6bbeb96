//! A completion of the older kind on the wire: all at once, or a stream of its chunks.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock;
use crate::demo::generation::{Generation, ReportedUsage};
use crate::demo::openai::error::OpenAiError;
use crate::demo::openai::usage::{OpenAiUsage, UsageField};
use crate::demo::reply::{EVENT_STREAM, JSON, Reply, to_json, unique_id};
use crate::demo::request::{DemoRequest, GenerationParams};

/// A completion, or a chunk of one.
#[derive(Debug, Clone, Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    usage: UsageField,
}

#[derive(Debug, Clone, Serialize)]
struct Choice {
    text: String,
    index: u64,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

const fn choice(index: u64, text: String, finish_reason: Option<&'static str>) -> Choice {
    Choice { text, index, logprobs: None, finish_reason }
}

const fn finish_reason(answer: &Generation) -> &'static str {
    if answer.is_truncated { "length" } else { "stop" }
}

/// The text of a completion with these choices.
fn completion(asked: &DemoRequest<GenerationParams>) -> impl Fn(Vec<Choice>, UsageField) -> String {
    let (id, created) = (format!("cmpl-{}", unique_id()), clock::wall_now().0 / 1000);
    move |choices, usage| {
        let (id, object, model) = (&*id, "text_completion", &*asked.model);
        to_json(&Completion { id, object, created, model, choices, usage })
    }
}

/// All at once.
pub fn complete(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let choice = |index| choice(index, answer.text(), Some(finish_reason(answer)));
    let usage = ReportedUsage::of(asked, answer).map(OpenAiUsage::of_text);
    let choices = (0..asked.params.choices).map(choice).collect();
    let text = completion(asked)(choices, usage.map_or(UsageField::Absent, UsageField::Value));
    Reply::complete(JSON, StatusCode::OK, text)
}

/// A few tokens at a time, with the usage at the end if that was asked for.
pub fn stream(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Reply {
    let usage = ReportedUsage::of(asked, answer).filter(|_| asked.params.includes_usage);
    let usage = usage.map(OpenAiUsage::of_text);
    let completion = completion(asked);
    let event = |choices, usage| Bytes::from(format!("data: {}\n\n", completion(choices, usage)));
    let piece = |choice| event(vec![choice], UsageField::until_last_chunk(usage));
    let mut pieces = Vec::new();
    for index in 0..asked.params.choices {
        pieces
            .extend(answer.deltas().into_iter().map(|said| piece(choice(index, said.text, None))));
        pieces.push(piece(choice(index, String::new(), Some(finish_reason(answer)))));
    }
    pieces.extend(usage.map(|usage| event(Vec::new(), UsageField::Value(usage))));
    pieces.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::stream(EVENT_STREAM, pieces, OpenAiError::stream_error())
}
