//! The OpenAI dialect: chat, completions, responses and their siblings, also of those who speak
//! like it.

pub mod usage;
pub mod prompt;
pub mod external_refs;
pub mod request;
pub mod state_refs;
pub mod responses;
pub mod response_facts;
pub mod event;
pub mod oversized_event;

#[cfg(test)]
mod tests;
