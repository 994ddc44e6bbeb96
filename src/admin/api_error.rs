//! Error responses of the admin API: one JSON form for all of them.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::rights::Forbidden;

/// An error response of the admin API.
#[derive(Debug)]
pub struct ApiError {
    /// HTTP status; also the `code` of the body.
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

/// The `error` object of an error response.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorView {
    /// Error class, such as `invalid_request`.
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    kind: &'static str,
    /// Stable machine-readable code.
    reason: String,
    /// Human-readable message.
    message: String,
    /// What the error is about: a JSON pointer, query parameter, header or missing permission.
    #[schema(required)]
    param: Option<String>,
    /// Every validation error of the request; empty for other errors.
    errors: Vec<FieldErrorView>,
}

/// One validation error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FieldError)]
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
        let body = ErrorBody {
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
            param: None,
            field_errors: Vec::new(),
        };
        Self { status, body: Box::new(body), retry_after: None }
    }

    fn with_param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// 400 with all validation errors of a request.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let invalid = |reason: &str, message: &str| {
            Self::new(StatusCode::BAD_REQUEST, "invalid_request", reason, message)
        };
        let mut error = match &errors[..] {
            [] => invalid("invalid_request", "invalid request"),
            [only] => invalid(only.reason, &only.message).with_param(&only.param),
            [first, ..] => {
                let message = format!("validation failed: {} errors", errors.len());
                invalid("validation_failed", &message).with_param(&first.param)
            }
        };
        error.body.field_errors = errors;
        error
    }

    /// 400: the body is not a JSON object.
    pub fn malformed_json(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "malformed_json", message)
    }

    /// 404: no route matches the path.
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "unknown_path", "no such path")
    }

    /// 405: the path exists, but not with this method.
    pub fn method_not_allowed() -> Self {
        let message = "method not allowed on this path; see the Allow header";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "invalid_request", "method_not_allowed", message)
    }

    /// 413: the body is larger than `bytes_max`.
    pub fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the request body is larger than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body_too_large", &message)
    }

    /// 415: the content type is not JSON.
    pub fn unsupported_media_type() -> Self {
        let message = "unsupported Content-Type; send application/json";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "invalid_request", "unsupported_media_type", message)
    }

    /// 408: the body was not complete in time.
    pub fn body_timeout() -> Self {
        let message = "the request body was incomplete or took too long";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request", "body_timeout", message)
    }

    /// 403: a change authenticated by the session cookie alone came from another site.
    pub fn cross_site() -> Self {
        let message = "the session cookie is not accepted from another site; use a bearer token";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", "cross_site", message)
    }

    /// 422: the idempotency key was used before with another query or body.
    pub fn idempotency_mismatch() -> Self {
        let message = "this Idempotency-Key was already used with a different request";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "idempotency_mismatch", "idempotency_mismatch", message)
            .with_param("Idempotency-Key")
    }

    /// 500. Logs the cause and hides it from the client.
    pub fn internal(cause: &str) -> Self {
        tracing::error!(cause, "admin request failed");
        let message = "internal error; retry, or report the request id to the operator";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal", message)
    }

    /// Whether the error may be stored under an idempotency key and replayed. False for 401, 429
    /// and server errors, because a retry of those can succeed.
    pub fn is_replayable(&self) -> bool {
        let retryable = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_client_error() && !retryable.contains(&self.status)
    }

    pub fn to_json(&self) -> String {
        let body = &*self.body;
        let errors = body.field_errors.iter().map(|error| FieldErrorView {
            param: error.param.clone(),
            reason: error.reason,
            message: error.message.clone(),
        });
        let error = ErrorView {
            kind: body.kind,
            reason: body.reason.clone(),
            message: body.message.clone(),
            param: body.param.clone(),
            errors: errors.collect(),
        };
        let envelope = ErrorEnvelope { data: (), code: self.status.as_u16(), error };
        serde_json::to_string(&envelope).unwrap_or_default()
    }
}

impl From<UseCaseError> for ApiError {
    fn from(error: UseCaseError) -> Self {
        match error {
            UseCaseError::Invalid(errors) => Self::invalid(errors),
            UseCaseError::Unauthenticated(reason) => {
                let message = match reason {
                    "data_plane_key" => "an API key works on the proxy only; send an admin token",
                    "wrong_email_or_password" => "wrong email or password",
                    "invalid_setup_link" => "the setup link is invalid, used or expired",
                    _ => "missing or invalid credential; send a session or an admin token",
                };
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", reason, message)
            }
            UseCaseError::Forbidden(missing) => forbidden(missing),
            UseCaseError::CannotGrant(permission) => {
                let message =
                    format!("you cannot grant a permission that you do not have: {permission}");
                Self::new(StatusCode::FORBIDDEN, "permission_denied", "cannot_grant", &message)
                    .with_param(permission)
            }
            UseCaseError::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "not_found", "not_found", "not found")
            }
            UseCaseError::Conflict(reason, message) => {
                Self::new(StatusCode::CONFLICT, "conflict", reason, &message)
            }
            UseCaseError::VersionConflict => {
                let message = "the resource has changed since this version; read it again";
                let status = StatusCode::PRECONDITION_FAILED;
                Self::new(status, "precondition_failed", "stale_version", message)
                    .with_param("If-Match")
            }
            UseCaseError::Throttled(wait) => {
                let message = "too many attempts; retry after the time in Retry-After";
                let status = StatusCode::TOO_MANY_REQUESTS;
                let error = Self::new(status, "throttled", "too_many_attempts", message);
                Self { retry_after: Some(wait), ..error }
            }
            UseCaseError::Internal(cause) => Self::internal(&cause),
        }
    }
}

fn forbidden(missing: Forbidden) -> ApiError {
    let (reason, message, param) = match missing {
        Forbidden::Scope(scope) => {
            ("missing_scope", format!("missing token scope: {}", scope.name()), scope.name())
        }
        Forbidden::NoRole => {
            ("no_role", "you have no role in this organization".to_owned(), "role")
        }
        Forbidden::SelfFunding => {
            let message = "self-funding is off; only the operator can change the balance";
            ("self_funding_disabled", message.to_owned(), "selfFunding")
        }
        Forbidden::Permission(name) => {
            ("missing_permission", format!("missing permission: {name}"), name)
        }
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
