//! The permit: what admission gives and settlement ends. Every hold has one, and ends with it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use metrics::counter;

use crate::accounting::books::Rooms;
use crate::accounting::directory::Caller;
use crate::accounting::input::{Fingerprint, Inputs};
use crate::accounting::once::Claim;
use crate::accounting::presence::Presence;
use crate::clock;
use crate::counters::memory::Whole;
use crate::crash::crash_point;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::meter::Reading;
use crate::domain::catalog::Model;
use crate::domain::counter::Windows;
use crate::domain::ids::RequestLogId;
use crate::domain::limit::Amounts;
use crate::domain::once::Done;
use crate::domain::pieces::Pieces;
use crate::domain::settlement::{Bound, Charge, Measured, SettledBy};
use crate::domain::tariff::Costs;
use crate::domain::tariffs::Tariffs;
use crate::domain::time::UnixMs;
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::{Ended, Entry, Outcome, Progress, Whose};
use crate::journal::writer::{Position, Writer};
use crate::settings::admission::AdmissionSettings;
use crate::store::provider_states::key;
use crate::telemetry::metric;

/// Where a worker's calls are admitted and settled: its journal and its lender.
#[derive(Debug)]
pub struct Desk {
    /// The worker's chain.
    pub writer: Rc<Writer>,
    /// Who lends what the books do not cover.
    pub lender: Whole,
    /// How calls are admitted near a limit.
    pub admission: AdmissionSettings,
    /// What is known of bodies that were counted.
    pub inputs: Arc<Inputs>,
}

/// What happened to a call on its way, for its record.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// Whether its request was given to an upstream.
    pub forwarded: bool,
    /// Whether it ends without a charge: its answer is an error, or only counts.
    pub is_free: bool,
    /// How many upstreams were tried.
    pub attempts: u16,
    /// The one that was tried last.
    pub upstream: Option<Arc<str>>,
    /// The model's name there.
    pub upstream_model: Option<Arc<str>>,
    /// The status that the client sees; 0 while it sees none.
    pub status: u16,
    /// The code of the gateway's own error.
    pub refusal: &'static str,
    /// From arrival to being forwarded.
    pub admitted_us: u32,
    /// From arrival to the first byte of the answer.
    pub first_byte_us: Option<u32>,
    /// The id of what the upstream keeps for the project.
    pub kept_id: Option<Box<str>>,
}

/// An admitted call's hold on limits and wallet.
///
/// Ends by [`settle`](Self::settle) or [`release`](Self::release); dropped, it is settled by what
/// was counted, as when the client leaves or the call panics.
#[derive(Debug)]
#[must_use = "a permit ends by being settled or released"]
pub struct Permit {
    pub(crate) id: RequestLogId,
    pub(crate) desk: Rc<Desk>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) tariffs: Tariffs,
    pub(crate) windows: Windows,
    pub(crate) endpoint: Endpoint,
    pub(crate) bound: Bound,
    pub(crate) pieces: Pieces,
    pub(crate) need: Amounts,
    pub(crate) at: UnixMs,
    pub(crate) arrived: Instant,
    pub(crate) held_at: Position,
    pub(crate) rooms: Rooms,
    pub(crate) clamped: Option<u64>,
    pub(crate) body: Option<Fingerprint>,
    /// Its key, if it is to be done once; free again where the call ends without a charge.
    pub(crate) claim: Option<Claim>,
    pub(crate) is_open: bool,
    pub(crate) presence: Option<Rc<Presence>>,
    /// What is known of its usage; kept up to date while the answer passes.
    pub measured: Measured,
    /// What happened to it.
    pub course: Course,
}

/// What a call asks admission for.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the call")]
pub struct Demand {
    /// The call.
    pub id: RequestLogId,
    /// When it came, by the wall clock.
    pub at: UnixMs,
    /// When it came, by the monotonic clock.
    pub arrived: Instant,
    /// What time it is now that it is understood: its windows are those of this moment.
    pub now: UnixMs,
    /// What it asks for.
    pub endpoint: Endpoint,
    /// The model.
    pub model: Arc<Model>,
    /// The most it may use of tokens.
    pub bound: Bound,
    /// The most it may use of what is priced by the piece.
    pub pieces: Pieces,
    /// What that may cost.
    pub costs: Costs,
    /// How many answers it asks for at once.
    pub choices: u64,
    /// Whether it has an output of which it names no bound.
    pub is_unbounded: bool,
    /// Its body.
    pub body: Bytes,
    /// Whether its body refers to content that does not stand in it.
    pub refers: bool,
    /// Whether its usage cannot be told from what comes of its answer.
    pub hides_usage: bool,
    /// Input tokens by our own count.
    pub counted_input: u64,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Where it came from.
    pub address: std::net::IpAddr,
    /// Its key, if it is to be done once.
    pub claim: Option<Claim>,
}

impl Permit {
    /// The call.
    pub const fn id(&self) -> RequestLogId {
        self.id
    }

    /// When it was admitted, by the wall clock.
    pub const fn admitted_at(&self) -> UnixMs {
        self.at
    }

    /// The journal position of its hold: not to be forwarded before it is written.
    pub const fn held_at(&self) -> Position {
        self.held_at
    }

    /// The tightest limits on requests and on tokens, this call's own hold included.
    pub const fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// The most output tokens of a choice that it was admitted with, where that is less than it
    /// asked for: the upstream must be told.
    pub const fn output_clamped(&self) -> Option<u64> {
        self.clamped
    }

    /// The worker's chain.
    pub fn writer(&self) -> &Rc<Writer> {
        &self.desk.writer
    }

    /// Microseconds since the call came; at most 71 minutes.
    pub fn elapsed_us(&self) -> u32 {
        u32::try_from(clock::since(self.arrived).as_micros()).unwrap_or(u32::MAX)
    }

    /// Whether its client is there, of a call that is read on when that has left.
    pub const fn presence(&self) -> Option<&Rc<Presence>> {
        self.presence.as_ref()
    }

    /// Whether its client has left, and it is read on.
    pub fn has_left(&self) -> bool {
        self.presence.as_ref().is_some_and(|presence| presence.left().is_some())
    }

    /// Whether it is read on if its client leaves now: it costs something that is not known yet, or
    /// is to be read to its end in any case.
    pub fn is_read_on(&self) -> bool {
        let is_unknown = |presence: &Rc<Presence>| presence.drains() || !self.measured.complete;
        !self.course.is_free && self.presence.as_ref().is_some_and(is_unknown)
    }

    /// Notes what it costs where its request goes now.
    pub fn set_tariffs(&mut self, tariffs: &Tariffs) {
        self.tariffs.clone_from(tariffs);
    }

    /// Notes whether its request was given to an upstream.
    pub fn set_forwarded(&mut self, forwarded: bool) {
        self.course.forwarded = forwarded;
        if let Some(presence) = &self.presence {
            presence.set_forwarded(forwarded);
        }
    }

    /// Once its client has left, writes down what it is charged if this process dies now.
    pub fn note_leaving(&self) {
        if self.presence.as_ref().is_some_and(|presence| presence.is_news()) {
            self.progress();
        }
    }

    /// Notes what the answer says of its usage so far.
    pub fn learn(&mut self, reading: &Reading) {
        let (endpoint, asked) = (self.endpoint, self.pieces.web_searches);
        let billed = |told| endpoint.searches(told, asked);
        let searched =
            |usage: Usage| usage.with(Unit::WebSearches, billed(usage.get(Unit::WebSearches)));
        let web_searches = billed(reading.counted_pieces.web_searches);
        let measured = &mut self.measured;
        measured.reported = reading.reported.map(searched);
        measured.shares.clone_from(&reading.shares);
        measured.service_tier = reading.service_tier;
        measured.counted_output = reading.counted_output;
        measured.pieces = measured.pieces.or(Pieces { web_searches, ..reading.counted_pieces });
    }

    /// Notes the id of what the upstream keeps for the project: once the call is settled, the
    /// project may refer to it there.
    pub fn keeps(&mut self, id: &str) {
        if self.course.kept_id.as_deref() != Some(id) {
            self.course.kept_id = Some(id.into());
        }
    }

    /// Ends the call with a charge for what was measured, unless it is free. Not to be told to the
    /// client before the position is durable.
    pub fn settle(mut self, outcome: Outcome) -> Position {
        self.end_now(outcome)
    }

    /// Ends the call without a charge, and waits until that is written: whoever is told of it then
    /// finds it in the log. It counts as a request if it was forwarded.
    pub async fn release(mut self, outcome: Outcome) {
        let noted = self.release_now(outcome);
        self.desk.writer.written(noted).await;
    }

    /// Writes down what the call has cost so far, for the case that this process dies; where, if
    /// there is room for it.
    pub fn progress(&self) -> Option<Position> {
        if !self.desk.writer.has_room() {
            return None;
        }
        let progress = Progress { id: self.id, charge: self.charge() };
        let position = self.desk.writer.append(&Entry::<&str>::Progress(progress));
        crash_point!("progress-appended");
        Some(position)
    }

    fn charge(&self) -> Charge {
        let charge = if self.has_left() { Charge::of_abandoned } else { Charge::of };
        charge(&self.measured, self.bound, self.need.spend, &self.tariffs)
    }

    fn end_now(&mut self, outcome: Outcome) -> Position {
        if self.course.forwarded && !self.course.is_free {
            self.settle_now(outcome)
        } else {
            self.release_now(outcome)
        }
    }

    fn settle_now(&mut self, outcome: Outcome) -> Position {
        let charge = self.charge();
        let outcome = if self.has_left() { Outcome::Cancelled } else { outcome };
        let input = charge.usage.get(Unit::InputTokens);
        if let (Some(body), SettledBy::Usage, 1..) = (self.body, charge.settled_by, input) {
            self.desk.inputs.learn(body, input);
        }
        self.tell_unpriced(&charge.usage);
        let tokens = i64::try_from(charge.usage.tokens()).unwrap_or(i64::MAX);
        self.give_back(&Amounts { requests: 1, tokens, spend: charge.cost });
        let version = self.tariffs.version(&self.measured.shares);
        let ended = self.ended(&version, charge, true, outcome);
        let position = self.desk.writer.append(&Entry::Settle(ended));
        crash_point!("settle-appended");
        if let Some(claim) = self.claim.take() {
            let Charge { usage, cost, .. } = charge;
            let done = Done { id: self.id, status: self.course.status, usage, cost };
            claim.settled(done, Arc::clone(self.desk.writer.chain()), position);
        }
        position
    }

    /// Says so where something was used that has no price: it was free, and should not be.
    fn tell_unpriced(&self, usage: &Usage) {
        let Measured { shares, service_tier, .. } = &self.measured;
        if let Some(unit) = self.tariffs.lacking(usage, shares, *service_tier) {
            let (unit, prices) = (unit.name(), self.tariffs.version(shares));
            counter!(metric::UNPRICED).increment(1);
            tracing::warn!(call = %self.id, unit, %prices, "used what has no price; add one");
        }
    }

    fn release_now(&mut self, outcome: Outcome) -> Position {
        let counted = self.course.forwarded;
        self.give_back(&Amounts { requests: i64::from(counted), ..Amounts::default() });
        let version = self.tariffs.own().version();
        let ended = self.ended(version, Charge::nothing(), counted, outcome);
        let position = self.desk.writer.append(&Entry::Void(ended));
        crash_point!("void-appended");
        position
    }

    /// Exchanges the hold for what was used, in the windows of the admission.
    fn give_back(&mut self, used: &Amounts) {
        assert!(self.is_open, "a permit ends once");
        self.is_open = false;
        let caller = &self.caller;
        let kept = self.course.kept_id.as_deref().map(key).zip(self.course.upstream.as_ref());
        let project = &mut *caller.project.lock();
        if let Some((key, upstream)) = kept {
            project.states.keep(key, Arc::clone(upstream), self.at);
        }
        let organization = &mut *caller.organization.lock();
        // The money is back before whoever waits for it looks.
        organization.wallet.settle(self.need.spend, used.spend);
        let key = project.keys.account(caller.slot);
        for account in [key, &mut project.account, &mut organization.account] {
            account.settle(self.windows, &self.need, used);
        }
        organization.open.remove(&self.id);
    }

    fn ended<'a>(
        &'a self,
        price_version: &'a str,
        charge: Charge,
        counted: bool,
        outcome: Outcome,
    ) -> Ended<&'a str> {
        let course = &self.course;
        Ended {
            id: self.id,
            whose: Whose {
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
            status: course.status,
            refusal: course.refusal,
            upstream: course.upstream.as_deref().unwrap_or_default(),
            upstream_model: course.upstream_model.as_deref().unwrap_or_default(),
            output_clamped: self.clamped.is_some(),
            attempts: course.attempts,
            admitted_us: course.admitted_us,
            first_byte_us: course.first_byte_us,
            duration_us: self.elapsed_us(),
            kept_id: course.kept_id.as_deref(),
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
