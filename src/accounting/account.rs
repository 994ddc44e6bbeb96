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

    use super::*;
    use crate::domain::limit::Limits;
    use crate::domain::time::Minute;

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    #[test]
    fn room_is_told_only_of_limits_that_refuse() {
        for enforce in [true, false] {
            let limits = Limits::default().with(Limit::DailyRequests, Some(0));
            let quota = Quota { limits, enforce, ..Quota::default() };
            let minute = (Minute(0), Amounts::default());
            let counters = Counters::restore(quota.reset_day, NOW, minute, std::iter::empty());
            let account = Account { quota, counters, queue: Queue::new(Duration::ZERO) };
            assert_eq!(account.room(Measure::Requests).is_some(), enforce);
            assert_eq!(account.remaining(Measure::Requests), enforce.then_some(0));
            let told: Vec<_> = account.standings(Level::Project).collect();
            assert_eq!((told.len(), told[0].enforced), (1, enforce), "it is listed all the same");
        }
    }
}
