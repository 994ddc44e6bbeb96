//! The Anthropic dialect: messages.

pub mod outside;
pub mod request;
pub mod usage;
pub mod event;
