//! Errors in the words of the real provider, which clients match.

use http::StatusCode;
use serde::Serialize;

use crate::demo::ask::{Complain, OutOfRange};
use crate::demo::reply::{Reply, json};
use crate::demo::script::Misunderstood;

/// Why the provider does not answer.
#[derive(Debug)]
pub struct Complaint {
    status: StatusCode,
    message: String,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    error: Fault<'a>,
}

#[derive(Debug, Serialize)]
struct Fault<'a> {
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

/// The type of one JSON text, as this provider writes it.
pub const JSON: &str = "application/json; charset=UTF-8";
const SOON: RetryInfo =
    RetryInfo { kind: "type.googleapis.com/google.rpc.RetryInfo", retry_delay: "1s" };

impl Complaint {
    /// About a request that cannot be understood.
    pub fn about(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// About a path that is not there.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::about(message) }
    }

    /// The error with which a stream breaks off, without a frame.
    pub fn breakoff() -> String {
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
        let details = (self.status == StatusCode::TOO_MANY_REQUESTS).then_some([SOON]);
        let (code, message) = (self.status.as_u16(), &*self.message);
        json(&Body { error: Fault { code, message, status, details } })
    }
}

impl Complain for Complaint {
    fn of_status(status: u16, model: &str) -> Self {
        let message = match status {
            401 => "Request had invalid authentication credentials.".to_owned(),
            404 => format!("models/{model} is not found, or is not supported for this method."),
            429 => "You exceeded your current quota, please check your plan.".to_owned(),
            503 | 529 => "The model is overloaded. Please try again later.".to_owned(),
            500.. => "An internal error has occurred. Please retry.".to_owned(),
            _ => "This request asked to be refused.".to_owned(),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, message }
    }

    fn reply(&self) -> Reply {
        Reply::whole(JSON, self.status, self.text())
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
