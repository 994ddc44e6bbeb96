//! The permit of an admitted call: owns its hold and ends with the settlement or release of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use metrics::counter;

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::accounting::idempotency::IdempotencyClaim;
use crate::accounting::input_token_cache::{Fingerprint, InputTokenCache};
use crate::accounting::key_directory::Caller;
use crate::accounting::live_state::TightestLimits;
use crate::clock;
use crate::counters::memory::LocalLender;
use crate::crash::crash_point;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::stream_meter::UsageReading;
use crate::domain::call_pricing::CallPricing;
use crate::domain::catalog::Model;
use crate::domain::counter::Windows;
use crate::domain::idempotency::CompletedCall;
use crate::domain::ids::RequestLogId;
use crate::domain::limit::Amounts;
use crate::domain::settlement::{Bound, Charge, MeasuredUsage, SettledBy};
use crate::domain::status::Outcome;
use crate::domain::tariff::HoldPricing;
use crate::domain::time::UnixMs;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::{CallOwner, CallResult, Entry, Progress};
use crate::journal::writer::{Position, Writer};
use crate::settings::admission::AdmissionSettings;
use crate::store::provider_states::state_key;
use crate::telemetry::metric;

/// What a worker needs to admit and settle calls.
#[derive(Debug)]
pub struct AdmissionContext {
    pub writer: Rc<Writer>,
    /// Lends amounts that the live state does not cover.
    pub lender: LocalLender,
    pub settings: AdmissionSettings,
    pub input_cache: Arc<InputTokenCache>,
}

/// What happened to a call, for its log entry.
#[derive(Debug, Clone, Default)]
pub struct CallTrace {
    /// Whether the request was sent to an upstream.
    pub forwarded: bool,
    /// Whether the call ends without a charge: its response is an error or only counts tokens.
    pub is_free: bool,
    pub attempts: u16,
    /// The upstream of the last attempt.
    pub upstream: Option<Arc<str>>,
    /// The name of the model at that upstream.
    pub upstream_model: Option<Arc<str>>,
    /// The status sent to the client; 0 if none was sent.
    pub status: u16,
    /// The error code, if the gateway itself returned an error.
    pub refusal: &'static str,
    /// From arrival until the request was sent.
    pub admitted_us: u32,
    /// From arrival until the response head.
    pub first_byte_us: Option<u32>,
    /// The id of an object that the upstream stores for the project.
    pub state_id: Option<Box<str>>,
}

/// An admitted call and its hold on limits and wallet.
///
/// Ends with [`settle`](Self::settle) or [`release`](Self::release). Dropping a permit, because the
/// client disconnected or the call panicked, settles the usage measured so far.
#[derive(Debug)]
#[must_use = "a permit ends by being settled or released"]
pub struct Permit {
    pub(crate) id: RequestLogId,
    pub(crate) context: Rc<AdmissionContext>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) pricing: CallPricing,
    pub(crate) windows: Windows,
    pub(crate) endpoint: Endpoint,
    pub(crate) bound: Bound,
    pub(crate) item_units_max: UnitCounts,
    pub(crate) held: Amounts,
    pub(crate) admitted_at: UnixMs,
    pub(crate) started_at: Instant,
    pub(crate) hold_position: Position,
    pub(crate) tightest_limits: TightestLimits,
    pub(crate) output_clamp: Option<u64>,
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Freed if the call ends without a charge.
    pub(crate) claim: Option<IdempotencyClaim>,
    pub(crate) is_open: bool,
    pub(crate) disconnect_tracker: Option<Rc<DisconnectTracker>>,
    /// Usage measured so far, updated while the response is forwarded.
    pub measured: MeasuredUsage,
    pub trace: CallTrace,
}

/// The parameters of an admission.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the call")]
pub struct AdmissionRequest {
    pub id: RequestLogId,
    /// Arrival by the wall clock.
    pub received_at: UnixMs,
    /// Arrival by the monotonic clock.
    pub started_at: Instant,
    /// The time after the request was parsed. Determines the windows of the call.
    pub now: UnixMs,
    pub endpoint: Endpoint,
    pub model: Arc<Model>,
    /// Maximum tokens.
    pub bound: Bound,
    /// Maximum of units that are priced per item.
    pub item_units_max: UnitCounts,
    /// All prices that can apply to the call.
    pub pricing: HoldPricing,
    /// Number of responses requested in one call.
    pub choices: u64,
    /// Whether the call produces output and sets no bound for it.
    pub output_unbounded: bool,
    pub body: Bytes,
    /// Whether the body refers to content outside of itself.
    pub has_external_content: bool,
    /// Whether the usage cannot be derived from a partial response.
    pub usage_is_hidden: bool,
    /// Input tokens by the gateway's own count.
    pub counted_input: u64,
    /// Whether the client requested a stream.
    pub stream: bool,
    /// Client address.
    pub address: std::net::IpAddr,
    pub claim: Option<IdempotencyClaim>,
}

impl Permit {
    pub const fn id(&self) -> RequestLogId {
        self.id
    }

    /// Admission by the wall clock.
    pub const fn admitted_at(&self) -> UnixMs {
        self.admitted_at
    }

    /// The journal position of the hold. The call must not be forwarded before it is written.
    pub const fn hold_position(&self) -> Position {
        self.hold_position
    }

    /// The tightest limits, including the hold of this call.
    pub const fn tightest_limits(&self) -> &TightestLimits {
        &self.tightest_limits
    }

    /// Maximum output tokens per choice, if admission lowered it. The request must be changed
    /// accordingly.
    pub const fn output_clamp(&self) -> Option<u64> {
        self.output_clamp
    }

    pub fn writer(&self) -> &Rc<Writer> {
        &self.context.writer
    }

    /// Microseconds since arrival, saturating after 71 minutes.
    pub fn elapsed_us(&self) -> u32 {
        u32::try_from(clock::elapsed_since(self.started_at).as_micros()).unwrap_or(u32::MAX)
    }

    /// `None` for calls that are not drained after a disconnect.
    pub const fn disconnect_tracker(&self) -> Option<&Rc<DisconnectTracker>> {
        self.disconnect_tracker.as_ref()
    }

    /// True if the client has disconnected and the call continues.
    pub fn client_disconnected(&self) -> bool {
        self.disconnect_tracker.as_ref().is_some_and(|tracker| tracker.disconnected_at().is_some())
    }

    /// True if the call must continue when its client disconnects now: its usage is incomplete, or it
    /// is drained in any case.
    pub fn drains_on_disconnect(&self) -> bool {
        let is_unknown =
            |tracker: &Rc<DisconnectTracker>| tracker.drain_always() || !self.measured.complete;
        !self.trace.is_free && self.disconnect_tracker.as_ref().is_some_and(is_unknown)
    }

    /// Sets the prices of the target that is called next.
    pub fn set_pricing(&mut self, pricing: &CallPricing) {
        self.pricing.clone_from(pricing);
    }

    pub fn set_forwarded(&mut self, forwarded: bool) {
        self.trace.forwarded = forwarded;
        if let Some(tracker) = &self.disconnect_tracker {
            tracker.set_forwarded(forwarded);
        }
    }

    /// After a disconnect, writes one progress entry, so that the call is charged if the process dies.
    pub fn record_disconnect(&self) {
        if self.disconnect_tracker.as_ref().is_some_and(|tracker| tracker.take_unreported()) {
            self.record_progress();
        }
    }

    /// Records the usage read from the response so far.
    pub fn record_usage(&mut self, reading: &UsageReading) {
        let (endpoint, requested) = (self.endpoint, self.item_units_max.get(Unit::WebSearches));
        let billed = |reported| endpoint.billed_searches(reported, requested);
        let with_billed_searches =
            |usage: Usage| usage.with(Unit::WebSearches, billed(usage.get(Unit::WebSearches)));
        let web_searches = billed(reading.counted_item_units.get(Unit::WebSearches));
        let measured = &mut self.measured;
        measured.reported = reading.reported.map(with_billed_searches);
        measured.shares.clone_from(&reading.shares);
        measured.service_tier = reading.service_tier;
        measured.counted_output = reading.counted_output;
        let counted = reading.counted_item_units.with(Unit::WebSearches, web_searches);
        measured.unit_counts = measured.unit_counts.max(counted);
    }

    /// Records the id of an object that the upstream stores. After settlement the project may refer to
    /// it, and such calls are routed to this upstream.
    pub fn record_state_id(&mut self, id: &str) {
        if self.trace.state_id.as_deref() != Some(id) {
            self.trace.state_id = Some(id.into());
        }
    }

    /// Ends the call and charges the measured usage, unless the call is free. The end of the response
    /// must not be sent before the returned position is durable.
    pub fn settle(mut self, outcome: Outcome) -> Position {
        self.end_now(outcome)
    }

    /// Ends the call without a charge and waits until the entry is written, so that the client finds
    /// the call in the log. The call counts as a request if it was forwarded.
    pub async fn release(mut self, outcome: Outcome) {
        let position = self.release_now(outcome);
        self.context.writer.wait_written(position).await;
    }

    /// Writes a progress entry with the charge so far, in case the process dies. Returns its position,
    /// or `None` if the journal is full.
    pub fn record_progress(&self) -> Option<Position> {
        if !self.context.writer.has_space() {
            return None;
        }
        let progress = Progress { id: self.id, charge: self.charge() };
        let position = self.context.writer.append(&Entry::<&str>::Progress(progress));
        crash_point!("progress-appended");
        Some(position)
    }

    fn charge(&self) -> Charge {
        let charge =
            if self.client_disconnected() { Charge::for_disconnected } else { Charge::for_call };
        charge(&self.measured, self.bound, self.held.spend, &self.pricing)
    }

    fn end_now(&mut self, outcome: Outcome) -> Position {
        if self.trace.forwarded && !self.trace.is_free {
            self.settle_now(outcome)
        } else {
            self.release_now(outcome)
        }
    }

    fn settle_now(&mut self, outcome: Outcome) -> Position {
        let charge = self.charge();
        let outcome = if self.client_disconnected() { Outcome::Cancelled } else { outcome };
        let input = charge.usage.get(Unit::InputTokens);
        if let (Some(fingerprint), SettledBy::Usage, 1..) =
            (self.fingerprint, charge.settled_by, input)
        {
            self.context.input_cache.insert(fingerprint, input);
        }
        self.warn_unpriced(&charge.usage);
        let tokens = i64::try_from(charge.usage.tokens()).unwrap_or(i64::MAX);
        self.return_hold(&Amounts { requests: 1, tokens, spend: charge.cost });
        let version = self.pricing.version(&self.measured.shares);
        let ended = self.call_result(&version, charge, true, outcome);
        let position = self.context.writer.append(&Entry::Settled(ended));
        crash_point!("settle-appended");
        if let Some(claim) = self.claim.take() {
            let Charge { usage, cost, .. } = charge;
            let call = CompletedCall { id: self.id, status: self.trace.status, usage, cost };
            claim.complete(call, Arc::clone(self.context.writer.chain()), position);
        }
        position
    }

    /// Logs usage that has no price and is therefore not charged.
    fn warn_unpriced(&self, usage: &Usage) {
        let MeasuredUsage { shares, service_tier, .. } = &self.measured;
        if let Some(unit) = self.pricing.first_unpriced(usage, shares, *service_tier) {
            let (unit, prices) = (unit.name(), self.pricing.version(shares));
            counter!(metric::UNPRICED).increment(1);
            tracing::warn!(call = %self.id, unit, %prices, "usage without a price was not charged; add a price");
        }
    }

    fn release_now(&mut self, outcome: Outcome) -> Position {
        let counted = self.trace.forwarded;
        self.return_hold(&Amounts { requests: i64::from(counted), ..Amounts::default() });
        let version = self.pricing.primary().version();
        let ended = self.call_result(version, Charge::not_charged(), counted, outcome);
        let position = self.context.writer.append(&Entry::Voided(ended));
        crash_point!("void-appended");
        position
    }

    /// Exchanges the hold for what was used, in the windows of the admission.
    fn return_hold(&mut self, used: &Amounts) {
        assert!(self.is_open, "a permit ends one time");
        self.is_open = false;
        let caller = &self.caller;
        let state = self.trace.state_id.as_deref().map(state_key).zip(self.trace.upstream.as_ref());
        let project = &mut *caller.project.lock();
        if let Some((key, upstream)) = state {
            project.provider_states.insert(key, Arc::clone(upstream), self.admitted_at);
        }
        let organization = &mut *caller.organization.lock();
        // The money is back before whoever waits for it looks.
        organization.wallet.settle(self.held.spend, used.spend);
        let key = project.keys.limit_state(caller.slot);
        for limits in [key, &mut project.limits, &mut organization.limits] {
            limits.settle(self.windows, &self.held, used);
        }
        organization.open_holds.remove(&self.id);
    }

    fn call_result<'a>(
        &'a self,
        price_version: &'a str,
        charge: Charge,
        counted: bool,
        outcome: Outcome,
    ) -> CallResult<&'a str> {
        let trace = &self.trace;
        CallResult {
            id: self.id,
            owner: CallOwner {
                organization: self.caller.organization.id,
                project: self.caller.project.id,
                key: self.caller.key,
                windows: self.windows,
            },
            charge,
            price_version,
            service_tier: self.measured.service_tier.name(),
            counted,
            outcome,
            status: trace.status,
            refusal: trace.refusal,
            upstream: trace.upstream.as_deref().unwrap_or_default(),
            upstream_model: trace.upstream_model.as_deref().unwrap_or_default(),
            output_clamped: self.output_clamp.is_some(),
            attempts: trace.attempts,
            admitted_us: trace.admitted_us,
            first_byte_us: trace.first_byte_us,
            duration_us: self.elapsed_us(),
            state_id: trace.state_id.as_deref(),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_open {
            self.end_now(Outcome::Cancelled);
        }
    }
}
