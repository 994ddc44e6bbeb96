//! Relay: an upstream's answer as it comes, metered on the way, its end held until it is settled.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Response, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::accounting::permit::Permit;
use crate::accounting::presence::Presence;
use crate::clock;
use crate::crash::crash_point;
use crate::dialect::endpoint::{Endpoint, Metering};
use crate::dialect::meter::Passage;
use crate::journal::entry::Outcome;
use crate::journal::writer::Writer;
use crate::proxy::clear::clear;
use crate::proxy::coding::Corrupt;
use crate::proxy::forward::{Answered, give_up};
use crate::proxy::gate::Gate;
use crate::proxy::headers;
use crate::proxy::meter::Meter;
use crate::proxy::pool::Lease;
use crate::proxy::refuse::Refusal;
use crate::proxy::upstream::Upstream;

/// An answer that cannot go on: the client's connection is cut, so that it takes no part for all.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The upstream broke off.
    #[error("the upstream broke off: {0}")]
    Upstream(hyper::Error),
    /// The upstream was silent for too long.
    #[error("the upstream was silent for too long")]
    Silent,
    /// What the upstream coded, and the client was to be given as text, cannot be read.
    #[error("the upstream's answer is not coded as it says")]
    Corrupt,
}

/// How often an open stream writes down what it has cost so far.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
const PROGRESS_TOKENS: u64 = 1_000;

/// A body on its way from an upstream to a client.
#[derive(Debug)]
pub struct Relay {
    upstream: Incoming,
    /// Who answers.
    source: Arc<Upstream>,
    lease: Option<Lease>,
    meter: Meter,
    /// Until the call is settled.
    permit: Option<Permit>,
    /// How the call came out, if the answer comes to its end.
    outcome: Outcome,
    writer: Rc<Writer>,
    ready: VecDeque<Bytes>,
    /// What may not be sent before the settlement is durable.
    end: Vec<Bytes>,
    gate: Gate,
    broken: Option<Broken>,
    /// Whether bytes were given that may not have been sent.
    is_unsent: bool,
    is_read: bool,
    /// Whether the other calls of this worker have their turn before it goes on decoding.
    gives_way: bool,
    idle_timeout: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    progress_at: Option<Instant>,
    progress_tokens: u64,
}

/// Turns an upstream's answer into the client's.
///
/// An error of the upstream is free and passes byte for byte, but for the secret where it may echo
/// that; so does what it only counted; anything else is metered. `asked` and `strips` say that a
/// stream was asked for, and usage by the gateway only.
pub async fn relay(
    answered: Answered,
    endpoint: Endpoint,
    (asked, strips): (bool, bool),
) -> Result<Response<Relay>, Refusal> {
    let Answered { response, lease, mut permit, upstream } = answered;
    let (settings, dialect) = (&upstream.settings, endpoint.dialect());
    let (mut parts, mut body) = response.into_parts();
    let cleared = match clear(&upstream, &mut parts, &mut body).await {
        Ok(cleared) => cleared.filter(|body| !body.is_empty()),
        Err(refusal) => return Err(give_up(permit, refusal, dialect).await),
    };
    headers::for_client(&mut parts.headers, settings.forward_limits);
    // Ours is the connection to the client, whatever the upstream's was.
    parts.version = Version::HTTP_11;
    parts.headers.reserve(headers::own_max(dialect));
    headers::add_id(&mut parts.headers, permit.id(), dialect);
    headers::add_rooms(&mut parts.headers, permit.rooms(), dialect, permit.admitted_at());
    if let Some(tokens) = permit.output_clamped() {
        parts.headers.insert(headers::OUTPUT_CLAMPED, HeaderValue::from(tokens));
    }
    if !permit.has_left() {
        permit.course.status = parts.status.as_u16();
    }
    let writer = Rc::clone(permit.writer());
    if !writer.is_durable_when_written() {
        writer.durable(permit.held_at()).await;
    }
    let is_error = !parts.status.is_success();
    if is_error {
        parts.headers.insert(headers::ERROR_SOURCE, HeaderValue::from_static("upstream"));
    }
    permit.course.is_free = is_error || endpoint.metering() == Metering::Request;
    let meter = if permit.course.is_free {
        Meter::OFF
    } else {
        let most = permit.measured.reported;
        Meter::of_answer(&mut parts.headers, (endpoint, most), (asked, strips))
    };
    let mut relay = Relay {
        upstream: body,
        idle_timeout: settings.idle_timeout,
        source: upstream,
        lease: Some(lease),
        meter,
        permit: Some(permit),
        outcome: if is_error { Outcome::Failed } else { Outcome::Completed },
        writer,
        ready: cleared.into_iter().collect(),
        end: Vec::new(),
        gate: Gate::Open,
        broken: None,
        is_unsent: false,
        is_read: false,
        gives_way: false,
        silence: None,
        progress_at: None,
        progress_tokens: 0,
    };
    relay.take_what_is_there().await;
    Ok(Response::from_parts(parts, relay))
}

impl Relay {
    /// The answer, if all of it is here in one piece; else itself.
    pub fn into_whole(mut self) -> Result<Bytes, Box<Self>> {
        let is_whole = self.is_read && self.is_open() && self.broken.is_none();
        match self.ready.len() {
            0 if is_whole => Ok(Bytes::new()),
            1 if is_whole => Ok(self.ready.pop_front().unwrap_or_default()),
            _ => Err(Box::new(self)),
        }
    }

    /// Whether everything was sent.
    pub fn is_over(&self) -> bool {
        self.is_read && self.ready.is_empty() && self.is_open() && self.broken.is_none()
    }

    /// Whether its client is there, of a call that may have to be read on when that has left.
    pub fn presence(&self) -> Option<&Rc<Presence>> {
        self.permit.as_ref().and_then(Permit::presence)
    }

    /// Whether it is read on if its client leaves now.
    pub fn is_read_on(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_read_on)
    }

    /// Reads on without a client, for what the end says of the usage. Dropped before that, it
    /// settles as it is.
    pub async fn read_on(mut self) {
        poll_fn(|context| {
            if let Some(permit) = &self.permit {
                permit.note_leaving();
            }
            while !self.is_read {
                ready!(self.poll_upstream(context));
                self.ready.clear();
                self.end.clear();
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether nothing waits for the settlement.
    const fn is_open(&self) -> bool {
        matches!(self.gate, Gate::Open)
    }

    /// Takes what came with the head. If that is all, it waits for the settlement here, so that
    /// head and body leave in one write.
    async fn take_what_is_there(&mut self) {
        if self.upstream.is_end_stream() {
            // There is no body: the head is the end.
            self.finish();
        }
        poll_fn(|context| {
            while !self.is_read && self.poll_upstream(context).is_ready() {}
            Poll::Ready(())
        })
        .await;
        if self.is_read {
            poll_fn(|context| self.poll_gate(context)).await;
        }
    }

    /// The next bytes for the client.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.is_unsent = true;
                crash_point!("end-given" if self.permit.is_none() && self.is_open() && self.ready.is_empty());
                return Poll::Ready(Some(Ok(bytes)));
            }
            ready!(self.poll_gate(context));
            if !self.ready.is_empty() {
                continue;
            }
            if self.broken.is_some() && std::mem::take(&mut self.is_unsent) {
                // A cut takes with it what was not sent: let that go first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(broken) = self.broken.take() {
                return Poll::Ready(Some(Err(broken)));
            }
            if self.is_read {
                return Poll::Ready(None);
            }
            if self.poll_upstream(context).is_pending() {
                ready!(self.poll_silence(context));
                self.break_off(Broken::Silent);
            }
        }
    }

    /// Takes one frame of the upstream's, or its end, whatever kind of end it is.
    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.gives_way) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.meter.is_amid() {
            let passage = self.meter.go_on();
            self.give(passage);
            return Poll::Ready(());
        }
        match ready!(Pin::new(&mut self.upstream).poll_frame(context)) {
            Some(Ok(frame)) => self.take(frame),
            Some(Err(fault)) => self.break_off(Broken::Upstream(fault)),
            None => self.finish(),
        }
        self.silence = None;
        Poll::Ready(())
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        let Ok(data) = frame.into_data() else { return };
        crash_point!("piece-taken");
        crash_point!("progress-written" if 0 < self.progress_tokens);
        let passage = self.meter.read(data, self.upstream.is_end_stream());
        self.give(passage);
    }

    /// Gives on what the meter lets pass.
    fn give(&mut self, passage: Result<Passage, Corrupt>) {
        let Ok(Passage { pass, end, is_alive }) = passage else {
            return self.break_off(Broken::Corrupt);
        };
        self.ready.extend(pass);
        self.end.extend(end);
        self.measure();
        self.gives_way = self.meter.is_amid();
        if self.upstream.is_end_stream() && !self.gives_way {
            // A client that counts bytes knows the end with the last of them.
            if self.permit.is_some() && self.end.is_empty() {
                self.end.extend(self.ready.pop_back());
            }
            self.finish();
        } else if self.meter.reading().terminated {
            self.settle();
        } else if is_alive {
            self.secure();
        }
    }

    /// Lets what is held back go on without its terminator, once it is written what it costs.
    fn secure(&mut self) {
        let noted = self.permit.as_ref().and_then(Permit::progress);
        if let Some(position) = noted {
            self.gate = Gate::shut(position, true, &self.writer);
        }
    }

    /// Keeps the permit's knowledge up to date, and the journal's now and then.
    fn measure(&mut self) {
        let Some(permit) = self.permit.as_mut().filter(|permit| !permit.course.is_free) else {
            return;
        };
        let reading = self.meter.reading();
        if let Some(id) = self.meter.kept_id() {
            permit.keeps(id);
        }
        permit.learn(&reading);
        crash_point!("usage-seen" if reading.reported.is_some());
        // What the provider has yet to send changes nothing then: who leaves now has it all.
        let complete = (reading.terminated || reading.finished) && !reading.lacks_input;
        let is_news = complete && !permit.measured.complete && permit.has_left();
        permit.measured.complete = complete;
        if reading.terminated || self.is_read || self.upstream.is_end_stream() {
            return;
        }
        let last = *self.progress_at.get_or_insert_with(clock::tick);
        let due = is_news
            || self.progress_tokens + PROGRESS_TOKENS <= reading.counted_output
            || PROGRESS_EVERY <= clock::since(last);
        if due {
            permit.progress();
            self.progress_at = Some(clock::tick());
            self.progress_tokens = reading.counted_output;
        }
    }

    /// The upstream's answer is complete.
    fn finish(&mut self) {
        self.is_read = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        let Ok(rest) = self.meter.finish() else { return self.break_off(Broken::Corrupt) };
        self.end.extend(rest.into_iter().filter(|piece| !piece.is_empty()));
        self.measure();
        if let Some(permit) = &mut self.permit {
            // A stream may also end because the provider failed in its midst, and says so.
            permit.measured.complete |=
                self.meter.is_whole_document() && !self.meter.reading().lacks_input;
        }
        self.settle();
    }

    /// The upstream's answer will never be complete. What came of it is charged.
    fn break_off(&mut self, broken: Broken) {
        self.is_read = true;
        self.broken = Some(broken);
        self.source.broke_off();
        self.lease = None;
        // An end that is paid for is the client's, though the connection broke after it.
        if let Some(permit) = self.permit.take() {
            self.end.clear();
            permit.settle(Outcome::Failed);
        }
    }

    fn settle(&mut self) {
        let Some(permit) = self.permit.take() else {
            // Settled already: then the gate that is shut opens for this end, too.
            if self.is_open() {
                self.ready.extend(self.end.drain(..));
            }
            return;
        };
        let is_free = permit.course.is_free;
        let failed = self.meter.reading().failed;
        let position = permit.settle(if failed { Outcome::Failed } else { self.outcome });
        self.gate = Gate::shut(position, !is_free, &self.writer);
    }

    fn poll_gate(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_open() {
            return Poll::Ready(());
        }
        ready!(self.gate.poll(&self.writer, context));
        crash_point!("settle-written");
        self.ready.extend(self.end.drain(..));
        Poll::Ready(())
    }

    /// Resolves when the upstream has been silent for too long.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timeout = self.idle_timeout;
        self.silence
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)))
            .as_mut()
            .poll(context)
    }
}
