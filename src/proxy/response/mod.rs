//! Decodes, meters and redacts the body of a response.

pub mod content_encoding;
pub mod redact_secret;
pub mod settlement_gate;
pub mod decoded_meter;
pub mod response_meter;
