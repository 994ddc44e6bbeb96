//! Failures: every no of the admin API, in the one form that it has.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::organization::denied::{Denied, Fault};
use crate::organization::rights::Missing;

/// A no.
#[derive(Debug)]
pub struct Failure {
    /// Its status, which is its `code` as well.
    pub status: StatusCode,
    told: Box<Told>,
    retry_after: Option<Duration>,
}

#[derive(Debug)]
struct Told {
    kind: &'static str,
    reason: String,
    message: String,
    param: Option<String>,
    faults: Vec<Fault>,
}

/// The `error` of an envelope.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorShape {
    /// What kind of no this is.
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    kind: &'static str,
    /// A stable word.
    reason: String,
    /// For people.
    message: String,
    /// A JSON pointer, a query name, a header, or the missing permission.
    #[schema(required)]
    param: Option<String>,
    /// All that is wrong with the request.
    errors: Vec<FaultShape>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fault)]
struct FaultShape {
    param: String,
    reason: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Envelope {
    data: (),
    code: u16,
    error: ErrorShape,
}

impl Failure {
    fn new(status: StatusCode, kind: &'static str, reason: &str, message: &str) -> Self {
        let told = Told {
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
            param: None,
            faults: Vec::new(),
        };
        Self { status, told: Box::new(told), retry_after: None }
    }

    fn about(mut self, param: impl Into<String>) -> Self {
        self.told.param = Some(param.into());
        self
    }

    /// Every fault of a request.
    pub fn invalid(faults: Vec<Fault>) -> Self {
        let invalid = |reason: &str, message: &str| {
            Self::new(StatusCode::BAD_REQUEST, "invalid_request", reason, message)
        };
        let mut failure = match &faults[..] {
            [] => invalid("invalid_request", "the request makes no sense"),
            [only] => invalid(only.reason, &only.message).about(&only.param),
            [first, ..] => {
                let message = format!("{} things are wrong: see `errors`", faults.len());
                invalid("several_faults", &message).about(&first.param)
            }
        };
        failure.told.faults = faults;
        failure
    }

    /// The body is no JSON object.
    pub fn malformed(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "malformed_json", message)
    }

    /// There is no such path.
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "unknown_path", "there is no such path")
    }

    /// The path is not asked like this.
    pub fn method() -> Self {
        let message = "this path does not take this method: see the Allow header";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "invalid_request", "method_not_allowed", message)
    }

    /// The body is too long.
    pub fn too_large(bytes_max: usize) -> Self {
        let message = format!("the body has more than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body_too_large", &message)
    }

    /// The body is no JSON by its own word.
    pub fn media_type() -> Self {
        let message = "send the body with content-type: application/json";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "invalid_request", "unsupported_media_type", message)
    }

    /// The body did not arrive.
    pub fn unfinished() -> Self {
        let message = "the body did not arrive in time, or not whole";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request", "unfinished_body", message)
    }

    /// A page asks a change on behalf of a signed-in browser, from elsewhere.
    pub fn cross_site() -> Self {
        let message = "a cookie counts only for requests from the console itself";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", "cross_site", message)
    }

    /// The same idempotency key came with another request.
    pub fn mismatch() -> Self {
        let message = "this Idempotency-Key was used with another body";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "idempotency_mismatch", "idempotency_mismatch", message)
            .about("Idempotency-Key")
    }

    /// It went wrong on our side. The cause goes to the log, not to the client.
    pub fn internal(cause: &str) -> Self {
        tracing::error!(cause, "an admin request failed");
        let message = "this failed on our side: try again, and tell the operator the request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal", message)
    }

    /// Whether the answer is worth keeping for an idempotency key: a refusal that would be the
    /// same again, not one that says to come back or that failed on our side.
    pub fn is_final(&self) -> bool {
        let passing = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_client_error() && !passing.contains(&self.status)
    }

    /// The body.
    pub fn json(&self) -> String {
        let told = &*self.told;
        let faults = told.faults.iter().map(|fault| FaultShape {
            param: fault.param.clone(),
            reason: fault.reason,
            message: fault.message.clone(),
        });
        let error = ErrorShape {
            kind: told.kind,
            reason: told.reason.clone(),
            message: told.message.clone(),
            param: told.param.clone(),
            errors: faults.collect(),
        };
        let envelope = Envelope { data: (), code: self.status.as_u16(), error };
        serde_json::to_string(&envelope).unwrap_or_default()
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Invalid(faults) => Self::invalid(faults),
            Denied::Unauthenticated(reason) => {
                let message = match reason {
                    "data_plane_key" => "an API key opens the data plane only: send an admin token",
                    "wrong_email_or_password" => "the address or the password is wrong",
                    "invalid_setup_link" => "the set-up link is wrong, used or expired",
                    _ => "send a valid session or admin token",
                };
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", reason, message)
            }
            Denied::Forbidden(missing) => forbidden(missing),
            Denied::CannotGrant(what) => {
                let message = format!("nobody gives what they do not have: {what}");
                Self::new(StatusCode::FORBIDDEN, "permission_denied", "cannot_grant", &message)
                    .about(what)
            }
            Denied::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "not_found", "not_found", "there is no such thing")
            }
            Denied::Conflict(reason, message) => {
                Self::new(StatusCode::CONFLICT, "conflict", reason, &message)
            }
            Denied::Stale => {
                let message = "it was changed since it was read: read it again";
                let status = StatusCode::PRECONDITION_FAILED;
                Self::new(status, "precondition_failed", "stale_version", message).about("If-Match")
            }
            Denied::Throttled(wait) => {
                let message = "too many tries: wait as long as Retry-After says";
                let status = StatusCode::TOO_MANY_REQUESTS;
                let failure = Self::new(status, "throttled", "too_many_tries", message);
                Self { retry_after: Some(wait), ..failure }
            }
            Denied::Failed(cause) => Self::internal(&cause),
        }
    }
}

fn forbidden(missing: Missing) -> Failure {
    let (reason, message, param) = match missing {
        Missing::Scope(scope) => {
            ("missing_scope", format!("the token lacks the scope {}", scope.name()), scope.name())
        }
        Missing::AnyRole => {
            ("role_none", "your role in this organization is None".to_owned(), "role")
        }
        Missing::SelfFunding => {
            let message = "only the operator pays in to this organization".to_owned();
            ("funding_by_operator", message, "selfFunding")
        }
        Missing::Permission(name) => ("missing_permission", format!("this takes {name}"), name),
    };
    Failure::new(StatusCode::FORBIDDEN, "permission_denied", reason, &message).about(param)
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, json, self.json()).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(0 < wait.subsec_nanos());
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
