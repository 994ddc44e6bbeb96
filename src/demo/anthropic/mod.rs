//! The built-in provider in the Anthropic dialect.

pub mod complaint;
pub mod ask;
pub mod message;
pub mod routes;
