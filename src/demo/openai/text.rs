//! A completion of the older kind on the wire: all at once, or a stream of its chunks.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::clock;
use crate::demo::answer::{Answer, Used};
use crate::demo::ask::{Asked, Talk};
use crate::demo::openai::complaint::Complaint;
use crate::demo::openai::usage::{Told, Usage};
use crate::demo::reply::{EVENTS, JSON, Reply, json, opaque};

/// A completion, or a chunk of one.
#[derive(Debug, Clone, Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Told::is_absent")]
    usage: Told,
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

const fn finish_reason(answer: &Answer) -> &'static str {
    if answer.is_short { "length" } else { "stop" }
}

/// The text of a completion with these choices.
fn completion(asked: &Asked<Talk>) -> impl Fn(Vec<Choice>, Told) -> String {
    let (id, created) = (format!("cmpl-{}", opaque()), clock::now().0 / 1000);
    move |choices, usage| {
        let (id, object, model) = (&*id, "text_completion", &*asked.model);
        json(&Completion { id, object, created, model, choices, usage })
    }
}

/// All at once.
pub fn whole(asked: &Asked<Talk>, answer: &Answer) -> Reply {
    let choice = |index| choice(index, answer.text(), Some(finish_reason(answer)));
    let usage = Used::of(asked, answer).map(Usage::of_text);
    let choices = (0..asked.wish.choices).map(choice).collect();
    let text = completion(asked)(choices, usage.map_or(Told::Absent, Told::Now));
    Reply::whole(JSON, StatusCode::OK, text)
}

/// A few tokens at a time, with the usage at the end if that was asked for.
pub fn stream(asked: &Asked<Talk>, answer: &Answer) -> Reply {
    let usage = Used::of(asked, answer).filter(|_| asked.wish.includes_usage);
    let usage = usage.map(Usage::of_text);
    let completion = completion(asked);
    let event = |choices, usage| Bytes::from(format!("data: {}\n\n", completion(choices, usage)));
    let piece = |choice| event(vec![choice], Told::before(usage));
    let mut pieces = Vec::new();
    for index in 0..asked.wish.choices {
        pieces.extend(
            answer.portions().into_iter().map(|said| piece(choice(index, said.text, None))),
        );
        pieces.push(piece(choice(index, String::new(), Some(finish_reason(answer)))));
    }
    pieces.extend(usage.map(|usage| event(Vec::new(), Told::Now(usage))));
    pieces.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::stream(EVENTS, pieces, Complaint::breakoff())
}
