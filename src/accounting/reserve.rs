//! Checks all limits and the wallet under both locks and reserves everything a call needs, or nothing.

use std::sync::Arc;

use crate::accounting::hold_estimate::Estimate;
use crate::accounting::key_directory::Caller;
use crate::accounting::limit_state::LimitState;
use crate::accounting::live_state::{OpenHold, OrganizationState, ProjectState, TightestLimits};
use crate::accounting::permit::{AdmissionContext, AdmissionRequest};
use crate::accounting::wait_queue::WaitQueue;
use crate::accounting::wait_slot::WaitSlot;
use crate::clock;
use crate::domain::counter::{Exceeded, Windows};
use crate::domain::limit::{Amounts, Level, Measure};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::wallet;
use crate::lender::LendRequest;

/// The result of `try_reserve`.
pub enum ReserveOutcome {
    /// Everything was reserved.
    Reserved(Reservation),
    /// The call fits, but is near a limit: its estimate should be refined first. Nothing was reserved.
    NeedsEstimate,
    /// Nothing was reserved.
    Blocked(Blocked),
}

/// Why a call could not reserve its amounts.
pub struct Blocked {
    /// What is missing; `None` if only other waiting calls are ahead.
    pub lend_request: Option<LendRequest>,
    /// True if the call would not fit even if all holds were returned.
    pub is_final: bool,
}

pub struct Reservation {
    /// The windows in which the call is counted.
    pub windows: Windows,
    /// The maximum usage of the call.
    pub bound: Bound,
    /// The reserved amounts.
    pub held: Amounts,
    /// Maximum output tokens per choice, if lowered.
    pub output_clamp: Option<u64>,
    /// The tightest limits after the reservation.
    pub tightest_limits: TightestLimits,
}

/// A call is near a limit if less than this many times its amounts is left.
const NEAR_LIMIT_FACTOR: i64 = 1_000;

/// The state of project and organization, both locked.
struct LockedState<'a> {
    caller: &'a Caller,
    project: &'a mut ProjectState,
    organization: &'a mut OrganizationState,
    windows: Windows,
}

/// Checks and reserves under the locks of the project and then the organization. A call that may wait
/// enters the queue of the first level in its way, under the same locks.
pub fn try_reserve(
    context: &AdmissionContext,
    caller: &Caller,
    request: &AdmissionRequest,
    estimate: &Estimate,
    slot: &mut Option<WaitSlot>,
) -> ReserveOutcome {
    let mut project = caller.project.lock();
    let mut organization = caller.organization.lock();
    let windows = caller.advance_windows(&mut project, &mut organization, request.now);
    let (project, organization) = (&mut *project, &mut *organization);
    let mut state = LockedState { caller, project, organization, windows };
    let all = estimate.amounts(estimate.bound());
    let checked = state.check(&all);
    let blocked_by = state.blocked_by_queue(&all, slot.as_ref());
    if checked.is_ok() && blocked_by.is_none() {
        if !estimate.is_cache_checked() && state.is_near(&all) {
            return ReserveOutcome::NeedsEstimate;
        }
        let grant = Grant { bound: estimate.bound(), output_clamp: None };
        return ReserveOutcome::Reserved(state.commit(request, estimate, grant, slot));
    }
    let (mut level, mut lend_request) = match checked {
        Ok(()) => (blocked_by.unwrap_or(Level::Project), None),
        Err((level, lend_request)) => {
            // Refuse now if the call could not fit even with every hold returned: tokenizing its input
            // would be wasted work.
            let (minimum, reported) = if estimate.is_tokenized() {
                (estimate.amounts(estimate.minimum()), estimate.amounts(estimate.minimum()))
            } else {
                (estimate.lower_bound(&request.pricing), all)
            };
            if let Err(missing) = state.check_ignoring_holds(&minimum) {
                return ReserveOutcome::Blocked(Blocked {
                    lend_request: Some(with_amounts(missing, &reported)),
                    is_final: true,
                });
            }
            if !estimate.is_priced() {
                return ReserveOutcome::Blocked(Blocked {
                    lend_request: Some(lend_request),
                    is_final: false,
                });
            }
            (level, Some(lend_request))
        }
    };
    if lend_request.is_some() {
        // Of a call whose output may not be bounded, the least is all.
        match (state.check(&estimate.amounts(estimate.minimum())), blocked_by) {
            (Ok(()), None) => {
                let bound = state.fair_share(estimate, slot.as_ref());
                let output_clamp = Some(estimate.output_per_choice(bound));
                let grant = Grant { bound, output_clamp };
                return ReserveOutcome::Reserved(state.commit(request, estimate, grant, slot));
            }
            (Ok(()), Some(queue_level)) => (level, lend_request) = (queue_level, None),
            (Err((first_level, missing)), _) => {
                (level, lend_request) = (first_level, Some(missing));
            }
        }
    }
    if lend_request.is_some() && !estimate.is_tokenized() {
        return ReserveOutcome::Blocked(Blocked { lend_request, is_final: false });
    }
    let waiting_slot = slot.get_or_insert_with(|| WaitSlot::new(caller, &context.settings));
    if !waiting_slot.enqueue(level, state.project, state.organization, context.settings.waiting_max)
    {
        *slot = None;
        return ReserveOutcome::Blocked(Blocked { lend_request: None, is_final: true });
    }
    ReserveOutcome::Blocked(Blocked { lend_request, is_final: false })
}

/// What a call may use.
#[derive(Clone, Copy)]
struct Grant {
    bound: Bound,
    /// Maximum output tokens per choice, if lowered.
    output_clamp: Option<u64>,
}

/// The same request for other amounts.
fn with_amounts(request: LendRequest, amounts: &Amounts) -> LendRequest {
    match request {
        LendRequest::Limit { level, project, exceeded } => {
            let requested = amounts.get(exceeded.limit.measure());
            LendRequest::Limit { level, project, exceeded: Exceeded { requested, ..exceeded } }
        }
        LendRequest::Money { organization, shortfall: short, .. } => {
            LendRequest::Money { organization, shortfall: short, amount: amounts.spend }
        }
    }
}

impl LockedState<'_> {
    /// The first that is in the way, in the order of checks, and where to wait for it.
    fn check(&mut self, amounts: &Amounts) -> Result<(), (Level, LendRequest)> {
        let key_check = self.project.keys.limit_state(self.caller.slot).check(amounts);
        let at = |level| move |request| (level, request);
        self.map_exceeded(Level::Project, self.project.limits.check(amounts))
            .map_err(at(Level::Project))?;
        self.map_exceeded(Level::Key, key_check).map_err(at(Level::Key))?;
        self.map_exceeded(Level::Organization, self.organization.limits.check(amounts))
            .and_then(|()| self.check_wallet(amounts, false))
            .map_err(at(Level::Organization))
    }

    /// The first that would be in the way even if all that is held came back.
    fn check_ignoring_holds(&mut self, amounts: &Amounts) -> Result<(), LendRequest> {
        let key_check =
            self.project.keys.limit_state(self.caller.slot).check_ignoring_holds(amounts);
        self.map_exceeded(Level::Project, self.project.limits.check_ignoring_holds(amounts))?;
        self.map_exceeded(Level::Key, key_check)?;
        self.map_exceeded(
            Level::Organization,
            self.organization.limits.check_ignoring_holds(amounts),
        )?;
        self.check_wallet(amounts, true)
    }

    fn map_exceeded(&self, level: Level, checked: Result<(), Exceeded>) -> Result<(), LendRequest> {
        let project = self.caller.project.id;
        checked.map_err(|exceeded| LendRequest::Limit { level, project, exceeded })
    }

    fn check_wallet(&self, amounts: &Amounts, ignoring_holds: bool) -> Result<(), LendRequest> {
        match self.organization.wallet.check(amounts.spend) {
            Ok(()) => Ok(()),
            Err(wallet::WalletShortfall::OnHold) if ignoring_holds => Ok(()),
            Err(shortfall) => {
                let organization = self.caller.organization.id;
                Err(LendRequest::Money { organization, amount: amounts.spend, shortfall })
            }
        }
    }

    /// Whether what is left of tokens or money is not many times as much.
    fn is_near(&mut self, amounts: &Amounts) -> bool {
        let key = self.project.keys.limit_state(self.caller.slot);
        let near = |state: &LimitState, measure| {
            let left = state.remaining(measure);
            left.is_some_and(|left| left / NEAR_LIMIT_FACTOR < amounts.get(measure))
        };
        let measures = [Measure::Tokens, Measure::Spend];
        self.organization.wallet.available().0 / NEAR_LIMIT_FACTOR < amounts.spend.0
            || [&self.project.limits, key, &self.organization.limits]
                .into_iter()
                .any(|state| measures.into_iter().any(|measure| near(state, measure)))
    }

    /// The lines of all that applies to this call.
    fn queues(&mut self) -> [(Level, &mut WaitQueue); 3] {
        let key = &mut self.project.keys.limit_state(self.caller.slot).queue;
        [
            (Level::Project, &mut self.project.limits.queue),
            (Level::Key, key),
            (Level::Organization, &mut self.organization.limits.queue),
        ]
    }

    /// The line in which somebody is ahead who waits for the same, if anybody is. What costs
    /// nothing waits for nobody.
    fn blocked_by_queue(&mut self, amounts: &Amounts, slot: Option<&WaitSlot>) -> Option<Level> {
        let queues = self.queues();
        if amounts.tokens == 0 && amounts.spend.0 == 0
            || queues.iter().all(|(_, queue)| queue.is_empty())
        {
            return None;
        }
        let (ticket, now) = (slot.map(WaitSlot::ticket), clock::monotonic_now());
        queues
            .into_iter()
            .find_map(|(level, queue)| (!queue.may_proceed(ticket, now)).then_some(level))
    }

    /// A fair share of what is left, for this call and each one that waits.
    fn fair_share(&mut self, estimate: &Estimate, slot: Option<&WaitSlot>) -> Bound {
        let per_call = |left: i64, waiting: usize| {
            left / i64::try_from(waiting.saturating_add(1)).unwrap_or(i64::MAX)
        };
        let waiting_level = slot.and_then(WaitSlot::queue_level);
        let [project, key, organization] = self
            .queues()
            .map(|(level, queue)| queue.len() - usize::from(waiting_level == Some(level)));
        let mut smallest_share = |measure| {
            let key_left = self.project.keys.limit_state(self.caller.slot).remaining(measure);
            let shares = [
                self.project.limits.remaining(measure).map(|left| per_call(left, project)),
                key_left.map(|left| per_call(left, key)),
                self.organization
                    .limits
                    .remaining(measure)
                    .map(|left| per_call(left, organization)),
            ];
            shares.into_iter().flatten().min()
        };
        let (tokens, spend) = (smallest_share(Measure::Tokens), smallest_share(Measure::Spend));
        let mut money = per_call(self.organization.wallet.available().0, organization);
        money = spend.map_or(money, |spend| spend.min(money));
        estimate.fit_within(tokens, Nano(money))
    }

    /// Takes all of it; whoever waits behind this call may look now.
    fn commit(
        &mut self,
        request: &AdmissionRequest,
        estimate: &Estimate,
        grant: Grant,
        slot: &mut Option<WaitSlot>,
    ) -> Reservation {
        let Grant { bound, output_clamp } = grant;
        let (windows, held) = (self.windows, estimate.amounts(bound));
        self.organization.wallet.hold(held.spend);
        let open_hold = OpenHold {
            project: self.caller.project.id,
            key: self.caller.key,
            model: Arc::clone(&request.model.name),
            amount: held.spend,
            tokens: held.tokens,
            since: request.now,
        };
        self.organization.open_holds.insert(request.id, open_hold);
        self.project.limits.hold(windows, &held);
        self.project.keys.limit_state(self.caller.slot).hold(windows, &held);
        self.organization.limits.hold(windows, &held);
        if let Some(slot) = slot {
            slot.leave(self.project, self.organization);
        }
        let tightest_limits = self.caller.tightest_of(self.project, self.organization);
        Reservation { windows, bound, held, output_clamp, tightest_limits }
    }
}
