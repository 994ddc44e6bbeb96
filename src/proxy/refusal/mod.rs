//! Error responses of the gateway itself.

pub mod reason;
pub mod message;
pub mod error_response;
pub mod refusal_log;
