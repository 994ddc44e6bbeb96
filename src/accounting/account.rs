//! An account: the limits of one subject (a project, a key, an organization), and where they stand.

use crate::accounting::queue::Queue;
use crate::clock;
use crate::domain::counter::{Counters, Exceeded, Room, Windows};
use crate::domain::limit::{Amounts, Level, Limit, Measure};
use crate::domain::quota::Quota;
use crate::domain::time::UnixMs;

/// The limits of one subject, and where they stand.
#[derive(Debug)]
pub struct Account {
    /// The limits in force.
    pub quota: Quota,
    /// Where their windows stand. Everything is counted, whether it is limited or not.
    pub counters: Counters,
    /// Who waits for tokens or money under these limits.
    pub queue: Queue,
}

/// One limit, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Whose.
    pub level: Level,
    /// Which.
    pub limit: Limit,
    /// Its value.
    pub value: i64,
    /// What is settled in its window.
    pub used: i64,
    /// What open calls hold in its window.
    pub held: i64,
    /// When its window begins anew.
    pub reset_at: UnixMs,
    /// Whether it refuses, or only counts.
    pub enforced: bool,
}

impl Account {
    /// Whether `need` fits under every limit, or which is in the way. Call after a roll.
    pub fn check(&self, need: &Amounts) -> Result<(), Exceeded> {
        if self.quota.enforce { self.counters.check(&self.quota.limits, need) } else { Ok(()) }
    }

    /// The same once everything that is held has come back.
    pub fn check_at_rest(&self, need: &Amounts) -> Result<(), Exceeded> {
        if !self.quota.enforce {
            return Ok(());
        }
        self.counters.check_at_rest(&self.quota.limits, need)
    }

    /// How much is left under the tightest limit of that measure, if it refuses at all.
    pub fn remaining(&self, measure: Measure) -> Option<i64> {
        self.room(measure).map(|room| room.remaining)
    }

    /// The tightest limit of that measure, if it refuses at all.
    pub fn room(&self, measure: Measure) -> Option<Room> {
        let limits = self.quota.enforce.then_some(&self.quota.limits)?;
        self.counters.tightest(limits, measure)
    }

    /// Takes what `check` allowed.
    pub fn hold(&mut self, windows: Windows, need: &Amounts) {
        self.counters.hold(windows, need);
    }

    /// Exchanges what was held for what was used, and lets whoever waits look.
    pub fn settle(&mut self, windows: Windows, held: &Amounts, used: &Amounts) {
        self.counters.settle(windows, held, used);
        if !self.queue.is_empty() {
            self.queue.released(clock::tick());
        }
    }

    /// Puts other limits in force; open holds are honoured, usage is kept.
    pub fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
        self.counters.set_reset_day(quota.reset_day);
    }

    /// Every limit that is set.
    pub fn standings(&self, level: Level) -> impl Iterator<Item = Standing> + '_ {
        self.quota.limits.set().map(move |(limit, value)| {
            let (used, held) = self.counters.standing(limit);
            let (reset_at, enforced) = (self.counters.reset_at(limit), self.quota.enforce);
            Standing { level, limit, value, used, held, reset_at, enforced }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::accounting::queue::Ticket;
    use crate::domain::limit::Limits;
    use crate::domain::money::Nano;
    use crate::domain::time::{Minute, ResetDay};

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    const CALL: Amounts = Amounts { requests: 1, tokens: 10, spend: Nano(0) };

    fn limited(limit: Limit, value: i64, enforce: bool) -> Account {
        let limits = Limits::default().with(limit, Some(value));
        let quota = Quota { limits, enforce, ..Quota::default() };
        let minute = (Minute(0), Amounts::default());
        let counters = Counters::restore(quota.reset_day, NOW, minute, std::iter::empty());
        Account { quota, counters, queue: Queue::new(Duration::ZERO) }
    }

    #[test]
    fn what_is_held_stands_in_the_way_until_it_comes_back_and_then_whoever_waits_looks() {
        let mut account = limited(Limit::DailyTokens, 15, true);
        let windows = account.counters.roll(NOW);
        account.check(&CALL).expect("10 of 15");
        account.hold(windows, &CALL);
        assert_eq!(account.check(&CALL).expect_err("20 of 15").held, 10);
        account.check_at_rest(&CALL).expect("10 of 15, once the other has ended");
        assert_eq!(account.remaining(Measure::Tokens), Some(5));

        let signal = Arc::new(Notify::new());
        account.queue.join(Ticket::new(clock::tick()), Arc::clone(&signal));
        account.settle(windows, &CALL, &Amounts { tokens: 6, ..CALL });
        let mut notified = std::pin::pin!(signal.notified());
        assert!(notified.as_mut().enable(), "it is woken");
        assert_eq!(account.remaining(Measure::Tokens), Some(9));
        assert_eq!(account.check_at_rest(&CALL).expect_err("16 of 15").used, 6);
    }

    #[test]
    fn a_limit_that_is_not_enforced_refuses_nothing() {
        let account = limited(Limit::DailyTokens, 0, false);
        assert_eq!((account.check(&CALL), account.check_at_rest(&CALL)), (Ok(()), Ok(())));
    }

    #[test]
    fn other_limits_and_another_month_are_in_force_at_once() {
        let mut account = limited(Limit::DailyTokens, 15, true);
        let reset_day = ResetDay::new(20).expect("1..=28");
        let limits = Limits::default().with(Limit::MonthlyTokens, Some(9));
        account.set_quota(Quota { limits, reset_day, ..account.quota });
        assert_eq!(account.check(&CALL).expect_err("10 of 9").limit, Limit::MonthlyTokens);
        assert_eq!(account.counters.month(), reset_day.month_of(NOW.day()));
    }

    #[test]
    fn room_is_told_only_of_limits_that_refuse() {
        for enforce in [true, false] {
            let account = limited(Limit::DailyRequests, 0, enforce);
            assert_eq!(account.room(Measure::Requests).is_some(), enforce);
            assert_eq!(account.remaining(Measure::Requests), enforce.then_some(0));
            let told: Vec<_> = account.standings(Level::Project).collect();
            assert_eq!((told.len(), told[0].enforced), (1, enforce), "it is listed all the same");
        }
    }
}
