//! Admission: all limits and the wallet, all or nothing, in the specified order.
//!
//! Far from a limit it is one look under two locks. Near one, what is known of the call is asked
//! for. A call that does not fit is given a smaller output (clamp), is counted more closely
//! (tighten), and waits for what open calls hold (wait), before it is refused.

use std::rc::Rc;
use std::sync::Arc;

use crate::accounting::directory::Caller;
use crate::accounting::input::{Fingerprint, by_vocabulary};
use crate::accounting::look::{Look, Short, Taken, look};
use crate::accounting::need::Need;
use crate::accounting::once::Claim;
use crate::accounting::permit::{Course, Demand, Desk, Permit};
use crate::accounting::presence::Presence;
use crate::accounting::turn::Turn;
use crate::clock;
use crate::crash::crash_point;
use crate::dialect::endpoint::Metering;
use crate::dialect::read::clamp_edit;
use crate::dialect::units::units;
use crate::domain::counter::Exceeded;
use crate::domain::limit::Level;
use crate::domain::money::Nano;
use crate::domain::settlement::Measured;
use crate::domain::tariffs::Tariffs;
use crate::domain::wallet::Short as ShortOfMoney;
use crate::journal::entry::{Asked, Entry, Hold};
use crate::journal::writer::Position;
use crate::lender::{Answer, Ask, Lender};
use crate::tasks;

/// Why a call is not admitted. Nothing was moved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// A limit leaves no room.
    Limit {
        /// Whose limit.
        level: Level,
        /// Which, and by how much.
        exceeded: Exceeded,
    },
    /// The wallet does not cover what it may cost.
    Wallet {
        /// Why.
        short: ShortOfMoney,
        /// What was to be held.
        required: Nano,
    },
    /// The journal has no room for its entries.
    JournalFull,
    /// Too many calls wait already.
    QueueFull,
    /// While it waited, its key ceased to open its project.
    Revoked,
}

/// Holds limits and money for a call, or says what is in the way.
///
/// A call may have to wait; then `still` says who calls, as things are then.
pub async fn admit(
    desk: &Rc<Desk>,
    caller: &Arc<Caller>,
    mut demand: Demand,
    still: impl Fn() -> Option<Arc<Caller>>,
) -> Result<Permit, Denial> {
    let mut caller = Arc::clone(caller);
    let may_clamp = demand.is_unbounded && caller.output_clamp;
    let floor = may_clamp.then_some(desk.admission.output_floor);
    let most = (demand.bound, demand.pieces);
    let mut need = Need::new(most, &demand.costs, demand.choices, floor);
    let mut body = None;
    let mut turn: Option<Turn> = None;
    let taken = loop {
        if !desk.writer.has_room() {
            return Err(Denial::JournalFull);
        }
        let short = match look(desk, &caller, &demand, &need, &mut turn) {
            Look::Taken(taken) => break taken,
            Look::Near => {
                body = look_up(desk, &demand, &mut need);
                continue;
            }
            Look::Short(short) => short,
        };
        if let Short { ask: Some(ask), is_final } = &short {
            if desk.lender.lend(ask).await == Answer::Granted {
                continue;
            }
            if *is_final {
                return Err((*ask).into());
            }
            if !need.is_looked_up() {
                body = look_up(desk, &demand, &mut need);
            }
            if !need.is_priced() {
                price(&demand, &mut need).await;
                continue;
            }
            if !need.is_tight() {
                count(&demand, body.and_then(|body| desk.inputs.known(body)), &mut need).await;
                continue;
            }
        }
        let Some(turn) = &mut turn else { return Err(Denial::QueueFull) };
        if let Some(ask) = short.ask
            && turn.is_spent(&desk.admission)
        {
            return Err(ask.into());
        }
        turn.sleep(&desk.admission).await;
        caller = still().ok_or(Denial::Revoked)?;
        demand.now = clock::now();
        if let Some(known) = body.and_then(|body| desk.inputs.known(body)) {
            need.knows(&demand.costs, known);
        }
    };
    Ok(permit(desk, caller, demand, (taken, body)))
}

/// What the provider said of the very same body before. Returns what the body is known by, so that
/// more can be learned of it; nothing is known of one whose content is elsewhere, or that several
/// upstreams may count, each in its own way.
fn look_up(desk: &Desk, demand: &Demand, need: &mut Need) -> Option<Fingerprint> {
    need.looked_up();
    let [target] = &*demand.model.targets else { return None };
    if demand.refers {
        return None;
    }
    // By its target, too: a reload may have the name mean another model.
    let model = (&*demand.model.name, target.upstream, &target.upstream_model);
    let body = desk.inputs.fingerprint(demand.endpoint, model, &demand.body);
    if let Some(known) = desk.inputs.known(body) {
        need.knows(&demand.costs, known);
    }
    Some(body)
}

/// Holds no more than what the body can ask for, and sees whether its output can be bounded.
async fn price(demand: &Demand, need: &mut Need) {
    let (endpoint, field, body) = (demand.endpoint, demand.model.output_field, demand.body.clone());
    let look = move || (units(endpoint, &body), clamp_edit(endpoint, field, &body, 1));
    let (units, bound) = tasks::aside(demand.body.len(), look).await;
    need.price(&demand.costs, units, bound.is_some());
}

/// Counts the input by its vocabulary, where it is not known.
async fn count(demand: &Demand, known: Option<u64>, need: &mut Need) {
    let counted = match known {
        Some(known) => Some(known),
        None if demand.refers => None,
        None => by_vocabulary(demand.endpoint, &demand.model, demand.body.clone()).await,
    };
    need.tighten(&demand.costs, counted.unwrap_or(u64::MAX));
}

impl From<Ask> for Denial {
    /// What a lender had no answer to is in the way.
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Limit { level, exceeded, .. } => Self::Limit { level, exceeded },
            Ask::Money { short, amount, .. } => Self::Wallet { short, required: amount },
        }
    }
}

/// The permit of a call that was admitted; its hold is in the journal.
fn permit(
    desk: &Rc<Desk>,
    caller: Arc<Caller>,
    mut demand: Demand,
    (taken, body): (Taken, Option<Fingerprint>),
) -> Permit {
    let is_read_on = (caller.on_disconnect_drain || demand.hides_usage)
        && demand.endpoint.metering() == Metering::Full;
    let presence = is_read_on.then(|| Rc::new(Presence::new(caller.on_disconnect_drain)));
    let mut permit = Permit {
        id: demand.id,
        desk: Rc::clone(desk),
        caller,
        tariffs: Tariffs::of(Arc::clone(&demand.model.name), Arc::clone(demand.costs.first())),
        windows: taken.windows,
        bound: taken.bound,
        need: taken.need,
        at: demand.now,
        arrived: demand.arrived,
        held_at: Position::default(),
        rooms: taken.rooms,
        clamped: taken.clamped,
        body,
        claim: demand.claim.take(),
        is_open: true,
        presence,
        endpoint: demand.endpoint,
        pieces: demand.pieces,
        measured: Measured {
            counted_input: demand.counted_input,
            asked_tier: demand.costs.asked(),
            ..Measured::default()
        },
        course: Course::default(),
    };
    permit.held_at = desk.writer.append(&Entry::Hold(hold(&permit, &demand)));
    crash_point!("hold-appended");
    permit
}

fn hold<'a>(permit: &'a Permit, demand: &'a Demand) -> Hold<&'a str> {
    let caller = &permit.caller;
    Hold {
        asked: Asked {
            id: demand.id,
            at: demand.at,
            organization: caller.organization.id,
            project: caller.project.id,
            key: caller.key,
            endpoint: demand.endpoint.name(),
            dialect: demand.endpoint.dialect().name(),
            model: &demand.model.name,
            stream: demand.stream,
            address: demand.address,
        },
        windows: permit.windows,
        bound: permit.bound,
        amount: permit.need.spend,
        price_version: demand.costs.first().version(),
        once: permit.claim.as_ref().map(Claim::once),
    }
}
