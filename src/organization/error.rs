//! Denied: why a use case did not do what was asked.

use std::time::Duration;

use crate::ledger::wallets::PostError;
use crate::organization::rights::Forbidden;
use crate::store::database::DatabaseError;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// A JSON pointer, or the name of a query parameter.
    pub param: String,
    /// A stable word.
    pub reason: &'static str,
    /// What to do.
    pub message: String,
}

impl FieldError {
    /// A fault of that field.
    pub fn new(param: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { param: param.into(), reason, message: message.into() }
    }
}

/// Why not.
#[derive(Debug)]
pub enum UseCaseError {
    /// The request makes no sense: every fault of it.
    Invalid(Vec<FieldError>),
    /// It is not known who asks.
    Unauthenticated(&'static str),
    /// They may not.
    Forbidden(Forbidden),
    /// They would give what they do not have.
    CannotGrant(String),
    /// There is no such thing, as far as they may know.
    NotFound,
    /// It cannot be done as things are.
    Conflict(&'static str, String),
    /// It was changed since they read it.
    VersionConflict,
    /// Too often: after so long again.
    Throttled(Duration),
    /// Ours.
    Internal(String),
}

impl UseCaseError {
    /// One field is wrong.
    pub fn field(
        param: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::Invalid(vec![FieldError::new(param, reason, message)])
    }

    /// It cannot be done as things are.
    pub fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict(reason, message.into())
    }
}

impl From<DatabaseError> for UseCaseError {
    fn from(fault: DatabaseError) -> Self {
        Self::Internal(fault.to_string())
    }
}

impl From<PostError> for UseCaseError {
    fn from(fault: PostError) -> Self {
        match fault {
            PostError::BalanceTooLarge => Self::conflict("balance_too_large", fault.to_string()),
            PostError::Database(fault) => fault.into(),
        }
    }
}

impl From<Forbidden> for UseCaseError {
    fn from(missing: Forbidden) -> Self {
        Self::Forbidden(missing)
    }
}
