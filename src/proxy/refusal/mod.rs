//! Error responses of the gateway itself.

pub mod error_spec;
pub mod message;
pub mod error_response;
pub mod refusal_log;
