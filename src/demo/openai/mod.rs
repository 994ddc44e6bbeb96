//! The built-in provider in the OpenAI dialect.

pub mod error;
pub mod request;
pub mod usage;
pub mod chat;
pub mod text;
pub mod response;
pub mod moderation;
pub mod embedding;
pub mod media;
pub mod routes;
