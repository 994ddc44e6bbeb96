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

use crate::demo::script::{Ending, Script};

/// What a dialect makes of a request.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, that of the content's type included.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, piece by piece.
    pub pieces: Vec<Bytes>,
    /// The error that a stream can break off with; none where all comes at once.
    pub breakoff: Option<Bytes>,
}

/// The type of one JSON text, as most write it.
pub const JSON: &str = "application/json";
/// The type of a stream of events, as most write it.
pub const EVENTS: &str = "text/event-stream; charset=utf-8";

/// The JSON text of one of the provider's own shapes.
pub fn json(shape: &impl Serialize) -> String {
    serde_json::to_string(shape).expect("the shapes have text keys and no failing parts")
}

/// Letters and digits that never came before.
pub fn opaque() -> String {
    let mut text = uuid::Uuid::now_v7().simple().to_string();
    text.truncate(29);
    text
}

/// The value of a header: an id of that kind.
pub fn opaque_id(kind: &str) -> HeaderValue {
    let id = format!("{kind}{}", opaque());
    HeaderValue::try_from(id).expect("letters and digits are the value of a header")
}

impl Reply {
    /// A text of that type, with its status.
    pub fn whole(kind: &'static str, status: StatusCode, text: String) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        Self { status, headers, pieces: vec![text.into()], breakoff: None }
    }

    /// A stream of that type, and the error that it can break off with.
    pub fn stream(kind: &'static str, pieces: Vec<Bytes>, breakoff: Bytes) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        Self { status: StatusCode::OK, headers, pieces, breakoff: Some(breakoff) }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// The response, played as the script says. An error is always played whole.
    pub fn play(mut self, script: &Script) -> Response<Paced> {
        let ending = if self.status.is_success() { script.ending } else { Ending::Whole };
        match ending {
            Ending::Whole => {}
            Ending::Cut | Ending::Stall => self.halve(),
            Ending::BreakOff => self.break_off(),
        }
        let body = Paced {
            bytes: self.pieces.iter().map(|piece| piece.len() as u64).sum(),
            pieces: self.pieces.into(),
            pause: script.pause,
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
        if let [only] = &mut self.pieces[..] {
            only.truncate(only.len() / 2);
        } else {
            self.pieces.truncate(self.pieces.len() / 2);
        }
    }

    /// Leaves the first half of a stream, and ends it with its error.
    fn break_off(&mut self) {
        if let Some(error) = self.breakoff.take() {
            self.pieces.truncate(self.pieces.len() / 2);
            self.pieces.push(error);
        }
    }
}

/// The body of a reply.
#[derive(Debug)]
pub struct Paced {
    bytes: u64,
    pieces: VecDeque<Bytes>,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    ending: Ending,
}

const BEFORE_CUT: Duration = Duration::from_millis(5);

impl Paced {
    const fn comes_to_its_end(&self) -> bool {
        matches!(self.ending, Ending::Whole | Ending::BreakOff)
    }
}

impl Body for Paced {
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
        let Some(piece) = self.pieces.pop_front() else {
            return match self.ending {
                Ending::Whole | Ending::BreakOff => Poll::Ready(None),
                Ending::Cut => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
                // Nobody wakes this: it ends when the client leaves.
                Ending::Stall => Poll::Pending,
            };
        };
        let pause = match (self.pieces.is_empty(), self.ending) {
            (false, _) => self.pause,
            // What was said must have left before the connection breaks.
            (true, Ending::Cut) => self.pause.max(BEFORE_CUT),
            (true, _) => Duration::ZERO,
        };
        if !pause.is_zero() {
            self.sleep = Some(Box::pin(sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.comes_to_its_end()
    }

    /// Exact for a single piece that comes whole, so that it goes out under its length.
    fn size_hint(&self) -> SizeHint {
        if self.pieces.len() == 1 && self.comes_to_its_end() {
            SizeHint::with_exact(self.bytes)
        } else {
            SizeHint::default()
        }
    }
}
