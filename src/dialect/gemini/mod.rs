//! The Gemini dialect: `generateContent` and its siblings.

pub mod external_refs;
pub mod prompt;
pub mod usage;
pub mod request;
pub mod event;
pub mod search_counter;
