//! What the provider is asked in the Anthropic dialect, and who answers it.

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::demo::answer::Answer;
use crate::demo::anthropic::ask::understand;
use crate::demo::anthropic::message::{stream, whole};
use crate::demo::ask::respond;
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
