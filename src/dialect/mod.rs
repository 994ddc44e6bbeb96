//! Pure: bytes in, facts out. What the providers' wire formats say, without building trees.

pub mod endpoint;
pub mod json;
pub mod tier;
pub mod estimate;
pub mod capture;
pub mod multipart;
pub mod sse;
pub mod event;
pub mod outside;
pub mod request;
pub mod openai;
pub mod anthropic;
pub mod gemini;
pub mod units;
pub mod meter;
pub mod document;
pub mod media;
pub mod read;
pub mod texts;
pub mod prompt_openai;
pub mod prompt;
pub mod tokenizer;

#[cfg(test)]
mod tests;
