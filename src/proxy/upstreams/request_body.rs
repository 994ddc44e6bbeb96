//! The request body for an upstream: the client's bytes with edits spliced in.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::dialect::call_facts::Edit;

/// Slices of the client's body and the edits between them. Cloning copies no bytes.
#[derive(Debug, Clone, Default)]
pub struct UpstreamBody {
    parts: VecDeque<Bytes>,
}

impl UpstreamBody {
    /// Applies `edits`, which must be in order and must not overlap.
    pub fn new(body: &Bytes, edits: &[Edit]) -> Self {
        let mut parts = VecDeque::with_capacity(1 + 2 * edits.len());
        let mut at = 0;
        for edit in edits {
            parts.push_back(body.slice(at..edit.range.start));
            parts.push_back(match &edit.text {
                std::borrow::Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
                std::borrow::Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
            });
            at = edit.range.end;
        }
        parts.push_back(body.slice(at..));
        parts.retain(|part| !part.is_empty());
        Self { parts }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.parts.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(|part| part.len() as u64).sum())
    }
}
