//! Forwards the response of an upstream, meters it, and holds its end until the call is settled.

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

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::accounting::permit::Permit;
use crate::clock;
use crate::crash::crash_point;
use crate::dialect::endpoint::{Endpoint, Metering};
use crate::dialect::stream_meter::Metered;
use crate::domain::status::Outcome;
use crate::journal::writer::Writer;
use crate::proxy::headers;
use crate::proxy::refusal::error_spec::Refusal;
use crate::proxy::response::content_encoding::DecodeError;
use crate::proxy::response::decoded_meter::StreamOptions;
use crate::proxy::response::redact_secret::redact_secret;
use crate::proxy::response::response_meter::ResponseMeter;
use crate::proxy::response::settlement_gate::SettlementGate;
use crate::proxy::stages::forward::{UpstreamResponse, release_refused};
use crate::proxy::upstreams::pool::Lease;
use crate::proxy::upstreams::upstream::Upstream;

/// Why a response cannot continue. The client connection is aborted, so that the client does not take
/// a partial response for a complete one.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("upstream connection failed: {0}")]
    Upstream(hyper::Error),
    #[error("upstream sent no data in time")]
    IdleTimeout,
    /// The response must be sent decoded, and cannot be decoded.
    #[error("upstream response does not match its Content-Encoding")]
    Undecodable,
}

/// How often an open stream writes down what it has cost so far.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const PROGRESS_TOKENS: u64 = 1_000;

/// The body of a response between upstream and client.
#[derive(Debug)]
pub struct Relay {
    upstream_body: Incoming,
    source: Arc<Upstream>,
    lease: Option<Lease>,
    meter: ResponseMeter,
    /// `None` after the settlement.
    permit: Option<Permit>,
    /// How the call came out, if the answer comes to its end.
    outcome: Outcome,
    writer: Rc<Writer>,
    outbox: VecDeque<Bytes>,
    /// What may not be sent before the settlement is durable.
    held_tail: Vec<Bytes>,
    gate: SettlementGate,
    error: Option<RelayError>,
    has_unsent_bytes: bool,
    upstream_done: bool,
    /// Whether the other calls of this worker have their turn before it goes on decoding.
    should_yield: bool,
    idle_timeout: Duration,
    idle_timer: Option<Pin<Box<Sleep>>>,
    progress_at: Option<Instant>,
    progress_tokens: u64,
}

/// Turns the response of an upstream into the response for the client.
///
/// Errors of the upstream and token counts are free and forwarded unchanged, except that the secret of
/// the upstream is redacted. All other responses are metered.
pub async fn relay(
    upstream_response: UpstreamResponse,
    endpoint: Endpoint,
    stream: StreamOptions,
) -> Result<Response<Relay>, Refusal> {
    let UpstreamResponse { response, lease, mut permit, upstream } = upstream_response;
    let (settings, dialect) = (&upstream.settings, endpoint.dialect());
    let (mut parts, mut body) = response.into_parts();
    let redacted = match redact_secret(&upstream, &mut parts, &mut body).await {
        Ok(redacted) => redacted.filter(|body| !body.is_empty()),
        Err(refusal) => return Err(release_refused(permit, refusal, dialect).await),
    };
    headers::for_client(&mut parts.headers, settings.forward_limits);
    // Ours is the connection to the client, whatever the upstream's was.
    parts.version = Version::HTTP_11;
    parts.headers.reserve(headers::gateway_headers_max(dialect));
    headers::add_id(&mut parts.headers, permit.id(), dialect);
    headers::add_rate_limits(
        &mut parts.headers,
        permit.tightest_limits(),
        dialect,
        permit.admitted_at(),
    );
    if let Some(tokens) = permit.output_clamp() {
        parts.headers.insert(headers::OUTPUT_CLAMPED, HeaderValue::from(tokens));
    }
    if !permit.client_disconnected() {
        permit.trace.status = parts.status.as_u16();
    }
    let writer = Rc::clone(permit.writer());
    if !writer.is_durable_when_written() {
        writer.wait_durable(permit.hold_position()).await;
    }
    let is_error = !parts.status.is_success();
    if is_error {
        parts.headers.insert(headers::ERROR_SOURCE, HeaderValue::from_static("upstream"));
    }
    permit.trace.is_free = is_error || endpoint.metering() == Metering::Request;
    let meter = if permit.trace.is_free {
        ResponseMeter::OFF
    } else {
        let usage_max = permit.measured.reported;
        ResponseMeter::for_response(&mut parts.headers, endpoint, usage_max, stream)
    };
    let mut relay = Relay {
        upstream_body: body,
        idle_timeout: settings.idle_timeout,
        source: upstream,
        lease: Some(lease),
        meter,
        permit: Some(permit),
        outcome: if is_error { Outcome::Failed } else { Outcome::Completed },
        writer,
        outbox: redacted.into_iter().collect(),
        held_tail: Vec::new(),
        gate: SettlementGate::Open,
        error: None,
        has_unsent_bytes: false,
        upstream_done: false,
        should_yield: false,
        idle_timer: None,
        progress_at: None,
        progress_tokens: 0,
    };
    relay.drain_ready_frames().await;
    Ok(Response::from_parts(parts, relay))
}

impl Relay {
    /// Returns the body if it is complete and in one piece.
    pub fn into_complete(mut self) -> Result<Bytes, Box<Self>> {
        let is_complete = self.upstream_done && self.gate_open() && self.error.is_none();
        match self.outbox.len() {
            0 if is_complete => Ok(Bytes::new()),
            1 if is_complete => Ok(self.outbox.pop_front().unwrap_or_default()),
            _ => Err(Box::new(self)),
        }
    }

    /// True if everything was sent.
    pub fn is_complete(&self) -> bool {
        self.upstream_done && self.outbox.is_empty() && self.gate_open() && self.error.is_none()
    }

    /// `None` for calls that are not drained after a disconnect.
    pub fn disconnect_tracker(&self) -> Option<&Rc<DisconnectTracker>> {
        self.permit.as_ref().and_then(Permit::disconnect_tracker)
    }

    pub fn drains_on_disconnect(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::drains_on_disconnect)
    }

    /// Reads the rest of the response without a client, to complete its usage. Dropping the future
    /// settles what was measured.
    pub async fn drain(mut self) {
        poll_fn(|context| {
            if let Some(permit) = &self.permit {
                permit.record_disconnect();
            }
            while !self.upstream_done {
                ready!(self.poll_upstream(context));
                self.outbox.clear();
                self.held_tail.clear();
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether nothing waits for the settlement.
    const fn gate_open(&self) -> bool {
        matches!(self.gate, SettlementGate::Open)
    }

    /// Takes what came with the head. If that is all, it waits for the settlement here, so that
    /// head and body leave in one write.
    async fn drain_ready_frames(&mut self) {
        if self.upstream_body.is_end_stream() {
            // There is no body: the head is the end.
            self.finish();
        }
        poll_fn(|context| {
            while !self.upstream_done && self.poll_upstream(context).is_ready() {}
            Poll::Ready(())
        })
        .await;
        if self.upstream_done {
            poll_fn(|context| self.poll_gate(context)).await;
        }
    }

    /// Returns the next bytes for the client.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RelayError>>> {
        loop {
            if let Some(bytes) = self.outbox.pop_front() {
                self.has_unsent_bytes = true;
                crash_point!("end-given" if self.permit.is_none() && self.gate_open() && self.outbox.is_empty());
                return Poll::Ready(Some(Ok(bytes)));
            }
            ready!(self.poll_gate(context));
            if !self.outbox.is_empty() {
                continue;
            }
            if self.error.is_some() && std::mem::take(&mut self.has_unsent_bytes) {
                // A cut takes with it what was not sent: let that go first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(error) = self.error.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if self.upstream_done {
                return Poll::Ready(None);
            }
            if self.poll_upstream(context).is_pending() {
                ready!(self.poll_idle_timeout(context));
                self.break_off(RelayError::IdleTimeout);
            }
        }
    }

    /// Takes one frame of the upstream's, or its end, whatever kind of end it is.
    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.should_yield) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.meter.has_pending() {
            let metered = self.meter.resume();
            self.enqueue(metered);
            return Poll::Ready(());
        }
        match ready!(Pin::new(&mut self.upstream_body).poll_frame(context)) {
            Some(Ok(frame)) => self.on_frame(frame),
            Some(Err(fault)) => self.break_off(RelayError::Upstream(fault)),
            None => self.finish(),
        }
        self.idle_timer = None;
        Poll::Ready(())
    }

    fn on_frame(&mut self, frame: Frame<Bytes>) {
        let Ok(data) = frame.into_data() else { return };
        crash_point!("piece-taken");
        crash_point!("progress-written" if 0 < self.progress_tokens);
        let metered = self.meter.read(data, self.upstream_body.is_end_stream());
        self.enqueue(metered);
    }

    /// Gives on what the meter lets pass.
    fn enqueue(&mut self, metered: Result<Metered, DecodeError>) {
        let Ok(Metered { forward, held, flush_held }) = metered else {
            return self.break_off(RelayError::Undecodable);
        };
        self.outbox.extend(forward);
        self.held_tail.extend(held);
        self.update_usage();
        self.should_yield = self.meter.has_pending();
        if self.upstream_body.is_end_stream() && !self.should_yield {
            // A client that counts bytes knows the end with the last of them.
            if self.permit.is_some() && self.held_tail.is_empty() {
                self.held_tail.extend(self.outbox.pop_back());
            }
            self.finish();
        } else if self.meter.reading().terminated {
            self.settle();
        } else if flush_held {
            self.flush_tail_when_durable();
        }
    }

    /// Lets what is held back go on without its terminator, once it is written what it costs.
    fn flush_tail_when_durable(&mut self) {
        let position = self.permit.as_ref().and_then(Permit::record_progress);
        if let Some(position) = position {
            self.gate = SettlementGate::until(position, true, &self.writer);
        }
    }

    /// Keeps the permit's knowledge up to date, and the journal's now and then.
    fn update_usage(&mut self) {
        let Some(permit) = self.permit.as_mut().filter(|permit| !permit.trace.is_free) else {
            return;
        };
        let reading = self.meter.reading();
        if let Some(id) = self.meter.state_id() {
            permit.record_state_id(id);
        }
        permit.record_usage(&reading);
        crash_point!("usage-seen" if reading.reported.is_some());
        // What the provider has yet to send changes nothing then: who leaves now has it all.
        let complete = (reading.terminated || reading.finished) && !reading.input_missing;
        let newly_complete = complete && !permit.measured.complete && permit.client_disconnected();
        permit.measured.complete = complete;
        if reading.terminated || self.upstream_done || self.upstream_body.is_end_stream() {
            return;
        }
        let last = *self.progress_at.get_or_insert_with(clock::monotonic_now);
        let due = newly_complete
            || self.progress_tokens + PROGRESS_TOKENS <= reading.counted_output
            || PROGRESS_INTERVAL <= clock::elapsed_since(last);
        if due {
            permit.record_progress();
            self.progress_at = Some(clock::monotonic_now());
            self.progress_tokens = reading.counted_output;
        }
    }

    /// The upstream's answer is complete.
    fn finish(&mut self) {
        self.upstream_done = true;
        if let Some(lease) = self.lease.take() {
            lease.return_to_pool();
        }
        let Ok(rest) = self.meter.finish() else { return self.break_off(RelayError::Undecodable) };
        self.held_tail.extend(rest.into_iter().filter(|piece| !piece.is_empty()));
        self.update_usage();
        if let Some(permit) = &mut self.permit {
            // A stream may also end because the provider failed in its midst, and says so.
            permit.measured.complete |=
                self.meter.is_complete_document() && !self.meter.reading().input_missing;
        }
        self.settle();
    }

    /// The upstream's answer will never be complete. What came of it is charged.
    fn break_off(&mut self, error: RelayError) {
        self.upstream_done = true;
        self.error = Some(error);
        self.source.record_interruption();
        self.lease = None;
        // An end that is paid for is the client's, though the connection broke after it.
        if let Some(permit) = self.permit.take() {
            self.held_tail.clear();
            permit.settle(Outcome::Failed);
        }
    }

    fn settle(&mut self) {
        let Some(permit) = self.permit.take() else {
            // Settled already: then the gate that is shut opens for this end, too.
            if self.gate_open() {
                self.outbox.extend(self.held_tail.drain(..));
            }
            return;
        };
        let is_free = permit.trace.is_free;
        let failed = self.meter.reading().failed;
        let position = permit.settle(if failed { Outcome::Failed } else { self.outcome });
        self.gate = SettlementGate::until(position, !is_free, &self.writer);
    }

    fn poll_gate(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.gate_open() {
            return Poll::Ready(());
        }
        ready!(self.gate.poll(&self.writer, context));
        crash_point!("settle-written");
        self.outbox.extend(self.held_tail.drain(..));
        Poll::Ready(())
    }

    /// Resolves when the upstream has been silent for too long.
    fn poll_idle_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timeout = self.idle_timeout;
        self.idle_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)))
            .as_mut()
            .poll(context)
    }
}
