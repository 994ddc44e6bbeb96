//! Admission: reserves amounts under all limits and the wallet, all or nothing, in the specified order.
//!
//! Far from a limit, admission is one check under two locks. Near one, the input token cache is
//! queried. Before a call is refused, its prices are restricted to the units it can use, its output
//! bound is lowered, its input is tokenized, and it waits for amounts that open calls hold.

use std::rc::Rc;
use std::sync::Arc;

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::accounting::hold_estimate::Estimate;
use crate::accounting::idempotency::IdempotencyClaim;
use crate::accounting::input_token_cache::{Fingerprint, count_tokens};
use crate::accounting::key_directory::Caller;
use crate::accounting::permit::{AdmissionContext, AdmissionRequest, CallTrace, Permit};
use crate::accounting::reserve::{Blocked, Reservation, ReserveOutcome, try_reserve};
use crate::accounting::wait_slot::WaitSlot;
use crate::clock;
use crate::crash::crash_point;
use crate::dialect::billable_units::possible_units;
use crate::dialect::endpoint::Metering;
use crate::dialect::parse::output_clamp_edit;
use crate::domain::call_pricing::CallPricing;
use crate::domain::counter::Exceeded;
use crate::domain::limit::Level;
use crate::domain::money::Nano;
use crate::domain::settlement::MeasuredUsage;
use crate::domain::wallet::WalletShortfall;
use crate::journal::entry::{CallHeader, Entry, Hold};
use crate::journal::writer::Position;
use crate::lender::{LendRequest, LendResponse, Lender};
use crate::tasks;

/// Why a call is not admitted. Nothing is reserved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionError {
    Limit {
        level: Level,
        exceeded: Exceeded,
    },
    /// The wallet does not cover the maximum cost.
    Wallet {
        shortfall: WalletShortfall,
        /// The amount to be held.
        required: Nano,
    },
    JournalFull,
    /// Too many calls are waiting.
    QueueFull,
    /// The API key became invalid while the call waited.
    Revoked,
}

/// Reserves limits and money for a call and returns its permit.
///
/// After each wait, `recheck_caller` authenticates the caller again; `None` revokes the call.
pub async fn admit(
    context: &Rc<AdmissionContext>,
    caller: &Arc<Caller>,
    mut request: AdmissionRequest,
    recheck_caller: impl Fn() -> Option<Arc<Caller>>,
) -> Result<Permit, AdmissionError> {
    let mut caller = Arc::clone(caller);
    let may_clamp = request.output_unbounded && caller.output_clamp;
    let floor = may_clamp.then_some(context.settings.output_floor);
    let mut estimate = Estimate::new(
        request.bound,
        request.item_units_max,
        &request.pricing,
        request.choices,
        floor,
    );
    let mut fingerprint = None;
    let mut slot: Option<WaitSlot> = None;
    let reservation = loop {
        if !context.writer.has_space() {
            return Err(AdmissionError::JournalFull);
        }
        let blocked = match try_reserve(context, &caller, &request, &estimate, &mut slot) {
            ReserveOutcome::Reserved(reservation) => break reservation,
            ReserveOutcome::NeedsEstimate => {
                fingerprint = check_input_cache(context, &request, &mut estimate);
                continue;
            }
            ReserveOutcome::Blocked(blocked) => blocked,
        };
        if let Blocked { lend_request: Some(lend_request), is_final } = &blocked {
            if context.lender.request(lend_request).await == LendResponse::Granted {
                continue;
            }
            if *is_final {
                return Err((*lend_request).into());
            }
            if !estimate.is_cache_checked() {
                fingerprint = check_input_cache(context, &request, &mut estimate);
            }
            if !estimate.is_priced() {
                restrict_to_body(&request, &mut estimate).await;
                continue;
            }
            if !estimate.is_tokenized() {
                tokenize(
                    &request,
                    fingerprint.and_then(|fingerprint| context.input_cache.get(fingerprint)),
                    &mut estimate,
                )
                .await;
                continue;
            }
        }
        let Some(slot) = &mut slot else { return Err(AdmissionError::QueueFull) };
        if let Some(lend_request) = blocked.lend_request
            && slot.timed_out(&context.settings)
        {
            return Err(lend_request.into());
        }
        slot.wait(&context.settings).await;
        caller = recheck_caller().ok_or(AdmissionError::Revoked)?;
        request.now = clock::wall_now();
        if let Some(tokens) =
            fingerprint.and_then(|fingerprint| context.input_cache.get(fingerprint))
        {
            estimate.set_input_tokens(&request.pricing, tokens);
        }
    };
    Ok(issue_permit(context, caller, request, &reservation, fingerprint))
}

/// What the provider said of the very same body before. Returns what the body is known by, so that
/// more can be learned of it; nothing is known of one whose content is elsewhere, or that several
/// upstreams may count, each in its own way.
fn check_input_cache(
    context: &AdmissionContext,
    request: &AdmissionRequest,
    estimate: &mut Estimate,
) -> Option<Fingerprint> {
    estimate.mark_cache_checked();
    let [target] = &*request.model.targets else { return None };
    if request.has_external_content {
        return None;
    }
    // By its target, too: a reload may have the name mean another model.
    let model = (&*request.model.name, target.upstream, &target.upstream_model);
    let fingerprint = context.input_cache.fingerprint(request.endpoint, model, &request.body);
    if let Some(tokens) = context.input_cache.get(fingerprint) {
        estimate.set_input_tokens(&request.pricing, tokens);
    }
    Some(fingerprint)
}

/// Holds no more than what the body can ask for, and sees whether its output can be bounded.
async fn restrict_to_body(request: &AdmissionRequest, estimate: &mut Estimate) {
    let (endpoint, field, body) =
        (request.endpoint, request.model.output_field, request.body.clone());
    let analyze =
        move || (possible_units(endpoint, &body), output_clamp_edit(endpoint, field, &body, 1));
    let (units, clamp) = tasks::run_offloaded(request.body.len(), analyze).await;
    estimate.restrict_units(&request.pricing, units, clamp.is_some());
}

/// Counts the input by its vocabulary, where it is not known.
async fn tokenize(request: &AdmissionRequest, cached: Option<u64>, estimate: &mut Estimate) {
    let counted = match cached {
        Some(tokens) => Some(tokens),
        None if request.has_external_content => None,
        None => count_tokens(request.endpoint, &request.model, request.body.clone()).await,
    };
    estimate.cap_input_tokens(&request.pricing, counted.unwrap_or(u64::MAX));
}

impl From<LendRequest> for AdmissionError {
    /// What a lender had no answer to is in the way.
    fn from(request: LendRequest) -> Self {
        match request {
            LendRequest::Limit { level, exceeded, .. } => Self::Limit { level, exceeded },
            LendRequest::Money { shortfall: short, amount, .. } => {
                Self::Wallet { shortfall: short, required: amount }
            }
        }
    }
}

/// The permit of a call that was admitted; its hold is in the journal.
fn issue_permit(
    context: &Rc<AdmissionContext>,
    caller: Arc<Caller>,
    mut request: AdmissionRequest,
    reservation: &Reservation,
    fingerprint: Option<Fingerprint>,
) -> Permit {
    let may_drain = (caller.on_disconnect_drain || request.usage_is_hidden)
        && request.endpoint.metering() == Metering::Full;
    let disconnect_tracker =
        may_drain.then(|| Rc::new(DisconnectTracker::new(caller.on_disconnect_drain)));
    let mut permit = Permit {
        id: request.id,
        context: Rc::clone(context),
        caller,
        pricing: CallPricing::new(
            Arc::clone(&request.model.name),
            Arc::clone(request.pricing.first()),
        ),
        windows: reservation.windows,
        bound: reservation.bound,
        held: reservation.held,
        admitted_at: request.now,
        started_at: request.started_at,
        hold_position: Position::default(),
        tightest_limits: reservation.tightest_limits,
        output_clamp: reservation.output_clamp,
        fingerprint,
        claim: request.claim.take(),
        is_open: true,
        disconnect_tracker,
        endpoint: request.endpoint,
        item_units_max: request.item_units_max,
        measured: MeasuredUsage {
            counted_input: request.counted_input,
            requested_tier: request.pricing.requested_tier(),
            ..MeasuredUsage::default()
        },
        trace: CallTrace::default(),
    };
    permit.hold_position = context.writer.append(&Entry::Hold(hold_entry(&permit, &request)));
    crash_point!("hold-appended");
    permit
}

fn hold_entry<'a>(permit: &'a Permit, request: &'a AdmissionRequest) -> Hold<&'a str> {
    let caller = &permit.caller;
    Hold {
        header: CallHeader {
            id: request.id,
            at: request.received_at,
            organization: caller.organization.id,
            project: caller.project.id,
            key: caller.key,
            endpoint: request.endpoint.name(),
            dialect: request.endpoint.dialect().name(),
            model: &request.model.name,
            stream: request.stream,
            address: request.address,
        },
        windows: permit.windows,
        bound: permit.bound,
        amount: permit.held.spend,
        price_version: request.pricing.first().version(),
        idempotency_key: permit.claim.as_ref().map(IdempotencyClaim::key),
    }
}
