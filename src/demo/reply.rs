//! Sends a reply in chunks at a given pace, complete or with a simulated fault.

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

/// The reply to a request, in the wire format of a dialect.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// Headers, including the content type.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body. Each chunk is sent separately.
    pub chunks: Vec<Bytes>,
    /// The error event that can end a stream early; `None` for a reply without a stream.
    pub error_event: Option<Bytes>,
}

/// Content type of a JSON body.
pub const JSON: &str = "application/json";
/// Content type of an event stream.
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// Serializes a response body.
pub fn to_json(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("response bodies have string keys and serialize")
}

/// Returns letters and digits that were never returned before.
pub fn unique_id() -> String {
    let mut text = uuid::Uuid::now_v7().simple().to_string();
    text.truncate(29);
    text
}

/// Returns a header value with a unique id and this prefix.
pub fn id_header(kind: &str) -> HeaderValue {
    let id = format!("{kind}{}", unique_id());
    HeaderValue::try_from(id).expect("letters and digits are a header value")
}

impl Reply {
    /// Creates a reply whose body is sent at once.
    pub fn complete(kind: &'static str, status: StatusCode, text: String) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        Self { status, headers, chunks: vec![text.into()], error_event: None }
    }

    /// Creates an event stream, with the error event that can end it early.
    pub fn stream(kind: &'static str, chunks: Vec<Bytes>, error_event: Bytes) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        Self { status: StatusCode::OK, headers, chunks, error_event: Some(error_event) }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// Converts the reply as the script demands. Error replies are always sent completely.
    pub fn into_response(mut self, script: &Script) -> Response<PacedBody> {
        let ending = if self.status.is_success() { script.ending } else { ReplyEnding::Complete };
        match ending {
            ReplyEnding::Complete => {}
            ReplyEnding::Cut | ReplyEnding::Stall => self.halve(),
            ReplyEnding::StreamError => self.break_off(),
        }
        let body = PacedBody {
            bytes: self.chunks.iter().map(|chunk| chunk.len() as u64).sum(),
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

    /// Keeps the first half of the chunks, or of the only chunk.
    fn halve(&mut self) {
        if let [only] = &mut self.chunks[..] {
            only.truncate(only.len() / 2);
        } else {
            self.chunks.truncate(self.chunks.len() / 2);
        }
    }

    /// Keeps the first half of a stream and ends it with the error event.
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
        let Some(chunk) = self.chunks.pop_front() else {
            return match self.ending {
                ReplyEnding::Complete | ReplyEnding::StreamError => Poll::Ready(None),
                ReplyEnding::Cut => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
                // Never woken: the body ends when the client disconnects.
                ReplyEnding::Stall => Poll::Pending,
            };
        };
        let pause = match (self.chunks.is_empty(), self.ending) {
            (false, _) => self.event_interval,
            // Otherwise the connection could close before the last chunk is sent.
            (true, ReplyEnding::Cut) => self.event_interval.max(CUT_DELAY),
            (true, _) => Duration::ZERO,
        };
        if !pause.is_zero() {
            self.sleep = Some(Box::pin(sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && self.ends_normally()
    }

    /// Exact for a single complete chunk, so that the response has a `content-length`.
    fn size_hint(&self) -> SizeHint {
        if self.chunks.len() == 1 && self.ends_normally() {
            SizeHint::with_exact(self.bytes)
        } else {
            SizeHint::default()
        }
    }
}
