//! The Anthropic dialect: messages.

pub mod outside;
pub mod request;
