//! Plain: an answer as text, read for its usage as it passes.

use bytes::Bytes;

use crate::dialect::endpoint::Endpoint;
use crate::dialect::json_meter::JsonBodyMeter;
use crate::dialect::media::meter::MediaMeter;
use crate::dialect::sse;
use crate::dialect::stream_meter::{Metered, StreamMeter, UsageReading};
use crate::domain::usage::Usage;

/// What reads the text of an answer.
#[derive(Debug)]
pub enum DecodedMeter {
    /// One of the next two: the first bytes will say.
    Undetermined(MeterConfig),
    /// A stream of events.
    Stream(Box<StreamMeter>),
    /// One document, and its last byte so far, which may be the last of all.
    Document(Box<JsonBodyMeter>, Bytes),
    /// Images or audio, either way.
    Media(Box<MediaMeter>),
    /// The answer is free.
    Off,
}

/// What is expected of an answer.
#[derive(Debug, Clone, Copy)]
pub struct MeterConfig {
    /// What was called.
    pub endpoint: Endpoint,
    /// All that it can use, where it has images or audio.
    pub usage_max: Option<Usage>,
    /// Whether it says that it is a stream of events.
    pub is_stream: bool,
    /// Whether a stream was asked for.
    pub stream_requested: bool,
    /// Whether usage is taken out that only the gateway asked for.
    pub strip_usage: bool,
}

impl DecodedMeter {
    /// What was learned so far.
    pub fn reading(&self) -> UsageReading {
        match self {
            Self::Stream(meter) => meter.reading().clone(),
            Self::Document(meter, _) => meter.reading(),
            Self::Media(meter) => meter.reading(),
            Self::Undetermined(_) | Self::Off => UsageReading::default(),
        }
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn state_id(&self) -> Option<&str> {
        match self {
            Self::Stream(meter) => meter.state_id(),
            Self::Document(meter, _) => meter.state_id(),
            Self::Media(_) | Self::Undetermined(_) | Self::Off => None,
        }
    }

    /// Whether it is one document.
    pub fn is_document(&self) -> bool {
        match self {
            Self::Document(..) => true,
            Self::Media(meter) => !meter.is_stream(),
            Self::Undetermined(_) | Self::Stream(_) | Self::Off => false,
        }
    }

    /// The answer is complete: what was held back of it.
    pub fn finish(&mut self) -> Bytes {
        match self {
            Self::Stream(meter) => meter.finish(),
            Self::Document(_, last) => std::mem::take(last),
            Self::Media(meter) => meter.finish(),
            Self::Undetermined(_) | Self::Off => Bytes::new(),
        }
    }

    /// Reads what one read brought, of which it is known whether it is the last.
    pub fn read(&mut self, data: Bytes, is_last: bool) -> Metered {
        if let (Self::Undetermined(config), Some(first)) = (&*self, data.trim_ascii_start().first())
        {
            let MeterConfig { endpoint, usage_max, is_stream, stream_requested, strip_usage } =
                *config;
            let dialect = endpoint.dialect();
            let is_document = matches!(first, b'{' | b'[');
            let is_events =
                is_stream || stream_requested && sse::has_event_prefix(data.trim_ascii_start());
            *self = if let Some(media) = endpoint.media() {
                let usage_max = usage_max.unwrap_or_default();
                Self::Media(Box::new(MediaMeter::new(media, is_stream, usage_max)))
            } else if is_events && !is_document {
                Self::Stream(Box::new(StreamMeter::new(dialect, strip_usage)))
            } else {
                Self::Document(Box::new(JsonBodyMeter::new(dialect)), Bytes::new())
            };
        }
        match self {
            Self::Stream(meter) => meter.read(data),
            Self::Document(meter, last) => {
                meter.read(&data);
                hold_last_byte(last, data, is_last)
            }
            Self::Media(meter) => meter.read(data),
            Self::Undetermined(_) | Self::Off => {
                Metered { forward: vec![data], ..Metered::default() }
            }
        }
    }
}

/// Lets all pass but the last byte, which waits to see whether it is the last of all.
fn hold_last_byte(last: &mut Bytes, mut data: Bytes, is_last: bool) -> Metered {
    let mut metered = Metered::default();
    if data.is_empty() {
        return metered;
    }
    metered.forward.push(std::mem::take(last));
    if is_last {
        metered.held.push(data);
    } else {
        *last = data.split_off(data.len() - 1);
        metered.forward.push(data);
    }
    metered.forward.retain(|piece| !piece.is_empty());
    metered
}
