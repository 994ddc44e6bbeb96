//! The Anthropic dialect: messages.

pub mod external_refs;
pub mod prompt;
pub mod tier;
pub mod usage;
pub mod request;
pub mod event;
