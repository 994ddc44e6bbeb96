//! Plain: an answer as text, read for its usage as it passes.

use bytes::Bytes;

use crate::dialect::document::BodyMeter;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::media::meter::MediaMeter;
use crate::dialect::meter::{Passage, Reading, StreamMeter};
use crate::dialect::sse;
use crate::domain::usage::Usage;

/// What reads the text of an answer.
#[derive(Debug)]
pub enum Plain {
    /// One of the next two: the first bytes will say.
    Unread(Expected),
    /// A stream of events.
    Stream(Box<StreamMeter>),
    /// One document, and its last byte so far, which may be the last of all.
    Body(Box<BodyMeter>, Bytes),
    /// Images or audio, either way.
    Media(Box<MediaMeter>),
    /// The answer is free.
    Off,
}

/// What is expected of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// What was called.
    pub endpoint: Endpoint,
    /// All that it can use, where it has images or audio.
    pub most: Option<Usage>,
    /// Whether it says that it is a stream of events.
    pub is_stream: bool,
    /// Whether a stream was asked for.
    pub asked: bool,
    /// Whether usage is taken out that only the gateway asked for.
    pub strips: bool,
}

impl Plain {
    /// What was learned so far.
    pub fn reading(&self) -> Reading {
        match self {
            Self::Stream(meter) => meter.reading().clone(),
            Self::Body(meter, _) => meter.reading(),
            Self::Media(meter) => meter.reading(),
            Self::Unread(_) | Self::Off => Reading::default(),
        }
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn kept_id(&self) -> Option<&str> {
        match self {
            Self::Stream(meter) => meter.kept_id(),
            Self::Body(meter, _) => meter.kept_id(),
            Self::Media(_) | Self::Unread(_) | Self::Off => None,
        }
    }

    /// Whether it is one document.
    pub fn is_document(&self) -> bool {
        match self {
            Self::Body(..) => true,
            Self::Media(meter) => !meter.is_stream(),
            Self::Unread(_) | Self::Stream(_) | Self::Off => false,
        }
    }

    /// The answer is complete: what was held back of it.
    pub fn finish(&mut self) -> Bytes {
        match self {
            Self::Stream(meter) => meter.finish(),
            Self::Body(_, last) => std::mem::take(last),
            Self::Media(meter) => meter.finish(),
            Self::Unread(_) | Self::Off => Bytes::new(),
        }
    }

    /// Reads what one read brought, of which it is known whether it is the last.
    pub fn read(&mut self, data: Bytes, is_last: bool) -> Passage {
        if let (Self::Unread(expected), Some(first)) = (&*self, data.trim_ascii_start().first()) {
            let Expected { endpoint, most, is_stream, asked, strips } = *expected;
            let dialect = endpoint.dialect();
            let is_document = matches!(first, b'{' | b'[');
            let is_events = is_stream || asked && sse::begins(data.trim_ascii_start());
            *self = if let Some(media) = endpoint.media() {
                let most = most.unwrap_or_default();
                Self::Media(Box::new(MediaMeter::new(media, is_stream, most)))
            } else if is_events && !is_document {
                Self::Stream(Box::new(StreamMeter::new(dialect, strips)))
            } else {
                Self::Body(Box::new(BodyMeter::new(dialect)), Bytes::new())
            };
        }
        match self {
            Self::Stream(meter) => meter.read(data),
            Self::Body(meter, last) => {
                meter.read(&data);
                held_last(last, data, is_last)
            }
            Self::Media(meter) => meter.read(data),
            Self::Unread(_) | Self::Off => Passage { pass: vec![data], ..Passage::default() },
        }
    }
}

/// Lets all pass but the last byte, which waits to see whether it is the last of all.
fn held_last(last: &mut Bytes, mut data: Bytes, is_last: bool) -> Passage {
    let mut passage = Passage::default();
    if data.is_empty() {
        return passage;
    }
    passage.pass.push(std::mem::take(last));
    if is_last {
        passage.end.push(data);
    } else {
        *last = data.split_off(data.len() - 1);
        passage.pass.push(data);
    }
    passage.pass.retain(|piece| !piece.is_empty());
    passage
}
