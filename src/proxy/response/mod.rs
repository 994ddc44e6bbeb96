//! What happens to the body of a response: decoding, metering, redaction.

pub mod content_encoding;
pub mod redact;
pub mod settlement_gate;
pub mod decoded_meter;
pub mod response_meter;
