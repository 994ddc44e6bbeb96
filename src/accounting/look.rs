//! One look at all limits and the wallet: takes everything that a call needs, or nothing.

use std::sync::Arc;

use crate::accounting::books::{OpenHold, OrganizationPage, ProjectPage, Rooms};
use crate::accounting::directory::Caller;
use crate::accounting::need::Need;
use crate::accounting::permit::{Demand, Desk};
use crate::accounting::turn::{Place, Turn};
use crate::clock;
use crate::domain::counter::{Exceeded, Windows};
use crate::domain::limit::{Amounts, Level, Measure};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::wallet;
use crate::lender::Ask;

/// How a look came out.
pub enum Look {
    /// Everything was taken.
    Taken(Taken),
    /// Something is in the way. Nothing was taken.
    Short(Short),
}

/// What is in the way.
pub struct Short {
    /// What is missing; `None` when only others are ahead.
    pub ask: Option<Ask>,
    /// Whether waiting would not help: it would be missing even if open calls gave back all.
    pub is_final: bool,
}

/// What was taken.
pub struct Taken {
    /// The windows it is counted in.
    pub windows: Windows,
    /// The most the call may use.
    pub bound: Bound,
    /// What that is of every measure.
    pub need: Amounts,
    /// The most output tokens of a choice, where that is less than the call asked for.
    pub clamped: Option<u64>,
    /// What is left.
    pub rooms: Rooms,
}

/// Both pages, under their locks.
struct Pages<'a> {
    caller: &'a Caller,
    project: &'a mut ProjectPage,
    organization: &'a mut OrganizationPage,
    windows: Windows,
}

/// Looks under the project's lock and then the organization's. A call that may wait takes its
/// place in the queue of whatever is in the way first, under the same locks.
pub fn look(
    desk: &Desk,
    caller: &Caller,
    demand: &Demand,
    need: &Need,
    turn: &mut Option<Turn>,
) -> Look {
    let mut project = caller.project.lock();
    let mut organization = caller.organization.lock();
    let windows = caller.roll(&mut project, &mut organization, demand.now);
    let (project, organization) = (&mut *project, &mut *organization);
    let mut pages = Pages { caller, project, organization, windows };
    let all = need.amounts(need.bound());
    let way = pages.check(&all);
    let passes = pages.may_pass(&all, turn.as_ref());
    if way.is_ok() && passes {
        return Look::Taken(pages.take(demand, need, (need.bound(), None), turn));
    }
    let (mut place, mut ask) = match way {
        Ok(()) => (pages.whose_turn(turn.as_ref()), None),
        Err((place, ask)) => {
            // Whether anything could help is known before the input is counted, if nothing can.
            let (least, shown) = if need.is_tight() {
                (need.least(), need.least())
            } else {
                (need.lowest(), need.bound())
            };
            if let Err(ask) = pages.check_at_rest(&need.amounts(least)) {
                let ask = with_amounts(ask, &need.amounts(shown));
                return Look::Short(Short { ask: Some(ask), is_final: true });
            }
            if !need.is_tight() {
                return Look::Short(Short { ask: Some(ask), is_final: false });
            }
            (place, Some(ask))
        }
    };
    if need.is_clampable() && ask.is_some() {
        match pages.check(&need.amounts(need.least())) {
            Ok(()) if passes => {
                let bound = pages.share(need, turn.as_ref());
                let clamped = Some(need.of_each(bound));
                return Look::Taken(pages.take(demand, need, (bound, clamped), turn));
            }
            Ok(()) => (place, ask) = (pages.whose_turn(turn.as_ref()), None),
            Err((first, in_the_way)) => (place, ask) = (first, Some(in_the_way)),
        }
    }
    let waiting = turn.get_or_insert_with(|| Turn::new(caller, &desk.admission));
    if !waiting.wait_in(place, pages.project, pages.organization, desk.admission.waiting_max) {
        *turn = None;
        return Look::Short(Short { ask: None, is_final: true });
    }
    Look::Short(Short { ask, is_final: false })
}

/// The same question about other amounts.
fn with_amounts(ask: Ask, need: &Amounts) -> Ask {
    match ask {
        Ask::Limit { level, project, exceeded } => {
            let requested = need.of(exceeded.limit.measure());
            Ask::Limit { level, project, exceeded: Exceeded { requested, ..exceeded } }
        }
        Ask::Money { organization, short, .. } => {
            Ask::Money { organization, short, amount: need.spend }
        }
    }
}

impl Pages<'_> {
    /// The first that is in the way, in the order of checks, and where to wait for it.
    fn check(&mut self, need: &Amounts) -> Result<(), (Place, Ask)> {
        let (at_project, at_organization) = (Place::Project, Place::Organization);
        let key = self.project.keys.account(self.caller.slot).check(need);
        self.by(Level::Project, self.project.account.check(need))
            .map_err(|ask| (at_project, ask))?;
        self.by(Level::Key, key).map_err(|ask| (at_project, ask))?;
        self.by(Level::Organization, self.organization.account.check(need))
            .map_err(|ask| (at_organization, ask))?;
        self.check_wallet(need, false).map_err(|ask| (at_organization, ask))
    }

    /// The first that would be in the way even if all that is held came back.
    fn check_at_rest(&mut self, need: &Amounts) -> Result<(), Ask> {
        let key = self.project.keys.account(self.caller.slot).check_at_rest(need);
        self.by(Level::Project, self.project.account.check_at_rest(need))?;
        self.by(Level::Key, key)?;
        self.by(Level::Organization, self.organization.account.check_at_rest(need))?;
        self.check_wallet(need, true)
    }

    fn by(&self, level: Level, checked: Result<(), Exceeded>) -> Result<(), Ask> {
        let project = self.caller.project.id;
        checked.map_err(|exceeded| Ask::Limit { level, project, exceeded })
    }

    fn check_wallet(&self, need: &Amounts, at_rest: bool) -> Result<(), Ask> {
        match self.organization.wallet.check(need.spend) {
            Ok(()) => Ok(()),
            Err(wallet::Short::OnHold) if at_rest => Ok(()),
            Err(short) => {
                let organization = self.caller.organization.id;
                Err(Ask::Money { organization, amount: need.spend, short })
            }
        }
    }

    /// Whether nobody is ahead who waits for the same. What costs nothing waits for nobody.
    fn may_pass(&self, need: &Amounts, turn: Option<&Turn>) -> bool {
        let nobody = self.project.queue.is_empty() && self.organization.queue.is_empty();
        if nobody || (need.tokens == 0 && need.spend.0 == 0) {
            return true;
        }
        let (ticket, now) = (turn.map(Turn::ticket), clock::tick());
        self.project.queue.may_pass(ticket, now) && self.organization.queue.may_pass(ticket, now)
    }

    /// The queue in which somebody is ahead.
    fn whose_turn(&self, turn: Option<&Turn>) -> Place {
        let passes = self.project.queue.may_pass(turn.map(Turn::ticket), clock::tick());
        if passes { Place::Organization } else { Place::Project }
    }

    /// A fair share of what is left, for this call and each one that waits.
    fn share(&mut self, need: &Need, turn: Option<&Turn>) -> Bound {
        let of = |left: i64, waiting: usize| {
            left / i64::try_from(waiting.saturating_add(1)).unwrap_or(i64::MAX)
        };
        let waits_in = turn.and_then(Turn::place);
        let others = |place, waiting: usize| waiting - usize::from(waits_in == Some(place));
        let in_project = others(Place::Project, self.project.queue.len());
        let in_organization = others(Place::Organization, self.organization.queue.len());
        let mut least = |measure| {
            let key = self.project.keys.account(self.caller.slot).remaining(measure);
            let project = self.project.account.remaining(measure);
            let project = [key, project].into_iter().flatten().min();
            let organization = self.organization.account.remaining(measure);
            [
                project.map(|left| of(left, in_project)),
                organization.map(|left| of(left, in_organization)),
            ]
            .into_iter()
            .flatten()
            .min()
        };
        let (tokens, spend) = (least(Measure::Tokens), least(Measure::Spend));
        let mut money = of(self.organization.wallet.available().0, in_organization);
        money = spend.map_or(money, |spend| spend.min(money));
        need.within(tokens, Nano(money))
    }

    /// Takes all of it; whoever waits behind this call may look now.
    fn take(
        &mut self,
        demand: &Demand,
        need: &Need,
        (bound, clamped): (Bound, Option<u64>),
        turn: &mut Option<Turn>,
    ) -> Taken {
        let (windows, need) = (self.windows, need.amounts(bound));
        self.organization.wallet.hold(need.spend);
        let hold = OpenHold {
            project: self.caller.project.id,
            key: self.caller.key,
            model: Arc::clone(&demand.model.name),
            amount: need.spend,
            tokens: need.tokens,
            since: demand.now,
        };
        self.organization.open.insert(demand.id, hold);
        self.project.account.hold(windows, &need);
        self.project.keys.account(self.caller.slot).hold(windows, &need);
        self.organization.account.hold(windows, &need);
        if let Some(turn) = turn {
            turn.leave(self.project, self.organization);
        }
        let rooms = self.caller.tightest(self.project, self.organization);
        Taken { windows, bound, need, clamped, rooms }
    }
}
