//! Tests of the dialects that span several files.

pub mod meters;
mod json_extractor;
mod oversized_events;
