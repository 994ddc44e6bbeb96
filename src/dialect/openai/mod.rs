//! The OpenAI dialect: chats, completions, responses and embeddings, as OpenAI and compatible
//! providers implement them.

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
