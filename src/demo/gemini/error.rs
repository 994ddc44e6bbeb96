//! Errors with the texts of the real provider, because clients match them.

use http::StatusCode;
use serde::Serialize;

use crate::demo::reply::{Reply, to_json};
use crate::demo::request::{OutOfRange, WireError};
use crate::demo::script::InvalidCommand;

/// An error response.
#[derive(Debug)]
pub struct GeminiError {
    status: StatusCode,
    message: String,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorDetail<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<[RetryInfo; 1]>,
}

#[derive(Debug, Serialize)]
struct RetryInfo {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "retryDelay")]
    retry_delay: &'static str,
}

/// Content type of JSON, as this provider spells it.
pub const JSON: &str = "application/json; charset=UTF-8";
const RETRY_IN_1S: RetryInfo =
    RetryInfo { kind: "type.googleapis.com/google.rpc.RetryInfo", retry_delay: "1s" };

impl GeminiError {
    /// A request that cannot be parsed.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// An unknown path.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::invalid_request(message) }
    }

    /// The error that ends a stream early, without event or array syntax.
    pub fn stream_error() -> String {
        Self::of_status(503, "").text()
    }

    fn text(&self) -> String {
        let status = match self.status.as_u16() {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ABORTED",
            429 => "RESOURCE_EXHAUSTED",
            499 => "CANCELLED",
            501 => "UNIMPLEMENTED",
            503 | 529 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            500.. => "INTERNAL",
            _ => "FAILED_PRECONDITION",
        };
        let details = (self.status == StatusCode::TOO_MANY_REQUESTS).then_some([RETRY_IN_1S]);
        let (code, message) = (self.status.as_u16(), &*self.message);
        to_json(&ErrorBody { error: ErrorDetail { code, message, status, details } })
    }
}

impl WireError for GeminiError {
    fn of_status(status: u16, model: &str) -> Self {
        let message = match status {
            401 => "Request had invalid authentication credentials.".to_owned(),
            404 => format!("models/{model} is not found, or is not supported for this method."),
            429 => "You exceeded your current quota, please check your plan.".to_owned(),
            503 | 529 => "The model is overloaded. Please try again later.".to_owned(),
            500.. => "An internal error has occurred. Please retry.".to_owned(),
            _ => "This error was requested by a demo command.".to_owned(),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, message }
    }

    fn to_reply(&self) -> Reply {
        Reply::complete(JSON, self.status, self.text())
    }
}

impl From<OutOfRange> for GeminiError {
    fn from(OutOfRange { message, .. }: OutOfRange) -> Self {
        Self::invalid_request(message)
    }
}

impl From<InvalidCommand> for GeminiError {
    fn from(InvalidCommand(message): InvalidCommand) -> Self {
        Self::invalid_request(message)
    }
}
