//! The Gemini dialect: `generateContent`, token counts and embeddings.

pub mod external_refs;
pub mod prompt;
pub mod usage;
pub mod request;
pub mod event;
pub mod search_counter;
