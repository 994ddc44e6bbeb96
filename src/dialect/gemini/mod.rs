//! The Gemini dialect: `generateContent` and its siblings.

pub mod outside;
pub mod request;
