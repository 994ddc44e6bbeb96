//! The endpoints of the OpenAI dialect.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};

use crate::demo::catalog::MODELS;
use crate::demo::generation::Generation;
use crate::demo::openai::error::OpenAiError;
use crate::demo::openai::{chat, embedding, media, moderation, request, response, text};
use crate::demo::reply::{JSON, Reply, id_header};
use crate::demo::request::{DemoRequest, GenerationParams, WireError, respond};
use crate::demo::script::Script;

/// `POST /v1/chat/completions`.
pub fn chat(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::chat(request), |request| render(request, chat::complete, chat::stream))
}

/// `POST /v1/completions`.
pub fn text(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::text(request), |request| render(request, text::complete, text::stream))
}

/// `POST /v1/responses`.
pub fn response(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::response(request), |request| {
        render(request, response::complete, response::stream)
    })
}

/// `POST /v1/responses/compact`.
pub fn compact(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::response(request), |request| {
        render(request, response::compact, response::compact)
    })
}

/// `POST /v1/responses/input_tokens`.
pub fn count_tokens(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::response(request), |request| {
        with_provider_headers(response::input_token_count(request), &request.script)
    })
}

/// `POST /v1/moderations`.
pub fn moderate(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::moderation(request), |request| {
        with_provider_headers(moderation::results(request), &request.script)
    })
}

/// `POST /v1/embeddings`.
pub fn embed(request: &Request<Bytes>) -> (Reply, Script) {
    respond(request::embedding(request), |request| {
        with_provider_headers(embedding::list(request), &request.script)
    })
}

/// `POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`.
pub fn images(request: &Request<Bytes>) -> (Reply, Script) {
    respond(media::read(request, "prompt"), |request| {
        with_provider_headers(media::images(request), &request.script)
    })
}

/// `POST /v1/audio/speech`.
pub fn speech(request: &Request<Bytes>) -> (Reply, Script) {
    respond(media::read(request, "input"), |request| {
        with_provider_headers(media::speech(request), &request.script)
    })
}

/// `POST /v1/audio/transcriptions` and `/v1/audio/translations`.
pub fn transcription(request: &Request<Bytes>) -> (Reply, Script) {
    respond(media::read(request, "prompt"), |request| {
        with_provider_headers(media::transcription(request), &request.script)
    })
}

type Render = fn(&DemoRequest<GenerationParams>, &Generation) -> Reply;

fn render(request: &DemoRequest<GenerationParams>, whole: Render, stream: Render) -> Reply {
    let reply = if request.params.is_stream { stream } else { whole };
    with_provider_headers(reply(request, &Generation::generate(request)), &request.script)
}

/// Adds the headers that the real provider sends.
fn with_provider_headers(reply: Reply, script: &Script) -> Reply {
    let latency = u64::try_from(script.latency.as_millis()).unwrap_or(u64::MAX);
    reply
        .with_header("openai-processing-ms", latency.max(1).into())
        .with_header("openai-version", HeaderValue::from_static("2020-10-01"))
        .with_header("x-ratelimit-limit-requests", HeaderValue::from_static("500"))
        .with_header("x-ratelimit-remaining-requests", HeaderValue::from_static("499"))
        .with_header("x-request-id", id_header("req_"))
}

/// `GET /v1/models` and `GET /v1/models/{name}`.
pub fn models(name: Option<&str>) -> (Reply, Script) {
    let entry = |name: &str| {
        format!(r#"{{"id":"{name}","object":"model","created":1715367049,"owned_by":"demo"}}"#)
    };
    let reply = match name {
        None => {
            let entries: Vec<String> = MODELS.into_iter().map(entry).collect();
            let list = format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","));
            Reply::complete(JSON, StatusCode::OK, list)
        }
        Some(name) if MODELS.contains(&name) => Reply::complete(JSON, StatusCode::OK, entry(name)),
        Some(name) => OpenAiError::of_status(404, name).to_reply(),
    };
    (reply, Script::default())
}

pub fn not_found(method: &Method, path: &str) -> (Reply, Script) {
    let message = format!("Unknown request URL: {method} {path}.");
    let error =
        OpenAiError::invalid_request(message, None, None).with_status(StatusCode::NOT_FOUND);
    (error.to_reply(), Script::default())
}

/// The reply to a body that is too large or incomplete.
pub fn unreadable() -> Reply {
    let message = "The request body is too large, or its end did not come.";
    OpenAiError::invalid_request(message, None, None)
        .with_status(StatusCode::PAYLOAD_TOO_LARGE)
        .to_reply()
}
