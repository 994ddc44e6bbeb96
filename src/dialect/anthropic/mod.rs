//! The Anthropic dialect: messages.

pub mod outside;
pub mod usage;
pub mod request;
pub mod event;
