//! Wire format of a legacy completion, complete or as a stream.

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

const fn finish_reason(generation: &Generation) -> &'static str {
    if generation.is_truncated { "length" } else { "stop" }
}

/// Returns a function that serializes a completion with these choices and this usage.
fn completion(
    request: &DemoRequest<GenerationParams>,
) -> impl Fn(Vec<Choice>, UsageField) -> String {
    let (id, created) = (format!("cmpl-{}", unique_id()), clock::wall_now().0 / 1000);
    move |choices, usage| {
        let (id, object, model) = (&*id, "text_completion", &*request.model);
        to_json(&Completion { id, object, created, model, choices, usage })
    }
}

/// The completion as one JSON object.
pub fn complete(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let choice = |index| choice(index, generation.text(), Some(finish_reason(generation)));
    let usage = ReportedUsage::of(request, generation).map(OpenAiUsage::of_text);
    let choices = (0..request.params.choices).map(choice).collect();
    let text = completion(request)(choices, usage.map_or(UsageField::Absent, UsageField::Value));
    Reply::complete(JSON, StatusCode::OK, text)
}

/// The completion as a stream, with usage in the last chunk if requested.
pub fn stream(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Reply {
    let usage = ReportedUsage::of(request, generation).filter(|_| request.params.includes_usage);
    let usage = usage.map(OpenAiUsage::of_text);
    let completion = completion(request);
    let event = |choices, usage| Bytes::from(format!("data: {}\n\n", completion(choices, usage)));
    let chunk = |choice| event(vec![choice], UsageField::until_last_chunk(usage));
    let mut chunks = Vec::new();
    for index in 0..request.params.choices {
        chunks.extend(
            generation.deltas().into_iter().map(|delta| chunk(choice(index, delta.text, None))),
        );
        chunks.push(chunk(choice(index, String::new(), Some(finish_reason(generation)))));
    }
    chunks.extend(usage.map(|usage| event(Vec::new(), UsageField::Value(usage))));
    chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::stream(EVENT_STREAM, chunks, OpenAiError::stream_error())
}
