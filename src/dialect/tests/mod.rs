//! The dialects, tested where no one file is the place.

pub mod meters;
mod json_extractor;
mod oversized_events;
