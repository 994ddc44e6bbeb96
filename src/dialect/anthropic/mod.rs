//! The Anthropic dialect: messages.

pub mod outside;
pub mod tier;
pub mod usage;
pub mod request;
pub mod event;
