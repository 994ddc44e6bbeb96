//! Answer: the response body for a client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::background::Background;
use crate::proxy::relay::{Broken, Relay};

/// A response body for a client.
#[derive(Debug)]
pub enum Answer {
    /// The gateway's own words.
    Own(Option<Bytes>),
    /// An upstream's, as they come.
    Relayed(Box<Relay>),
    /// The same, of a call that is read on when its client leaves.
    Followed(Followed),
}

/// An upstream's answer that is read on when nobody takes it any more.
#[derive(Debug)]
pub struct Followed {
    /// Until it is dropped.
    relay: Option<Box<Relay>>,
    background: Background,
}

impl From<Bytes> for Answer {
    fn from(text: Bytes) -> Self {
        Self::Own(Some(text))
    }
}

impl Answer {
    /// An upstream's; `background` is where it is read on, if that must be.
    pub fn of(relay: Relay, background: &Background) -> Self {
        match relay.into_whole() {
            Ok(whole) => Self::Own(Some(whole)),
            Err(relay) if relay.presence().is_some() => {
                Self::Followed(Followed { relay: Some(relay), background: background.clone() })
            }
            Err(relay) => Self::Relayed(relay),
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        let presence = relay.presence().map(Rc::clone);
        if let Some(presence) = presence.filter(|_| relay.is_read_on()) {
            self.background.go_on(presence, relay.read_on());
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
            Self::Followed(Followed { relay, .. }) => match relay {
                Some(relay) => relay.poll_next(context).map_ok(Frame::data),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.as_ref().is_none_or(Bytes::is_empty),
            Self::Relayed(relay) => relay.is_over(),
            Self::Followed(followed) => followed.relay.as_ref().is_none_or(|relay| relay.is_over()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Relayed(_) | Self::Followed(_) => SizeHint::default(),
        }
    }
}
