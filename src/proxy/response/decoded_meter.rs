//! Meters a response that is not encoded, or was decoded.

use bytes::Bytes;

use crate::dialect::endpoint::Endpoint;
use crate::dialect::json_meter::JsonBodyMeter;
use crate::dialect::media_meter::MediaMeter;
use crate::dialect::sse;
use crate::dialect::stream_meter::{Metered, StreamMeter, UsageReading};
use crate::domain::usage::Usage;

/// Reads usage from the text of a response as it is forwarded.
#[derive(Debug)]
pub enum DecodedMeter {
    /// No byte was read. The first ones decide between `Stream` and `Document`.
    Undetermined(MeterConfig),
    /// Server-sent events.
    Stream(Box<StreamMeter>),
    /// One JSON document. The last byte received is held, because it may be the end.
    Document(Box<JsonBodyMeter>, Bytes),
    /// Images or audio, as events or a document.
    Media(Box<MediaMeter>),
    /// The response is not metered.
    Off,
}

/// What the request determines about the metering of its response.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Whether the client requested a stream.
    pub requested: bool,
    /// Whether to remove usage that only the gateway requested.
    pub strip_usage: bool,
}

/// Parameters of a meter.
#[derive(Debug, Clone, Copy)]
pub struct MeterConfig {
    pub endpoint: Endpoint,
    /// Maximum usage of a call for images or audio.
    pub usage_max: Option<Usage>,
    /// Whether the response declares `text/event-stream`.
    pub is_stream: bool,
    /// Whether the client requested a stream.
    pub stream_requested: bool,
    /// Whether to remove usage that only the gateway requested.
    pub strip_usage: bool,
}

impl DecodedMeter {
    pub fn reading(&self) -> UsageReading {
        match self {
            Self::Stream(meter) => meter.reading().clone(),
            Self::Document(meter, _) => meter.reading(),
            Self::Media(meter) => meter.reading(),
            Self::Undetermined(_) | Self::Off => UsageReading::default(),
        }
    }

    /// Returns the id of an object that the provider stores, at most 256 bytes.
    pub fn state_id(&self) -> Option<&str> {
        match self {
            Self::Stream(meter) => meter.state_id(),
            Self::Document(meter, _) => meter.state_id(),
            Self::Media(_) | Self::Undetermined(_) | Self::Off => None,
        }
    }

    pub fn is_document(&self) -> bool {
        match self {
            Self::Document(..) => true,
            Self::Media(meter) => !meter.is_stream(),
            Self::Undetermined(_) | Self::Stream(_) | Self::Off => false,
        }
    }

    /// Ends the response and returns the bytes that were held.
    pub fn finish(&mut self) -> Bytes {
        match self {
            Self::Stream(meter) => meter.finish(),
            Self::Document(_, last) => std::mem::take(last),
            Self::Media(meter) => meter.finish(),
            Self::Undetermined(_) | Self::Off => Bytes::new(),
        }
    }

    /// Meters the next bytes. `is_last` is true if no more bytes follow.
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

/// Forwards everything but the last byte, which is held in case it is the end.
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
