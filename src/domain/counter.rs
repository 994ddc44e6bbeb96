//! Usage counters of one project, API key or organization, by window.
//!
//! Counters are stored per UTC day and a month is the sum of its days, so that a change of the
//! reset day only sums other days. A call is counted and settled in the windows of its admission.

use std::collections::BTreeMap;

use crate::domain::limit::{Amounts, Limit, Limits, Measure, Window};
use crate::domain::time::{Day, Minute, Month, ResetDay, UnixMs};

/// The windows that a call was admitted in. They do not change afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub minute: Minute,
    pub day: Day,
}

/// Settled and held amounts of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowUsage {
    pub used: Amounts,
    /// Held by calls in flight.
    pub held: Amounts,
}

impl WindowUsage {
    fn add(&mut self, other: &Self) {
        self.used += other.used;
        self.held += other.held;
    }
}

/// A limit that a call would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The first exceeded limit in check order.
    pub limit: Limit,
    pub value: i64,
    /// The amount settled in its window.
    pub used: i64,
    /// The amount held by calls in flight in its window.
    pub held: i64,
    /// The amount requested by the call.
    pub requested: i64,
    /// The start of the next window.
    pub reset_at: UnixMs,
}

impl Exceeded {
    /// Returns whether the call would fit if the calls in flight released their holds: tokens,
    /// money and their share of the concurrency limit. A counted request is never released.
    pub fn transient(&self) -> bool {
        let is_releasable =
            self.limit.measure() != Measure::Requests || self.limit.window() == Window::Concurrent;
        is_releasable && self.used + self.requested <= self.value
    }
}

/// What is left under a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    pub limit: Limit,
    pub value: i64,
    /// The amount neither settled nor held; at least 0.
    pub remaining: i64,
    /// The start of the next window.
    pub reset_at: UnixMs,
}

/// Window counters of one subject.
#[derive(Debug, Clone)]
pub struct WindowCounters {
    reset_day: ResetDay,
    /// The latest instant seen. Windows do not go back when the wall clock does.
    last_seen: UnixMs,
    minute: WindowUsage,
    open_calls: i64,
    /// Usage by day, without the current day.
    days: BTreeMap<Day, WindowUsage>,
    month: Month,
    /// The sum of the current month without the current day.
    month_before_today: WindowUsage,
    today: WindowUsage,
}

/// How many past days are kept in memory: two months, the longest span that a month can sum
/// after a change of the reset day. Days with calls in flight are kept longer.
const DAYS_RETAINED: i64 = 62;

impl WindowCounters {
    /// Restores counters from durable sums: `days`, and the latest recorded `minute`.
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

    /// Moves to the windows of `now` and returns them. If the wall clock stepped back, returns the
    /// latest windows seen.
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

    /// Changes the first day of the month and sums the days again.
    pub fn set_reset_day(&mut self, reset_day: ResetDay) {
        if self.reset_day != reset_day {
            self.reset_day = reset_day;
            self.sum_month();
        }
    }

    /// Returns the first limit, in check order, that `amounts` would exceed. Call
    /// [`advance_to`](Self::advance_to) first.
    pub fn check(&self, limits: &Limits, amounts: &Amounts) -> Result<(), Exceeded> {
        self.first_exceeded(limits, amounts, |_, held| held)
    }

    /// Returns the first limit that `amounts` would exceed even if every call in flight released
    /// its hold. Requests are counted even so, because they are never released.
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

    /// Adds a hold that [`check`](Self::check) allowed.
    pub fn hold(&mut self, windows: Windows, amounts: &Amounts) {
        self.update(windows, |tally| tally.held += *amounts);
        self.open_calls += 1;
    }

    /// Ends a hold: releases `held` and counts `used` instead.
    pub fn settle(&mut self, windows: Windows, held: &Amounts, used: &Amounts) {
        self.update(windows, |tally| {
            tally.held -= *held;
            tally.used += *used;
        });
        self.open_calls -= 1;
    }

    /// Returns the limit of `measure` with the least headroom. The concurrency limit is ignored.
    pub fn tightest(&self, limits: &Limits, measure: Measure) -> Option<Headroom> {
        let of_measure = limits.configured().filter(|(limit, _)| {
            limit.measure() == measure && limit.window() != Window::Concurrent
        });
        let headroom = |(limit, value): (Limit, i64)| {
            let (used, held) = self.used_and_held(limit);
            let remaining = (value - used - held).max(0);
            Headroom { limit, value, remaining, reset_at: self.reset_at(limit) }
        };
        of_measure.map(headroom).min_by_key(|headroom| headroom.remaining)
    }

    /// Returns the amounts used and held that count against `limit` in its current window.
    pub fn used_and_held(&self, limit: Limit) -> (i64, i64) {
        if limit == Limit::ConcurrentCalls {
            return (0, self.open_calls);
        }
        let tally = self.window_usage(limit.window());
        (tally.used.get(limit.measure()), tally.held.get(limit.measure()))
    }

    /// Returns all amounts settled and held in the current window of that kind.
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

    /// Returns the end of the current window of `limit`.
    pub fn reset_at(&self, limit: Limit) -> UnixMs {
        match limit.window() {
            Window::Concurrent => self.last_seen,
            Window::Minute => self.last_seen.minute().end(),
            Window::Day => self.last_seen.day().next().start(),
            Window::Month => self.month.end.start(),
        }
    }

    /// Returns the latest instant seen.
    pub const fn last_seen(&self) -> UnixMs {
        self.last_seen
    }

    pub const fn month(&self) -> Month {
        self.month
    }

    /// Returns the number of calls in flight.
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
    fn days_are_retained_while_a_month_may_sum_them_or_a_call_is_in_flight() {
        let mut counters = counters();
        let windows = counters.advance_to(NOON);
        counters.hold(windows, &CALL);
        counters.hold(windows, &CALL);
        counters.settle(windows, &CALL, &CALL);
        let days_later = |days| UnixMs(NOON.0 + days * 86_400_000);
        counters.advance_to(days_later(400));
        assert!(counters.days.contains_key(&windows.day), "a call of that day is in flight");
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
