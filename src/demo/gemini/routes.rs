//! What the provider is asked in the Gemini dialect, and who answers it.

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use crate::demo::answer::Answer;
use crate::demo::ask::{Asked, Complain, Talk, respond};
use crate::demo::catalog::MODELS;
use crate::demo::gemini::complaint::{Complaint, JSON};
use crate::demo::gemini::content::{Frame, stream, whole};
use crate::demo::gemini::{ask, embedding};
use crate::demo::reply::Reply;
use crate::demo::script::Script;

/// `POST /v1beta/models/{model}:{verb}`, or the same under `/v1`.
pub fn call(model: &str, verb: &str, request: &Request<Bytes>) -> (Reply, Script) {
    let said = |asked: &Asked<Talk>| whole(asked, &Answer::to(asked));
    match verb {
        "generateContent" => respond(ask::contents(model, request, false), said),
        "streamGenerateContent" => streamed(model, request),
        "countTokens" => respond(ask::contents(model, request, false), count),
        "embedContent" => respond(ask::vector(model, request), embedding::one),
        "batchEmbedContents" => respond(ask::vectors(model, request), embedding::several),
        _ => unknown(request.method(), request.uri().path()),
    }
}

/// Without `alt=sse` all is a list, an error too.
fn streamed(model: &str, request: &Request<Bytes>) -> (Reply, Script) {
    let mut pairs = request.uri().query().unwrap_or_default().split('&');
    let frame = if pairs.any(|pair| pair == "alt=sse") { Frame::Events } else { Frame::List };
    let asked = ask::contents(model, request, true);
    let (mut reply, script) = respond(asked, |asked| stream(asked, &Answer::to(asked), frame));
    if frame == Frame::List && !reply.status.is_success() {
        reply.pieces.insert(0, Bytes::from_static(b"["));
        reply.pieces.push(Bytes::from_static(b"\n]"));
    }
    (reply, script)
}

fn count(asked: &Asked<Talk>) -> Reply {
    let count = asked.script.input_tokens.unwrap_or(asked.wish.input_tokens);
    let details = format!(r#"[{{"modality":"TEXT","tokenCount":{count}}}]"#);
    let text = format!(r#"{{"totalTokens":{count},"promptTokensDetails":{details}}}"#);
    Reply::whole(JSON, StatusCode::OK, text)
}

/// `GET /v1beta/models`, or one of them.
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
    let mut known = MODELS.into_iter().filter(|name| name.starts_with("gemini-"));
    let reply = match name {
        None => {
            let entries: Vec<String> = known.map(entry).collect();
            let list = format!(r#"{{"models":[{}]}}"#, entries.join(","));
            Reply::whole(JSON, StatusCode::OK, list)
        }
        Some(name) if known.any(|known| known == name) => {
            Reply::whole(JSON, StatusCode::OK, entry(name))
        }
        Some(name) => Complaint::of_status(404, name).reply(),
    };
    (reply, Script::default())
}

/// Any other path.
pub fn unknown(method: &Method, path: &str) -> (Reply, Script) {
    let complaint = Complaint::unknown(format!("Unknown request URL: {method} {path}."));
    (complaint.reply(), Script::default())
}
