//! `meteor demo`: a catalog, a built-in provider and a funded organization, so that the first call
//! needs no account with any provider.
//!
//! Each wire format of the provider has a folder, such as `openai`. Output and simulated faults are
//! the same in all of them.

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
