//! The built-in provider in the Gemini dialect.

pub mod error;
pub mod request;
pub mod content;
pub mod embedding;
pub mod routes;
