//! Answer: the response body for a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::relay::{Broken, Relay};

/// A response body for a client.
#[derive(Debug)]
pub enum Answer {
    /// The gateway's own words.
    Own(Option<Bytes>),
    /// An upstream's, as they come.
    Relayed(Box<Relay>),
}

impl From<Bytes> for Answer {
    fn from(text: Bytes) -> Self {
        Self::Own(Some(text))
    }
}

impl From<Relay> for Answer {
    fn from(relay: Relay) -> Self {
        match relay.into_whole() {
            Ok(whole) => Self::Own(Some(whole)),
            Err(relay) => Self::Relayed(relay),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Relayed(relay) => relay.poll_next(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.as_ref().is_none_or(Bytes::is_empty),
            Self::Relayed(relay) => relay.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Relayed(_) => SizeHint::default(),
        }
    }
}
