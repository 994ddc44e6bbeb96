//! Counters: where each window of one project (or key, or organization) stands.
//!
//! Kept per UTC day; a month is the sum of its days, so a change of the reset day is only another
//! sum. A call is counted and settled in the windows of its admission.

use std::collections::BTreeMap;

use crate::domain::limit::{Amounts, Limit, Limits, Measure, Window};
use crate::domain::time::{Day, Minute, Month, ResetDay, UnixMs};

/// The windows that a call was admitted in. They never change afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The UTC minute.
    pub minute: Minute,
    /// The UTC date.
    pub day: Day,
}

/// What is settled and what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowUsage {
    /// Settled.
    pub used: Amounts,
    /// Held by open calls.
    pub held: Amounts,
}

impl WindowUsage {
    fn add(&mut self, other: &Self) {
        self.used += other.used;
        self.held += other.held;
    }
}

/// A limit that a call does not fit under, and by how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The first limit, in the order of checks, that fails.
    pub limit: Limit,
    /// Its value.
    pub value: i64,
    /// What is settled in its window.
    pub used: i64,
    /// What open calls hold in its window.
    pub held: i64,
    /// What the call asked for.
    pub requested: i64,
    /// When the window begins anew.
    pub reset_at: UnixMs,
}

impl Exceeded {
    /// Whether the call would fit if open calls gave back all that they can: the tokens and the
    /// money they hold, and their places among the calls at once. A request stays counted.
    pub fn transient(&self) -> bool {
        let returns =
            self.limit.measure() != Measure::Requests || self.limit.window() == Window::Concurrent;
        returns && self.used + self.requested <= self.value
    }
}

/// How much is left under a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    /// Which limit.
    pub limit: Limit,
    /// Its value.
    pub value: i64,
    /// What is neither settled nor held; never below 0.
    pub remaining: i64,
    /// When its window begins anew.
    pub reset_at: UnixMs,
}

/// The windows of one subject.
#[derive(Debug, Clone)]
pub struct WindowCounters {
    reset_day: ResetDay,
    /// The latest instant seen: windows never step back with a wall clock.
    last_seen: UnixMs,
    minute: WindowUsage,
    open_calls: i64,
    /// One tally a day; the days of the running month and those with open calls at least.
    days: BTreeMap<Day, WindowUsage>,
    month: Month,
    /// The month without its latest day.
    month_before_today: WindowUsage,
    today: WindowUsage,
}

/// How many days stay in memory: two months, the longest that a change of reset day can sum.
const DAYS_RETAINED: i64 = 62;

impl WindowCounters {
    /// Counters that continue from durable sums: `days`, and the latest `minute` known.
    pub fn restore(
        reset_day: ResetDay,
        now: UnixMs,
        minute: (Minute, Amounts),
        days: impl IntoIterator<Item = (Day, Amounts)>,
    ) -> Self {
        let days: BTreeMap<Day, WindowUsage> = days
            .into_iter()
            .map(|(day, used)| (day, WindowUsage { used, held: Amounts::default() }))
            .collect();
        let latest_day = days.last_key_value().map_or(now, |(day, _)| day.start());
        let latest_minute = minute.0.start();
        let latest = now.max(latest_day).max(latest_minute);
        let used = if latest.minute() == minute.0 { minute.1 } else { Amounts::default() };
        let mut counters = Self {
            reset_day,
            last_seen: latest,
            minute: WindowUsage { used, held: Amounts::default() },
            open_calls: 0,
            days,
            month: reset_day.month_of(latest.day()),
            month_before_today: WindowUsage::default(),
            today: WindowUsage::default(),
        };
        counters.today = counters.days.remove(&latest.day()).unwrap_or_default();
        counters.sum_month();
        counters
    }

    /// The windows of `now`, or the latest ones seen if the wall clock stepped back.
    pub fn advance_to(&mut self, now: UnixMs) -> Windows {
        let now = now.max(self.last_seen);
        let before = std::mem::replace(&mut self.last_seen, now);
        let windows = Windows { minute: now.minute(), day: now.day() };
        if before.minute() != windows.minute {
            self.minute = WindowUsage::default();
        }
        if before.day() != windows.day {
            self.days.insert(before.day(), std::mem::take(&mut self.today));
            self.today = self.days.remove(&windows.day).unwrap_or_default();
            let oldest = Day(windows.day.0 - DAYS_RETAINED);
            self.days.retain(|day, tally| oldest <= *day || tally.held != Amounts::default());
            self.sum_month();
        }
        windows
    }

    /// Begins the month on another day: another sum of the same days.
    pub fn set_reset_day(&mut self, reset_day: ResetDay) {
        if self.reset_day != reset_day {
            self.reset_day = reset_day;
            self.sum_month();
        }
    }

    /// The first limit that `need` does not fit under, in the order of checks. Call after `roll`.
    pub fn check(&self, limits: &Limits, amounts: &Amounts) -> Result<(), Exceeded> {
        self.first_exceeded(limits, amounts, |_, held| held)
    }

    /// The first limit that `need` would not fit under even if every open call gave back what it
    /// holds. What is counted as a request never comes back.
    pub fn check_ignoring_holds(&self, limits: &Limits, amounts: &Amounts) -> Result<(), Exceeded> {
        self.first_exceeded(limits, amounts, |limit, held| match limit.measure() {
            Measure::Requests => held,
            Measure::Tokens | Measure::Spend => 0,
        })
    }

    fn first_exceeded(
        &self,
        limits: &Limits,
        amounts: &Amounts,
        counted_held: impl Fn(Limit, i64) -> i64,
    ) -> Result<(), Exceeded> {
        for (limit, value) in limits.configured() {
            let requested = amounts.get(limit.measure());
            let (used, held) = self.used_and_held(limit);
            if value - used - counted_held(limit, held) < requested {
                let reset_at = self.reset_at(limit);
                return Err(Exceeded { limit, value, used, held, requested, reset_at });
            }
        }
        Ok(())
    }

    /// Takes what `check` allowed.
    pub fn hold(&mut self, windows: Windows, amounts: &Amounts) {
        self.update(windows, |tally| tally.held += *amounts);
        self.open_calls += 1;
    }

    /// Ends a hold: what was `held` comes back, what was `used` is counted instead.
    pub fn settle(&mut self, windows: Windows, held: &Amounts, used: &Amounts) {
        self.update(windows, |tally| {
            tally.held -= *held;
            tally.used += *used;
        });
        self.open_calls -= 1;
    }

    /// The limit of that measure with the least room left.
    pub fn tightest(&self, limits: &Limits, measure: Measure) -> Option<Headroom> {
        let of_measure = limits.configured().filter(|(limit, _)| {
            limit.measure() == measure && limit.window() != Window::Concurrent
        });
        let room = |(limit, value): (Limit, i64)| {
            let (used, held) = self.used_and_held(limit);
            let remaining = (value - used - held).max(0);
            Headroom { limit, value, remaining, reset_at: self.reset_at(limit) }
        };
        of_measure.map(room).min_by_key(|room| room.remaining)
    }

    /// Settled and held of `limit` in its running window.
    pub fn used_and_held(&self, limit: Limit) -> (i64, i64) {
        if limit == Limit::ConcurrentCalls {
            return (0, self.open_calls);
        }
        let tally = self.window_usage(limit.window());
        (tally.used.get(limit.measure()), tally.held.get(limit.measure()))
    }

    /// All that is settled and held in the running window of that kind.
    pub fn window_usage(&self, window: Window) -> WindowUsage {
        match window {
            Window::Minute | Window::Concurrent => self.minute,
            Window::Day => self.today,
            Window::Month => {
                let mut month = self.month_before_today;
                month.add(&self.today);
                month
            }
        }
    }

    /// When the running window of `limit` ends.
    pub fn reset_at(&self, limit: Limit) -> UnixMs {
        match limit.window() {
            Window::Concurrent => self.last_seen,
            Window::Minute => self.last_seen.minute().end(),
            Window::Day => self.last_seen.day().next().start(),
            Window::Month => self.month.end.start(),
        }
    }

    /// The latest instant seen.
    pub const fn last_seen(&self) -> UnixMs {
        self.last_seen
    }

    /// The running month.
    pub const fn month(&self) -> Month {
        self.month
    }

    /// Calls open now.
    pub const fn open_calls(&self) -> i64 {
        self.open_calls
    }

    fn update(&mut self, windows: Windows, change: impl Fn(&mut WindowUsage)) {
        if windows.minute == self.last_seen.minute() {
            change(&mut self.minute);
        }
        if windows.day == self.last_seen.day() {
            return change(&mut self.today);
        }
        change(self.days.entry(windows.day).or_default());
        if self.month.contains(windows.day) {
            change(&mut self.month_before_today);
        }
    }

    fn sum_month(&mut self) {
        let today = self.last_seen.day();
        self.month = self.reset_day.month_of(today);
        self.month_before_today = WindowUsage::default();
        for tally in self.days.range(self.month.first..today).map(|(_, tally)| tally) {
            self.month_before_today.add(tally);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::{CALL, NOON, counters};

    #[test]
    fn days_are_kept_as_long_as_a_month_may_sum_them_or_a_call_is_open() {
        let mut counters = counters();
        let windows = counters.advance_to(NOON);
        counters.hold(windows, &CALL);
        counters.hold(windows, &CALL);
        counters.settle(windows, &CALL, &CALL);
        let days_later = |days| UnixMs(NOON.0 + days * 86_400_000);
        counters.advance_to(days_later(400));
        assert!(counters.days.contains_key(&windows.day), "a call of that day is open");
        counters.settle(windows, &CALL, &CALL);
        assert_eq!(counters.days[&windows.day].used.requests, 2);
        counters.advance_to(days_later(401));
        assert!(!counters.days.contains_key(&windows.day));
        counters.advance_to(days_later(401 + DAYS_RETAINED));
        assert!(counters.days.contains_key(&days_later(401).day()));
        counters.advance_to(days_later(402 + DAYS_RETAINED));
        assert!(!counters.days.contains_key(&days_later(401).day()));
    }
}
