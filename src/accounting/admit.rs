//! Admission: all limits and the wallet, all or nothing, in the specified order.

use std::rc::Rc;
use std::sync::Arc;

use crate::accounting::books::{OpenHold, Rooms};
use crate::accounting::directory::Caller;
use crate::accounting::permit::{Course, Demand, Desk, Permit};
use crate::domain::counter::{Exceeded, Windows};
use crate::domain::limit::{Amounts, Level};
use crate::domain::money::Nano;
use crate::domain::settlement::Measured;
use crate::domain::wallet::Short;
use crate::journal::entry::{Asked, Entry, Hold};
use crate::journal::writer::Position;
use crate::lender::{Answer, Ask, Lender};

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
        short: Short,
        /// What was to be held.
        required: Nano,
    },
    /// The journal has no room for its entries.
    JournalFull,
}

/// Holds limits and money for a call, or says what is in the way.
pub async fn admit(
    desk: &Rc<Desk>,
    caller: &Arc<Caller>,
    demand: Demand,
) -> Result<Permit, Denial> {
    if !desk.writer.has_room() {
        return Err(Denial::JournalFull);
    }
    let bound = demand.bound;
    let spend = demand.model.prices.ceiling(bound.input_tokens, bound.output_tokens);
    let tokens = i64::try_from(bound.tokens()).unwrap_or(i64::MAX / 4);
    let need = Amounts { requests: 1, tokens, spend };
    let (windows, rooms) = loop {
        match take(caller, &demand, &need) {
            Ok(taken) => break taken,
            Err(ask) => match desk.lender.lend(&ask).await {
                Answer::Granted => {}
                Answer::Exhausted => return Err(ask.into()),
            },
        }
    };
    let mut permit = Permit {
        id: demand.id,
        desk: Rc::clone(desk),
        caller: Arc::clone(caller),
        model: Arc::clone(&demand.model),
        windows,
        bound,
        need,
        at: demand.now,
        arrived: demand.arrived,
        held_at: Position::default(),
        rooms,
        is_open: true,
        measured: Measured { counted_input: demand.counted_input, ..Measured::default() },
        course: Course::default(),
    };
    permit.held_at = desk.writer.append(&Entry::Hold(hold(caller, &demand, &permit)));
    Ok(permit)
}

impl From<Ask> for Denial {
    /// What a lender had no answer to is in the way.
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Limit { exceeded, .. } => Self::Limit { level: Level::Project, exceeded },
            Ask::Money { short, amount, .. } => Self::Wallet { short, required: amount },
        }
    }
}

/// Checks all, then takes all, under the project's lock and then the organization's.
fn take(caller: &Caller, demand: &Demand, need: &Amounts) -> Result<(Windows, Rooms), Ask> {
    let page = &mut *caller.project.lock();
    let windows = page.counters.roll(demand.now);
    let limits = page.quota.limits;
    if page.quota.enforce {
        let project = caller.project.id;
        page.counters.check(&limits, need).map_err(|exceeded| Ask::Limit { project, exceeded })?;
    }
    let mut organization = caller.organization.lock();
    organization.wallet.check(need.spend).map_err(|short| {
        let amount = need.spend;
        Ask::Money { organization: caller.organization.id, amount, short }
    })?;
    organization.wallet.hold(need.spend);
    let hold = OpenHold {
        project: caller.project.id,
        key: caller.key,
        model: Arc::clone(&demand.model.name),
        amount: need.spend,
        tokens: need.tokens,
        since: demand.now,
    };
    organization.open.insert(demand.id, hold);
    page.counters.hold(windows, need);
    Ok((windows, page.rooms()))
}

fn hold<'a>(caller: &Caller, demand: &'a Demand, permit: &Permit) -> Hold<&'a str> {
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
        price_version: &demand.model.price_version,
    }
}
