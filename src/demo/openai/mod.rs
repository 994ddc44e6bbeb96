//! The built-in provider in the OpenAI dialect.

pub mod complaint;
pub mod ask;
pub mod length;
pub mod completion;
pub mod routes;
