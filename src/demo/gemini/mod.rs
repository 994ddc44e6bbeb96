//! The built-in provider in the Gemini dialect.

pub mod complaint;
pub mod ask;
pub mod content;
pub mod embedding;
pub mod routes;
