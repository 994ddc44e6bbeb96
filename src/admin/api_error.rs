//! Failures: every no of the admin API, in the one form that it has.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::rights::Forbidden;

/// A no.
#[derive(Debug)]
pub struct ApiError {
    /// Its status, which is its `code` as well.
    pub status: StatusCode,
    body: Box<ErrorBody>,
    retry_after: Option<Duration>,
}

#[derive(Debug)]
struct ErrorBody {
    kind: &'static str,
    reason: String,
    message: String,
    param: Option<String>,
    field_errors: Vec<FieldError>,
}

/// The `error` of an envelope.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorView {
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
    errors: Vec<FieldErrorView>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fault)]
struct FieldErrorView {
    param: String,
    reason: &'static str,
    message: String,
}

#[derive(Serialize)]
struct ErrorEnvelope {
    data: (),
    code: u16,
    error: ErrorView,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, reason: &str, message: &str) -> Self {
        let told = ErrorBody {
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
            param: None,
            field_errors: Vec::new(),
        };
        Self { status, body: Box::new(told), retry_after: None }
    }

    fn with_param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// Every fault of a request.
    pub fn invalid(faults: Vec<FieldError>) -> Self {
        let invalid = |reason: &str, message: &str| {
            Self::new(StatusCode::BAD_REQUEST, "invalid_request", reason, message)
        };
        let mut failure = match &faults[..] {
            [] => invalid("invalid_request", "the request makes no sense"),
            [only] => invalid(only.reason, &only.message).with_param(&only.param),
            [first, ..] => {
                let message = format!("{} things are wrong: see `errors`", faults.len());
                invalid("several_faults", &message).with_param(&first.param)
            }
        };
        failure.body.field_errors = faults;
        failure
    }

    /// The body is no JSON object.
    pub fn malformed_json(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "malformed_json", message)
    }

    /// There is no such path.
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "unknown_path", "there is no such path")
    }

    /// The path is not asked like this.
    pub fn method_not_allowed() -> Self {
        let message = "this path does not take this method: see the Allow header";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "invalid_request", "method_not_allowed", message)
    }

    /// The body is too long.
    pub fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the body has more than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body_too_large", &message)
    }

    /// The body is no JSON by its own word.
    pub fn unsupported_media_type() -> Self {
        let message = "send the body with content-type: application/json";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "invalid_request", "unsupported_media_type", message)
    }

    /// The body did not arrive.
    pub fn body_timeout() -> Self {
        let message = "the body did not arrive in time, or not whole";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request", "unfinished_body", message)
    }

    /// A page asks a change on behalf of a signed-in browser, from elsewhere.
    pub fn cross_site() -> Self {
        let message = "a cookie counts only for requests from the console itself";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", "cross_site", message)
    }

    /// The same idempotency key came with another request.
    pub fn idempotency_mismatch() -> Self {
        let message = "this Idempotency-Key was used with another body";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "idempotency_mismatch", "idempotency_mismatch", message)
            .with_param("Idempotency-Key")
    }

    /// It went wrong on our side. The cause goes to the log, not to the client.
    pub fn internal(cause: &str) -> Self {
        tracing::error!(cause, "an admin request failed");
        let message = "this failed on our side: try again, and tell the operator the request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal", message)
    }

    /// Whether the answer is worth keeping for an idempotency key: a refusal that would be the
    /// same again, not one that says to come back or that failed on our side.
    pub fn is_replayable(&self) -> bool {
        let passing = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_client_error() && !passing.contains(&self.status)
    }

    /// The body.
    pub fn to_json(&self) -> String {
        let told = &*self.body;
        let faults = told.field_errors.iter().map(|fault| FieldErrorView {
            param: fault.param.clone(),
            reason: fault.reason,
            message: fault.message.clone(),
        });
        let error = ErrorView {
            kind: told.kind,
            reason: told.reason.clone(),
            message: told.message.clone(),
            param: told.param.clone(),
            errors: faults.collect(),
        };
        let envelope = ErrorEnvelope { data: (), code: self.status.as_u16(), error };
        serde_json::to_string(&envelope).unwrap_or_default()
    }
}

impl From<UseCaseError> for ApiError {
    fn from(denied: UseCaseError) -> Self {
        match denied {
            UseCaseError::Invalid(faults) => Self::invalid(faults),
            UseCaseError::Unauthenticated(reason) => {
                let message = match reason {
                    "data_plane_key" => "an API key opens the data plane only: send an admin token",
                    "wrong_email_or_password" => "the address or the password is wrong",
                    "invalid_setup_link" => "the set-up link is wrong, used or expired",
                    _ => "send a valid session or admin token",
                };
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", reason, message)
            }
            UseCaseError::Forbidden(missing) => forbidden(missing),
            UseCaseError::CannotGrant(what) => {
                let message = format!("nobody gives what they do not have: {what}");
                Self::new(StatusCode::FORBIDDEN, "permission_denied", "cannot_grant", &message)
                    .with_param(what)
            }
            UseCaseError::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "not_found", "not_found", "there is no such thing")
            }
            UseCaseError::Conflict(reason, message) => {
                Self::new(StatusCode::CONFLICT, "conflict", reason, &message)
            }
            UseCaseError::VersionConflict => {
                let message = "it was changed since it was read: read it again";
                let status = StatusCode::PRECONDITION_FAILED;
                Self::new(status, "precondition_failed", "stale_version", message)
                    .with_param("If-Match")
            }
            UseCaseError::Throttled(wait) => {
                let message = "too many tries: wait as long as Retry-After says";
                let status = StatusCode::TOO_MANY_REQUESTS;
                let failure = Self::new(status, "throttled", "too_many_tries", message);
                Self { retry_after: Some(wait), ..failure }
            }
            UseCaseError::Internal(cause) => Self::internal(&cause),
        }
    }
}

fn forbidden(missing: Forbidden) -> ApiError {
    let (reason, message, param) = match missing {
        Forbidden::Scope(scope) => {
            ("missing_scope", format!("the token lacks the scope {}", scope.name()), scope.name())
        }
        Forbidden::NoRole => {
            ("role_none", "your role in this organization is None".to_owned(), "role")
        }
        Forbidden::SelfFunding => {
            let message = "only the operator pays in to this organization".to_owned();
            ("funding_by_operator", message, "selfFunding")
        }
        Forbidden::Permission(name) => ("missing_permission", format!("this takes {name}"), name),
    };
    ApiError::new(StatusCode::FORBIDDEN, "permission_denied", reason, &message).with_param(param)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, json, self.to_json()).into_response();
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
