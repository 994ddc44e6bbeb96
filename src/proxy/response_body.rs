//! The response body for a client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::server::detached_calls::DetachedCalls;
use crate::proxy::stages::relay::{Relay, RelayError};

#[derive(Debug)]
pub enum ResponseBody {
    /// A complete body: a response of the gateway itself, or one that arrived in one piece.
    Local(Option<Bytes>),
    /// Forwards a response of an upstream.
    Streaming(Box<Relay>),
    /// As `Streaming`, for a call that is drained after its client disconnects.
    DrainOnDrop(DrainOnDrop),
}

/// Drains the response in the background if dropped before its end.
#[derive(Debug)]
pub struct DrainOnDrop {
    /// `None` after drop.
    relay: Option<Box<Relay>>,
    detached: DetachedCalls,
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Local(Some(bytes))
    }
}

impl ResponseBody {
    /// Wraps a relay; `detached` runs the drain if one is needed.
    pub fn from_relay(relay: Relay, detached: &DetachedCalls) -> Self {
        match relay.into_complete() {
            Ok(bytes) => Self::Local(Some(bytes)),
            Err(relay) if relay.disconnect_tracker().is_some() => {
                Self::DrainOnDrop(DrainOnDrop { relay: Some(relay), detached: detached.clone() })
            }
            Err(relay) => Self::Streaming(relay),
        }
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        let tracker = relay.disconnect_tracker().map(Rc::clone);
        if let Some(tracker) = tracker.filter(|_| relay.drains_on_disconnect()) {
            self.detached.drain(tracker, relay.drain());
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match self.get_mut() {
            Self::Local(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming(relay) => relay.poll_next(context).map_ok(Frame::data),
            Self::DrainOnDrop(DrainOnDrop { relay, .. }) => match relay {
                Some(relay) => relay.poll_next(context).map_ok(Frame::data),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Streaming(relay) => relay.is_complete(),
            Self::DrainOnDrop(body) => body.relay.as_ref().is_none_or(|relay| relay.is_complete()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Streaming(_) | Self::DrainOnDrop(_) => SizeHint::default(),
        }
    }
}
