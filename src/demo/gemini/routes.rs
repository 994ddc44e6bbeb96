//! The endpoints of the Gemini dialect.

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use crate::demo::catalog::MODELS;
use crate::demo::gemini::content::{StreamFraming, complete, stream};
use crate::demo::gemini::error::{GeminiError, JSON};
use crate::demo::gemini::{embedding, request};
use crate::demo::generation::Generation;
use crate::demo::reply::Reply;
use crate::demo::request::{DemoRequest, GenerationParams, WireError, respond};
use crate::demo::script::Script;

/// `POST /v1beta/models/{model}:{method}`, also under `/v1`.
pub fn call(model: &str, method: &str, request: &Request<Bytes>) -> (Reply, Script) {
    let reply =
        |request: &DemoRequest<GenerationParams>| complete(request, &Generation::generate(request));
    match method {
        "generateContent" => respond(request::contents(model, request, false), reply),
        "streamGenerateContent" => stream_content(model, request),
        "countTokens" => respond(request::contents(model, request, false), count_tokens),
        "embedContent" => respond(request::single_text(model, request), embedding::single),
        "batchEmbedContents" => respond(request::batch_texts(model, request), embedding::batch),
        _ => not_found(request.method(), request.uri().path()),
    }
}

/// Without `alt=sse` the response is a JSON array, even if it is an error.
fn stream_content(model: &str, request: &Request<Bytes>) -> (Reply, Script) {
    let mut pairs = request.uri().query().unwrap_or_default().split('&');
    let frame = if pairs.any(|pair| pair == "alt=sse") {
        StreamFraming::Events
    } else {
        StreamFraming::JsonArray
    };
    let request = request::contents(model, request, true);
    let (mut reply, script) =
        respond(request, |request| stream(request, &Generation::generate(request), frame));
    if frame == StreamFraming::JsonArray && !reply.status.is_success() {
        reply.chunks.insert(0, Bytes::from_static(b"["));
        reply.chunks.push(Bytes::from_static(b"\n]"));
    }
    (reply, script)
}

fn count_tokens(request: &DemoRequest<GenerationParams>) -> Reply {
    let count = request.script.input_tokens.unwrap_or(request.params.input_tokens);
    let details = format!(r#"[{{"modality":"TEXT","tokenCount":{count}}}]"#);
    let text = format!(r#"{{"totalTokens":{count},"promptTokensDetails":{details}}}"#);
    Reply::complete(JSON, StatusCode::OK, text)
}

/// `GET /v1beta/models` and `GET /v1beta/models/{name}`.
pub fn models(name: Option<&str>) -> (Reply, Script) {
    let entry = |name: &str| {
        let methods = if name.contains("embedding") {
            r#""embedContent","batchEmbedContents""#
        } else {
            r#""generateContent","countTokens""#
        };
        format!(
            r#"{{"name":"models/{name}","version":"001","displayName":"{name}","supportedGenerationMethods":[{methods}]}}"#
        )
    };
    let mut names = MODELS.into_iter().filter(|name| name.starts_with("gemini-"));
    let reply = match name {
        None => {
            let entries: Vec<String> = names.map(entry).collect();
            let list = format!(r#"{{"models":[{}]}}"#, entries.join(","));
            Reply::complete(JSON, StatusCode::OK, list)
        }
        Some(name) if names.any(|model| model == name) => {
            Reply::complete(JSON, StatusCode::OK, entry(name))
        }
        Some(name) => GeminiError::of_status(404, name).to_reply(),
    };
    (reply, Script::default())
}

pub fn not_found(method: &Method, path: &str) -> (Reply, Script) {
    let error = GeminiError::not_found(format!("Unknown request URL: {method} {path}."));
    (error.to_reply(), Script::default())
}
