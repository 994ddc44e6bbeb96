//! `meteor demo`: its catalog, a provider that is built in and an organization with money, so that
//! the first call needs no account anywhere.
//!
//! Each wire format of the provider is a folder like `openai`; what an answer says and how it
//! misbehaves is the same for all.

pub mod catalog;
pub mod canned_text;
pub mod script;
pub mod reply;
pub mod request;
pub mod generation;
pub mod vector;
pub mod openai;
pub mod anthropic;
pub mod gemini;
pub mod provider;
pub mod seed;

#[cfg(test)]
mod tests;
