//! The endpoints of the Anthropic dialect.

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::demo::anthropic::error::AnthropicError;
use crate::demo::anthropic::message::{complete, stream};
use crate::demo::anthropic::request::read;
use crate::demo::catalog::MODELS;
use crate::demo::generation::Generation;
use crate::demo::reply::{JSON, Reply, id_header};
use crate::demo::request::{WireError, respond};
use crate::demo::script::Script;

/// `POST /v1/messages`.
pub fn message(request: &Request<Bytes>) -> (Reply, Script) {
    respond(read(request), |request| {
        let reply = if request.params.is_stream { stream } else { complete };
        reply(request, &Generation::generate(request)).with_header("request-id", id_header("req_"))
    })
}

/// `POST /v1/messages/count_tokens`.
pub fn count_tokens(request: &Request<Bytes>) -> (Reply, Script) {
    respond(read(request), |request| {
        let count = request.script.input_tokens.unwrap_or(request.params.input_tokens);
        let text = format!(r#"{{"input_tokens":{count}}}"#);
        Reply::complete(JSON, StatusCode::OK, text).with_header("request-id", id_header("req_"))
    })
}

/// `GET /v1/models` and `GET /v1/models/{name}`.
pub fn models(name: Option<&str>) -> (Reply, Script) {
    let entry = |name: &str| {
        let created = "2025-09-29T00:00:00Z";
        format!(
            r#"{{"type":"model","id":"{name}","display_name":"{name}","created_at":"{created}"}}"#
        )
    };
    let names: Vec<&str> = MODELS.into_iter().filter(|name| name.starts_with("claude-")).collect();
    let text = match name {
        None => {
            let (first, last) = (names.first(), names.last());
            let (first, last) = (first.unwrap_or(&""), last.unwrap_or(&""));
            let entries: Vec<String> = names.iter().map(|name| entry(name)).collect();
            let data = entries.join(",");
            format!(
                r#"{{"data":[{data}],"has_more":false,"first_id":"{first}","last_id":"{last}"}}"#
            )
        }
        Some(name) if names.contains(&name) => entry(name),
        Some(name) => return (AnthropicError::of_status(404, name).to_reply(), Script::default()),
    };
    let reply =
        Reply::complete(JSON, StatusCode::OK, text).with_header("request-id", id_header("req_"));
    (reply, Script::default())
}
