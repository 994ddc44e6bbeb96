//! The limits of one subject (a project, key or organization) and their usage.

use crate::accounting::wait_queue::WaitQueue;
use crate::clock;
use crate::domain::counter::{Exceeded, Headroom, WindowCounters, Windows};
use crate::domain::limit::{Amounts, Level, Limit, Measure};
use crate::domain::quota::Quota;
use crate::domain::time::UnixMs;

/// The limits of one subject and their usage.
#[derive(Debug)]
pub struct LimitState {
    pub quota: Quota,
    /// Usage per window. Everything is counted, whether it is limited or not.
    pub counters: WindowCounters,
    /// Calls that wait for tokens or money under these limits.
    pub queue: WaitQueue,
}

/// One limit and its usage.
#[derive(Debug, Clone, Copy)]
pub struct LimitStatus {
    pub level: Level,
    pub limit: Limit,
    pub value: i64,
    /// Settled usage of the window.
    pub used: i64,
    /// Amount held by open calls in the window.
    pub held: i64,
    /// End of the window.
    pub reset_at: UnixMs,
    /// If false, the limit counts but never refuses.
    pub enforced: bool,
}

impl LimitState {
    /// Checks `amounts` against every limit. The windows must have been advanced to now.
    pub fn check(&self, amounts: &Amounts) -> Result<(), Exceeded> {
        if self.quota.enforce { self.counters.check(&self.quota.limits, amounts) } else { Ok(()) }
    }

    /// As `check`, but as if all holds had been returned.
    pub fn check_ignoring_holds(&self, amounts: &Amounts) -> Result<(), Exceeded> {
        if !self.quota.enforce {
            return Ok(());
        }
        self.counters.check_ignoring_holds(&self.quota.limits, amounts)
    }

    /// Returns what is left under the tightest enforced limit of `measure`.
    pub fn remaining(&self, measure: Measure) -> Option<i64> {
        self.headroom(measure).map(|headroom| headroom.remaining)
    }

    /// Returns the tightest enforced limit of `measure`.
    pub fn headroom(&self, measure: Measure) -> Option<Headroom> {
        let limits = self.quota.enforce.then_some(&self.quota.limits)?;
        self.counters.tightest(limits, measure)
    }

    /// Reserves amounts that `check` allowed.
    pub fn hold(&mut self, windows: Windows, amounts: &Amounts) {
        self.counters.hold(windows, amounts);
    }

    /// Replaces a hold with the usage and wakes waiting calls.
    pub fn settle(&mut self, windows: Windows, held: &Amounts, used: &Amounts) {
        self.counters.settle(windows, held, used);
        if !self.queue.is_empty() {
            self.queue.on_release(clock::monotonic_now());
        }
    }

    /// Replaces the limits. Usage and open holds are kept.
    pub fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
        self.counters.set_reset_day(quota.reset_day);
    }

    /// Returns the status of every configured limit.
    pub fn statuses(&self, level: Level) -> impl Iterator<Item = LimitStatus> + '_ {
        self.quota.limits.configured().map(move |(limit, value)| {
            let (used, held) = self.counters.used_and_held(limit);
            let (reset_at, enforced) = (self.counters.reset_at(limit), self.quota.enforce);
            LimitStatus { level, limit, value, used, held, reset_at, enforced }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::accounting::wait_queue::Ticket;
    use crate::domain::limit::Limits;
    use crate::domain::money::Nano;
    use crate::domain::time::{Minute, ResetDay};

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    const CALL: Amounts = Amounts { requests: 1, tokens: 10, spend: Nano(0) };

    fn limited(limit: Limit, value: i64, enforce: bool) -> LimitState {
        let limits = Limits::default().with(limit, Some(value));
        let quota = Quota { limits, enforce, ..Quota::default() };
        let minute = (Minute(0), Amounts::default());
        let counters = WindowCounters::restore(quota.reset_day, NOW, minute, std::iter::empty());
        LimitState { quota, counters, queue: WaitQueue::new(Duration::ZERO) }
    }

    #[test]
    fn holds_count_against_the_limit_until_settled_and_settling_wakes_waiting_calls() {
        let mut state = limited(Limit::DailyTokens, 15, true);
        let windows = state.counters.advance_to(NOW);
        state.check(&CALL).expect("10 of 15");
        state.hold(windows, &CALL);
        assert_eq!(state.check(&CALL).expect_err("20 of 15").held, 10);
        state.check_ignoring_holds(&CALL).expect("10 of 15, once the other has ended");
        assert_eq!(state.remaining(Measure::Tokens), Some(5));

        let signal = Arc::new(Notify::new());
        state.queue.join(Ticket::new(clock::monotonic_now()), Arc::clone(&signal));
        state.settle(windows, &CALL, &Amounts { tokens: 6, ..CALL });
        let mut notified = std::pin::pin!(signal.notified());
        assert!(notified.as_mut().enable(), "it is woken");
        assert_eq!(state.remaining(Measure::Tokens), Some(9));
        assert_eq!(state.check_ignoring_holds(&CALL).expect_err("16 of 15").used, 6);
    }

    #[test]
    fn a_limit_that_is_not_enforced_refuses_nothing() {
        let state = limited(Limit::DailyTokens, 0, false);
        assert_eq!((state.check(&CALL), state.check_ignoring_holds(&CALL)), (Ok(()), Ok(())));
    }

    #[test]
    fn new_limits_and_a_new_reset_day_apply_immediately() {
        let mut state = limited(Limit::DailyTokens, 15, true);
        let reset_day = ResetDay::new(20).expect("1..=28");
        let limits = Limits::default().with(Limit::MonthlyTokens, Some(9));
        state.set_quota(Quota { limits, reset_day, ..state.quota });
        assert_eq!(state.check(&CALL).expect_err("10 of 9").limit, Limit::MonthlyTokens);
        assert_eq!(state.counters.month(), reset_day.month_of(NOW.day()));
    }

    #[test]
    fn headroom_is_reported_only_for_enforced_limits() {
        for enforce in [true, false] {
            let state = limited(Limit::DailyRequests, 0, enforce);
            assert_eq!(state.headroom(Measure::Requests).is_some(), enforce);
            assert_eq!(state.remaining(Measure::Requests), enforce.then_some(0));
            let statuses: Vec<_> = state.statuses(Level::Project).collect();
            assert_eq!(
                (statuses.len(), statuses[0].enforced),
                (1, enforce),
                "it is listed all the same"
            );
        }
    }
}
