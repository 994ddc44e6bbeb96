//! The OpenAI dialect: chat completions and embeddings, also of those who speak like it.

pub mod usage;
pub mod outside;
pub mod request;
pub mod event;
