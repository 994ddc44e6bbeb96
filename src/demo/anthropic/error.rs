//! Errors with the texts of the real provider, because clients match them.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::demo::reply::{JSON, Reply, id_header, to_json};
use crate::demo::request::{OutOfRange, WireError};
use crate::demo::script::InvalidCommand;

/// An error response.
#[derive(Debug)]
pub struct AnthropicError {
    status: StatusCode,
    message: String,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: ErrorDetail<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ErrorDetail<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

impl AnthropicError {
    /// A request that cannot be parsed.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The error event that ends a stream early.
    pub fn stream_error() -> Bytes {
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
        to_json(&ErrorBody {
            kind: "error",
            error: ErrorDetail { kind, message: &self.message },
            request_id,
        })
    }
}

impl WireError for AnthropicError {
    fn of_status(status: u16, model: &str) -> Self {
        let message = match status {
            401 => "invalid x-api-key".to_owned(),
            404 => format!("model: {model}"),
            429 => {
                "This request would exceed your rate limit of 50 requests per minute.".to_owned()
            }
            529 => "Overloaded".to_owned(),
            500.. => "Internal server error".to_owned(),
            _ => "This error was requested by a demo command.".to_owned(),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, message }
    }

    fn to_reply(&self) -> Reply {
        let id = id_header("req_");
        let text = self.text(id.to_str().ok());
        let reply = Reply::complete(JSON, self.status, text).with_header("request-id", id);
        match self.status.as_u16() {
            400 | 401 => reply.with_header("x-should-retry", HeaderValue::from_static("false")),
            429 => reply.with_header("retry-after", HeaderValue::from_static("1")),
            _ => reply,
        }
    }
}

impl From<OutOfRange> for AnthropicError {
    fn from(OutOfRange { message, .. }: OutOfRange) -> Self {
        Self::invalid_request(message)
    }
}

impl From<InvalidCommand> for AnthropicError {
    fn from(InvalidCommand(message): InvalidCommand) -> Self {
        Self::invalid_request(message)
    }
}
