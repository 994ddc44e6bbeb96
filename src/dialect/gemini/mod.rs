//! The Gemini dialect: `generateContent` and its siblings.

pub mod outside;
pub mod request;
pub mod usage;
pub mod event;
pub mod searches;
