//! The OpenAI dialect: chat, completions, responses and their siblings, also of those who speak
//! like it.

pub mod usage;
pub mod outside;
pub mod request;
pub mod kept;
pub mod responses;
pub mod answer;
pub mod event;
pub mod long;

#[cfg(test)]
mod tests;
