//! The errors of use cases.

use std::time::Duration;

use crate::ledger::wallets::PostError;
use crate::organization::rights::Forbidden;
use crate::store::database::DatabaseError;

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// A JSON pointer, or the name of a header or query parameter.
    pub param: String,
    /// A stable error code.
    pub reason: &'static str,
    /// What to do, for people.
    pub message: String,
}

impl FieldError {
    pub fn new(param: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { param: param.into(), reason, message: message.into() }
    }
}

/// Why a use case was not executed.
#[derive(Debug)]
pub enum UseCaseError {
    /// The request is invalid; all invalid fields.
    Invalid(Vec<FieldError>),
    /// The credential is missing or invalid; the reason code.
    Unauthenticated(&'static str),
    Forbidden(Forbidden),
    /// The principal cannot grant this scope or token kind, because it does not have it.
    CannotGrant(String),
    /// The object does not exist, or the principal may not know that it does.
    NotFound,
    /// The state of the object does not allow the change; reason code and message.
    Conflict(&'static str, String),
    /// The object was changed since the client read it.
    VersionConflict,
    /// Too many attempts; may be retried after this duration.
    Throttled(Duration),
    /// The gateway failed; the cause, for the log.
    Internal(String),
}

impl UseCaseError {
    /// Returns an error about one field.
    pub fn field(
        param: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::Invalid(vec![FieldError::new(param, reason, message)])
    }

    /// The state of the object does not allow the change; reason code and message.
    pub fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict(reason, message.into())
    }
}

impl From<DatabaseError> for UseCaseError {
    fn from(error: DatabaseError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<PostError> for UseCaseError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::BalanceTooLarge => Self::conflict("balance_too_large", error.to_string()),
            PostError::Database(error) => error.into(),
        }
    }
}

impl From<Forbidden> for UseCaseError {
    fn from(missing: Forbidden) -> Self {
        Self::Forbidden(missing)
    }
}
