//! Errors in the words of the real provider, which clients match.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::demo::ask::{Complain, OutOfRange};
use crate::demo::reply::{JSON, Reply, json, opaque_id};
use crate::demo::script::Misunderstood;

/// Why the provider does not answer.
#[derive(Debug)]
pub struct Complaint {
    status: StatusCode,
    message: String,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Fault<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Fault<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

impl Complaint {
    /// About a request that cannot be understood.
    pub fn about(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The event with which a stream breaks off.
    pub fn breakoff() -> Bytes {
        let text = Self::of_status(529, "").text(None);
        Bytes::from(format!("event: error\ndata: {text}\n\n"))
    }

    fn text(&self, request_id: Option<&str>) -> String {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            504 => "timeout_error",
            529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json(&Body { kind: "error", error: Fault { kind, message: &self.message }, request_id })
    }
}

impl Complain for Complaint {
    fn of_status(status: u16, model: &str) -> Self {
        let message = match status {
            401 => "invalid x-api-key".to_owned(),
            404 => format!("model: {model}"),
            429 => {
                "This request would exceed your rate limit of 50 requests per minute.".to_owned()
            }
            529 => "Overloaded".to_owned(),
            500.. => "Internal server error".to_owned(),
            _ => "This request asked to be refused.".to_owned(),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, message }
    }

    fn reply(&self) -> Reply {
        let id = opaque_id("req_");
        let text = self.text(id.to_str().ok());
        let reply = Reply::whole(JSON, self.status, text).with("request-id", id);
        match self.status.as_u16() {
            400 | 401 => reply.with("x-should-retry", HeaderValue::from_static("false")),
            429 => reply.with("retry-after", HeaderValue::from_static("1")),
            _ => reply,
        }
    }
}

impl From<OutOfRange> for Complaint {
    fn from(OutOfRange { message, .. }: OutOfRange) -> Self {
        Self::about(message)
    }
}

impl From<Misunderstood> for Complaint {
    fn from(Misunderstood(message): Misunderstood) -> Self {
        Self::about(message)
    }
}
