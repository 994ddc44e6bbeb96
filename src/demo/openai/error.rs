//! Errors with the texts of the real provider, because clients match them.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::demo::reply::{JSON, Reply, id_header, to_json};
use crate::demo::request::{OutOfRange, WireError};
use crate::demo::script::InvalidCommand;

/// An error response.
#[derive(Debug, Serialize)]
pub struct OpenAiError {
    #[serde(skip)]
    status: StatusCode,
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl OpenAiError {
    /// A request that cannot be parsed.
    pub fn invalid_request(
        message: impl Into<String>,
        param: Option<&'static str>,
        code: Option<&'static str>,
    ) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self { status, message: message.into(), kind: "invalid_request_error", param, code }
    }

    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The error event that ends a stream early.
    pub fn stream_error() -> Bytes {
        let text = Self::of_status(503, "").text();
        Bytes::from(format!("data: {text}\n\n"))
    }

    /// The error event of a Responses stream, with its sequence number.
    pub fn response_stream_error(sequence_number: usize) -> Bytes {
        let error = Self::of_status(503, "");
        let data = json!({"type": "error", "error": error, "sequence_number": sequence_number});
        Bytes::from(format!("event: error\ndata: {data}\n\n"))
    }

    fn text(&self) -> String {
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            error: &'a OpenAiError,
        }
        to_json(&ErrorBody { error: self })
    }
}

impl WireError for OpenAiError {
    fn of_status(status: u16, model: &str) -> Self {
        let (kind, code, message) = match status {
            401 => (
                "invalid_request_error",
                Some("invalid_api_key"),
                "Incorrect API key provided: demo. Find yours in your account.".to_owned(),
            ),
            404 => (
                "invalid_request_error",
                Some("model_not_found"),
                format!("The model `{model}` does not exist or you do not have access to it."),
            ),
            429 => (
                "requests",
                Some("rate_limit_exceeded"),
                format!(
                    "Rate limit reached for {model} on requests per min (RPM): Limit 500, \
                     Used 500, Requested 1. Please try again in 1s."
                ),
            ),
            503 => (
                "service_unavailable",
                None,
                "The engine is currently overloaded, please try again later.".to_owned(),
            ),
            500.. => (
                "server_error",
                None,
                "The server had an error while processing your request. Sorry about that!"
                    .to_owned(),
            ),
            _ => (
                "invalid_request_error",
                None,
                "This error was requested by a demo command.".to_owned(),
            ),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, message, kind, param: None, code }
    }

    fn to_reply(&self) -> Reply {
        let reply = Reply::complete(JSON, self.status, self.text());
        let reply = reply.with_header("x-request-id", id_header("req_"));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return reply.with_header("retry-after", HeaderValue::from_static("1"));
        }
        reply
    }
}

impl From<OutOfRange> for OpenAiError {
    fn from(OutOfRange { name, message }: OutOfRange) -> Self {
        Self::invalid_request(message, Some(name), Some("invalid_value"))
    }
}

impl From<InvalidCommand> for OpenAiError {
    fn from(InvalidCommand(message): InvalidCommand) -> Self {
        Self::invalid_request(message, None, Some("invalid_demo_command"))
    }
}
