//! Meter: what reads the usage out of an answer as it passes.

use crate::dialect::meter::{BodyMeter, Reading, StreamMeter};

/// What reads the usage out of an answer as it passes.
#[derive(Debug)]
pub enum Meter {
    /// A stream of events.
    Stream(StreamMeter),
    /// One document.
    Body(BodyMeter),
    /// Nothing: the answer is free.
    Off,
}

impl Meter {
    /// What was learned so far.
    pub fn reading(&self) -> Reading {
        match self {
            Self::Stream(meter) => *meter.reading(),
            Self::Body(meter) => meter.reading(),
            Self::Off => Reading::default(),
        }
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn kept_id(&self) -> Option<&str> {
        match self {
            Self::Stream(meter) => meter.kept_id(),
            Self::Body(meter) => meter.kept_id(),
            Self::Off => None,
        }
    }
}
