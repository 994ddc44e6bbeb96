//! The built-in provider in the Anthropic dialect.

pub mod error;
pub mod request;
pub mod message;
pub mod routes;
