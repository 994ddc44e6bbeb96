//! What the provider is asked in the Anthropic dialect, and who answers it.

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::demo::answer::Answer;
use crate::demo::anthropic::ask::understand;
use crate::demo::anthropic::complaint::Complaint;
use crate::demo::anthropic::message::{stream, whole};
use crate::demo::ask::{Complain, respond};
use crate::demo::catalog::MODELS;
use crate::demo::reply::{JSON, Reply, opaque_id};
use crate::demo::script::Script;

/// `POST /v1/messages`.
pub fn message(request: &Request<Bytes>) -> (Reply, Script) {
    respond(understand(request), |asked| {
        let say = if asked.wish.streams { stream } else { whole };
        say(asked, &Answer::to(asked)).with("request-id", opaque_id("req_"))
    })
}

/// `POST /v1/messages/count_tokens`.
pub fn count(request: &Request<Bytes>) -> (Reply, Script) {
    respond(understand(request), |asked| {
        let count = asked.script.input_tokens.unwrap_or(asked.wish.input_tokens);
        let text = format!(r#"{{"input_tokens":{count}}}"#);
        Reply::whole(JSON, StatusCode::OK, text).with("request-id", opaque_id("req_"))
    })
}

/// `GET /v1/models`, or one of them.
pub fn models(name: Option<&str>) -> (Reply, Script) {
    let entry = |name: &str| {
        let created = "2025-09-29T00:00:00Z";
        format!(
            r#"{{"type":"model","id":"{name}","display_name":"{name}","created_at":"{created}"}}"#
        )
    };
    let known: Vec<&str> = MODELS.into_iter().filter(|name| name.starts_with("claude-")).collect();
    let text = match name {
        None => {
            let (first, last) = (known.first(), known.last());
            let (first, last) = (first.unwrap_or(&""), last.unwrap_or(&""));
            let entries: Vec<String> = known.iter().map(|name| entry(name)).collect();
            let data = entries.join(",");
            format!(
                r#"{{"data":[{data}],"has_more":false,"first_id":"{first}","last_id":"{last}"}}"#
            )
        }
        Some(name) if known.contains(&name) => entry(name),
        Some(name) => return (Complaint::of_status(404, name).reply(), Script::default()),
    };
    let reply = Reply::whole(JSON, StatusCode::OK, text).with("request-id", opaque_id("req_"));
    (reply, Script::default())
}
