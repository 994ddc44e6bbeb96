//! One look at all limits and the wallet: takes everything that a call needs, or nothing.

use std::sync::Arc;

use crate::accounting::account::Account;
use crate::accounting::books::{OpenHold, OrganizationPage, ProjectPage, Rooms};
use crate::accounting::directory::Caller;
use crate::accounting::need::Need;
use crate::accounting::permit::{Demand, Desk};
use crate::accounting::queue::Queue;
use crate::accounting::turn::Turn;
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
    /// All fits, but not many times more: what the call needs should be known better. Nothing was
    /// taken.
    Near,
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

/// How many times its need must be left for a call to be far from a limit.
const NEAR: i64 = 1_000;

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
    let behind = pages.behind(&all, turn.as_ref());
    if way.is_ok() && behind.is_none() {
        if !need.is_looked_up() && pages.is_near(&all) {
            return Look::Near;
        }
        return Look::Taken(pages.take(demand, need, (need.bound(), None), turn));
    }
    let (mut place, mut ask) = match way {
        Ok(()) => (behind.unwrap_or(Level::Project), None),
        Err((place, ask)) => {
            // Whether anything could help is known before the input is counted, if nothing can.
            let (least, shown) = if need.is_tight() {
                (need.amounts(need.least()), need.amounts(need.least()))
            } else {
                (need.lowest(&demand.costs), all)
            };
            if let Err(ask) = pages.check_at_rest(&least) {
                return Look::Short(Short { ask: Some(with_amounts(ask, &shown)), is_final: true });
            }
            if !need.is_priced() {
                return Look::Short(Short { ask: Some(ask), is_final: false });
            }
            (place, Some(ask))
        }
    };
    if ask.is_some() {
        // Of a call whose output may not be bounded, the least is all.
        match (pages.check(&need.amounts(need.least())), behind) {
            (Ok(()), None) => {
                let bound = pages.share(need, turn.as_ref());
                let clamped = Some(need.of_each(bound));
                return Look::Taken(pages.take(demand, need, (bound, clamped), turn));
            }
            (Ok(()), Some(line)) => (place, ask) = (line, None),
            (Err((first, in_the_way)), _) => (place, ask) = (first, Some(in_the_way)),
        }
    }
    if ask.is_some() && !need.is_tight() {
        return Look::Short(Short { ask, is_final: false });
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
    fn check(&mut self, need: &Amounts) -> Result<(), (Level, Ask)> {
        let key = self.project.keys.account(self.caller.slot).check(need);
        let at = |level| move |ask| (level, ask);
        self.by(Level::Project, self.project.account.check(need)).map_err(at(Level::Project))?;
        self.by(Level::Key, key).map_err(at(Level::Key))?;
        self.by(Level::Organization, self.organization.account.check(need))
            .and_then(|()| self.check_wallet(need, false))
            .map_err(at(Level::Organization))
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

    /// Whether what is left of tokens or money is not many times as much.
    fn is_near(&mut self, need: &Amounts) -> bool {
        let key = self.project.keys.account(self.caller.slot);
        let near = |account: &Account, measure| {
            let left = account.remaining(measure);
            left.is_some_and(|left| left / NEAR < need.of(measure))
        };
        let measures = [Measure::Tokens, Measure::Spend];
        self.organization.wallet.available().0 / NEAR < need.spend.0
            || [&self.project.account, key, &self.organization.account]
                .into_iter()
                .any(|account| measures.into_iter().any(|measure| near(account, measure)))
    }

    /// The lines of all that applies to this call.
    fn queues(&mut self) -> [(Level, &mut Queue); 3] {
        let key = &mut self.project.keys.account(self.caller.slot).queue;
        [
            (Level::Project, &mut self.project.account.queue),
            (Level::Key, key),
            (Level::Organization, &mut self.organization.account.queue),
        ]
    }

    /// The line in which somebody is ahead who waits for the same, if anybody is. What costs
    /// nothing waits for nobody.
    fn behind(&mut self, need: &Amounts, turn: Option<&Turn>) -> Option<Level> {
        let queues = self.queues();
        if need.tokens == 0 && need.spend.0 == 0 || queues.iter().all(|(_, queue)| queue.is_empty())
        {
            return None;
        }
        let (ticket, now) = (turn.map(Turn::ticket), clock::tick());
        let blocks =
            |(level, queue): (Level, &mut Queue)| (!queue.may_pass(ticket, now)).then_some(level);
        queues.into_iter().find_map(blocks)
    }

    /// A fair share of what is left, for this call and each one that waits.
    fn share(&mut self, need: &Need, turn: Option<&Turn>) -> Bound {
        let of = |left: i64, waiting: usize| {
            left / i64::try_from(waiting.saturating_add(1)).unwrap_or(i64::MAX)
        };
        let waits_in = turn.and_then(Turn::place);
        let [project, key, organization] =
            self.queues().map(|(level, queue)| queue.len() - usize::from(waits_in == Some(level)));
        let mut least = |measure| {
            let of_key = self.project.keys.account(self.caller.slot).remaining(measure);
            let shares = [
                self.project.account.remaining(measure).map(|left| of(left, project)),
                of_key.map(|left| of(left, key)),
                self.organization.account.remaining(measure).map(|left| of(left, organization)),
            ];
            shares.into_iter().flatten().min()
        };
        let (tokens, spend) = (least(Measure::Tokens), least(Measure::Spend));
        let mut money = of(self.organization.wallet.available().0, organization);
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
