//! Pure: bytes in, facts out. What the providers' wire formats say, without building trees.

pub mod endpoint;
pub mod json;
pub mod tier;
pub mod estimate;
pub mod json_extractor;
pub mod multipart;
pub mod sse;
pub mod event;
pub mod external_refs;
pub mod call_facts;
pub mod prompt_text;
pub mod openai;
pub mod anthropic;
pub mod gemini;
pub mod billable_units;
pub mod stream_meter;
pub mod json_meter;
pub mod media;
pub mod parse;
pub mod prompt;
pub mod tokenizer;

#[cfg(test)]
mod tests;
