//! The Gemini dialect: `generateContent` and its siblings.

pub mod outside;
pub mod usage;
pub mod request;
pub mod event;
pub mod searches;
