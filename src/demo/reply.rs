//! A reply on its way: pieces at their pace, and an end that may be no end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::time::{Sleep, sleep};

use crate::demo::script::{ReplyEnding, Script};

/// What a dialect makes of a request.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, that of the content's type included.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, piece by piece.
    pub chunks: Vec<Bytes>,
    /// The error that a stream can break off with; none where all comes at once.
    pub error_event: Option<Bytes>,
}

/// The type of one JSON text, as most write it.
pub const JSON: &str = "application/json";
/// The type of a stream of events, as most write it.
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// The JSON text of one of the provider's own shapes.
pub fn to_json(shape: &impl Serialize) -> String {
    serde_json::to_string(shape).expect("the shapes have text keys and no failing parts")
}

/// Letters and digits that never came before.
pub fn unique_id() -> String {
    let mut text = uuid::Uuid::now_v7().simple().to_string();
    text.truncate(29);
    text
}

/// The value of a header: an id of that kind.
pub fn id_header(kind: &str) -> HeaderValue {
    let id = format!("{kind}{}", unique_id());
    HeaderValue::try_from(id).expect("letters and digits are the value of a header")
}

impl Reply {
    /// A text of that type, with its status.
    pub fn complete(kind: &'static str, status: StatusCode, text: String) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        Self { status, headers, chunks: vec![text.into()], error_event: None }
    }

    /// A stream of that type, and the error that it can break off with.
    pub fn stream(kind: &'static str, chunks: Vec<Bytes>, breakoff: Bytes) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        Self { status: StatusCode::OK, headers, chunks, error_event: Some(breakoff) }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// The response, played as the script says. An error is always played whole.
    pub fn into_response(mut self, script: &Script) -> Response<PacedBody> {
        let ending = if self.status.is_success() { script.ending } else { ReplyEnding::Complete };
        match ending {
            ReplyEnding::Complete => {}
            ReplyEnding::Cut | ReplyEnding::Stall => self.halve(),
            ReplyEnding::StreamError => self.break_off(),
        }
        let body = PacedBody {
            bytes: self.chunks.iter().map(|piece| piece.len() as u64).sum(),
            chunks: self.chunks.into(),
            event_interval: script.event_interval,
            sleep: None,
            ending,
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }

    /// Leaves the first half of the pieces, or of the only one.
    fn halve(&mut self) {
        if let [only] = &mut self.chunks[..] {
            only.truncate(only.len() / 2);
        } else {
            self.chunks.truncate(self.chunks.len() / 2);
        }
    }

    /// Leaves the first half of a stream, and ends it with its error.
    fn break_off(&mut self) {
        if let Some(error) = self.error_event.take() {
            self.chunks.truncate(self.chunks.len() / 2);
            self.chunks.push(error);
        }
    }
}

/// The body of a reply.
#[derive(Debug)]
pub struct PacedBody {
    bytes: u64,
    chunks: VecDeque<Bytes>,
    event_interval: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    ending: ReplyEnding,
}

const CUT_DELAY: Duration = Duration::from_millis(5);

impl PacedBody {
    const fn ends_normally(&self) -> bool {
        matches!(self.ending, ReplyEnding::Complete | ReplyEnding::StreamError)
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(context));
            self.sleep = None;
        }
        let Some(piece) = self.chunks.pop_front() else {
            return match self.ending {
                ReplyEnding::Complete | ReplyEnding::StreamError => Poll::Ready(None),
                ReplyEnding::Cut => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
                // Nobody wakes this: it ends when the client leaves.
                ReplyEnding::Stall => Poll::Pending,
            };
        };
        let pause = match (self.chunks.is_empty(), self.ending) {
            (false, _) => self.event_interval,
            // What was said must have left before the connection breaks.
            (true, ReplyEnding::Cut) => self.event_interval.max(CUT_DELAY),
            (true, _) => Duration::ZERO,
        };
        if !pause.is_zero() {
            self.sleep = Some(Box::pin(sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && self.ends_normally()
    }

    /// Exact for a single piece that comes whole, so that it goes out under its length.
    fn size_hint(&self) -> SizeHint {
        if self.chunks.len() == 1 && self.ends_normally() {
            SizeHint::with_exact(self.bytes)
        } else {
            SizeHint::default()
        }
    }
}
