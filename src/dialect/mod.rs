//! Wire formats of the providers: reads the facts of requests and responses from their bytes,
//! without building trees. Pure: no I/O, no clock.

pub mod json;
pub mod tier;
pub mod estimate;
pub mod json_extractor;
pub mod multipart;
pub mod sse;
pub mod event;
pub mod external_refs;
pub mod call_facts;
pub mod field_kinds;
pub mod policy_fields;
pub mod prompt_text;
pub mod openai;
pub mod anthropic;
pub mod gemini;
pub mod media;
pub mod endpoint;
pub mod paths;
pub mod billable_units;
pub mod stream_meter;
pub mod json_meter;
pub mod media_meter;
pub mod parse;
pub mod prompt;
pub mod tokenizer;

#[cfg(test)]
mod tests;
