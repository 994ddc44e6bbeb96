//! What the provider is asked in the OpenAI dialect, and who answers it.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};

use crate::demo::answer::Answer;
use crate::demo::ask::{Asked, Complain, Talk, respond};
use crate::demo::catalog::MODELS;
use crate::demo::openai::complaint::Complaint;
use crate::demo::openai::{ask, chat, embedding, media, moderation, response, text};
use crate::demo::reply::{JSON, Reply, opaque_id};
use crate::demo::script::Script;

/// `POST /v1/chat/completions`.
pub fn chat(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::chat(request), |asked| said(asked, chat::whole, chat::stream))
}

/// `POST /v1/completions`.
pub fn text(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::text(request), |asked| said(asked, text::whole, text::stream))
}

/// `POST /v1/responses`.
pub fn response(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::response(request), |asked| said(asked, response::whole, response::stream))
}

/// `POST /v1/responses/compact`.
pub fn compact(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::response(request), |asked| said(asked, response::compact, response::compact))
}

/// `POST /v1/responses/input_tokens`.
pub fn count(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::response(request), |asked| signed(response::count(asked), &asked.script))
}

/// `POST /v1/moderations`.
pub fn moderate(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::moderation(request), |asked| signed(moderation::verdicts(asked), &asked.script))
}

/// `POST /v1/embeddings`.
pub fn embed(request: &Request<Bytes>) -> (Reply, Script) {
    respond(ask::embedding(request), |asked| signed(embedding::list(asked), &asked.script))
}

/// `POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`.
pub fn images(request: &Request<Bytes>) -> (Reply, Script) {
    respond(media::ask(request, "prompt"), |asked| signed(media::images(asked), &asked.script))
}

/// `POST /v1/audio/speech`.
pub fn speech(request: &Request<Bytes>) -> (Reply, Script) {
    respond(media::ask(request, "input"), |asked| signed(media::speech(asked), &asked.script))
}

/// `POST /v1/audio/transcriptions` and `/v1/audio/translations`.
pub fn transcript(request: &Request<Bytes>) -> (Reply, Script) {
    respond(media::ask(request, "prompt"), |asked| signed(media::transcript(asked), &asked.script))
}

type Say = fn(&Asked<Talk>, &Answer) -> Reply;

fn said(asked: &Asked<Talk>, whole: Say, stream: Say) -> Reply {
    let say = if asked.wish.streams { stream } else { whole };
    signed(say(asked, &Answer::to(asked)), &asked.script)
}

/// With the headers of the real one.
fn signed(reply: Reply, script: &Script) -> Reply {
    let latency = u64::try_from(script.latency.as_millis()).unwrap_or(u64::MAX);
    reply
        .with("openai-processing-ms", latency.max(1).into())
        .with("openai-version", HeaderValue::from_static("2020-10-01"))
        .with("x-ratelimit-limit-requests", HeaderValue::from_static("500"))
        .with("x-ratelimit-remaining-requests", HeaderValue::from_static("499"))
        .with("x-request-id", opaque_id("req_"))
}

/// `GET /v1/models`, or one of them.
pub fn models(name: Option<&str>) -> (Reply, Script) {
    let entry = |name: &str| {
        format!(r#"{{"id":"{name}","object":"model","created":1715367049,"owned_by":"demo"}}"#)
    };
    let reply = match name {
        None => {
            let entries: Vec<String> = MODELS.into_iter().map(entry).collect();
            let list = format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","));
            Reply::whole(JSON, StatusCode::OK, list)
        }
        Some(name) if MODELS.contains(&name) => Reply::whole(JSON, StatusCode::OK, entry(name)),
        Some(name) => Complaint::of_status(404, name).reply(),
    };
    (reply, Script::default())
}

/// Any other path.
pub fn unknown(method: &Method, path: &str) -> (Reply, Script) {
    let message = format!("Unknown request URL: {method} {path}.");
    let complaint = Complaint::about(message, None, None).but(StatusCode::NOT_FOUND);
    (complaint.reply(), Script::default())
}

/// A body that is too long, or whose end did not come.
pub fn unreadable() -> Reply {
    let message = "The request body is too large, or its end did not come.";
    Complaint::about(message, None, None).but(StatusCode::PAYLOAD_TOO_LARGE).reply()
}
