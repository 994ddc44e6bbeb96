//! What the provider is asked in the OpenAI dialect, and who answers it.

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::demo::catalog::MODELS;
use crate::demo::openai::ask::{Ask, understand};
use crate::demo::openai::complaint::Complaint;
use crate::demo::openai::completion::{stream, whole};
use crate::demo::openai::length::{Length, Usage};
use crate::demo::reply::{Reply, opaque_id};
use crate::demo::script::Script;

/// `POST /v1/chat/completions`.
pub fn chat(headers: &HeaderMap, body: &[u8]) -> (Reply, Script) {
    match understand(headers, body) {
        Ok((ask, script)) => match script.status {
            Some(status) => (Complaint::of_status(status, &ask.model).reply(), script),
            None => (answer(&ask, &script), script),
        },
        Err(complaint) => (complaint.reply(), Script::default()),
    }
}

fn answer(ask: &Ask, script: &Script) -> Reply {
    let length = Length::of(ask, script);
    let usage = script.reports_usage.then(|| Usage::of(ask, script, length));
    let reply = if ask.streams { stream(ask, length, usage) } else { whole(ask, length, usage) };
    let latency = u64::try_from(script.latency.as_millis()).unwrap_or(u64::MAX);
    reply
        .with("openai-processing-ms", latency.max(1).into())
        .with("openai-version", HeaderValue::from_static("2020-10-01"))
        .with("x-ratelimit-limit-requests", HeaderValue::from_static("500"))
        .with("x-ratelimit-remaining-requests", HeaderValue::from_static("499"))
        .with("x-request-id", opaque_id("req_"))
}

/// `GET /v1/models`, or one of them.
pub fn models(name: Option<&str>) -> Reply {
    let entry = |name: &str| {
        format!(r#"{{"id":"{name}","object":"model","created":1715367049,"owned_by":"demo"}}"#)
    };
    match name {
        None => {
            let entries: Vec<String> = MODELS.into_iter().map(entry).collect();
            let list = format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","));
            Reply::json(StatusCode::OK, list)
        }
        Some(name) if MODELS.contains(&name) => Reply::json(StatusCode::OK, entry(name)),
        Some(name) => Complaint::of_status(404, name).reply(),
    }
}

/// Any other path.
pub fn unknown(method: &Method, path: &str) -> Reply {
    let message = format!("Unknown request URL: {method} {path}.");
    Complaint::about(message, None, None).but(StatusCode::NOT_FOUND).reply()
}

/// A body that is too long, or whose end did not come.
pub fn unreadable() -> Reply {
    let message = "The request body is too large, or its end did not come.";
    Complaint::about(message, None, None).but(StatusCode::PAYLOAD_TOO_LARGE).reply()
}
