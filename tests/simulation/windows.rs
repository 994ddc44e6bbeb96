//! Windows over two hundred years: every time is in one minute, day and month, and counters assign
//! calls to them.

use meteor::domain::counter::WindowCounters;
use meteor::domain::limit::{Amounts, Window};
use meteor::domain::money::Nano;
use meteor::domain::time::{Day, Minute, ResetDay, UnixMs};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::calendar::{DAY_MS, day_of, minute_of, month_of};

/// 1970 to 2170.
const CENTURIES_MS: i64 = 73_049 * DAY_MS;

fn reset(day: i64) -> ResetDay {
    u8::try_from(day).ok().and_then(ResetDay::new).expect("1..=28")
}

/// The month of a time in the crate under test: its first millisecond, and that of the next month.
fn month(at: i64, reset_day: i64) -> (i64, i64) {
    let month = reset(reset_day).month_of(UnixMs(at).day());
    assert!(month.contains(UnixMs(at).day()), "{at} is in its own month");
    (month.first.start().0, month.end.start().0)
}

#[test]
fn months_are_contiguous() {
    for reset_day in 1..=28 {
        let mut first = month(0, reset_day).0;
        while first < CENTURIES_MS {
            let (_, end) = month(first, reset_day);
            for at in [first, first + 1, end - 1] {
                assert_eq!(month(at, reset_day), (first, end), "{at} of {reset_day}");
            }
            assert_eq!(month(end, reset_day).0, end, "the next begins where one ends");
            let days = (end - first) / DAY_MS;
            assert!((28..=31).contains(&days) && (end - first) % DAY_MS == 0, "{days} days");
            assert_eq!(month_of(day_of(first), reset_day), (day_of(first), day_of(end)));
            first = end;
        }
    }
}

#[test]
fn a_millisecond_from_midnight_is_another_day() {
    for day in 0..73_049 {
        let midnight = day * DAY_MS;
        assert_eq!(UnixMs(midnight).day(), Day(day));
        assert_eq!(UnixMs(midnight - 1).day(), Day(day - 1));
        assert_eq!(UnixMs(midnight + 1).day(), Day(day));
        assert_eq!(UnixMs(midnight - 1).minute().end(), UnixMs(midnight));
        assert_eq!(UnixMs(midnight).minute().start(), UnixMs(midnight));
    }
}

/// Usage of a call, with a different amount per measure.
fn used(tokens: i64) -> Amounts {
    Amounts { requests: 1, tokens, spend: Nano(3 * tokens) }
}

/// Any time, or one next to midnight.
fn instant() -> impl Strategy<Value = i64> {
    let edge = (1..73_000_i64, -1..=1_i64).prop_map(|(day, near)| day * DAY_MS + near);
    prop_oneof![0..CENTURIES_MS, edge]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn months_match_the_calendar(at in instant(), day in 1..=28_i64) {
        let (first, end) = month_of(day_of(at), day);
        prop_assert_eq!(month(at, day), (first * DAY_MS, end * DAY_MS));
        prop_assert_eq!(UnixMs(at).minute(), Minute(minute_of(at)));
        prop_assert_eq!(UnixMs(at).day(), Day(day_of(at)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Calls follow after minutes to weeks; occasionally the reset day changes.
    #[test]
    fn counters_are_sums_over_windows_for_any_reset_day(
        start in instant(),
        calls in vec((0..11 * DAY_MS, 1..100_i64, proptest::option::of(1..=28_i64)), 1..40),
        near in vec(any::<bool>(), 40),
    ) {
        let nothing = (Minute(0), Amounts::default());
        let mut counters = WindowCounters::restore(ResetDay::FIRST, UnixMs(start), nothing, []);
        let (mut now, mut reset_day, mut calls_made) = (start, 1, Vec::new());
        for ((pause, tokens, other_day), near) in calls.into_iter().zip(near) {
            now += if near { pause % 90_000 } else { pause };
            let windows = counters.advance_to(UnixMs(now));
            prop_assert_eq!((windows.minute.0, windows.day.0), (minute_of(now), day_of(now)));
            counters.hold(windows, &used(tokens));
            counters.settle(windows, &used(tokens), &used(tokens));
            calls_made.push((now, tokens));
            for day in [other_day.unwrap_or(reset_day), 28, 1, reset_day] {
                counters.set_reset_day(reset(day));
                let (first, end) = month_of(day_of(now), day);
                let sum = |holds: &dyn Fn(i64) -> bool| {
                    let tokens_in_window = calls_made.iter().filter(|(at, _)| holds(*at));
                    let tokens_in_window: Vec<i64> = tokens_in_window.map(|(_, tokens)| *tokens).collect();
                    let tokens: i64 = tokens_in_window.iter().sum();
                    (i64::try_from(tokens_in_window.len()).expect("few"), tokens, 3 * tokens)
                };
                let spans: [(Window, &dyn Fn(i64) -> bool); 3] = [
                    (Window::Minute, &|at| minute_of(at) == minute_of(now)),
                    (Window::Day, &|at| day_of(at) == day_of(now)),
                    (Window::Month, &|at| first <= day_of(at) && day_of(at) < end),
                ];
                for (window, holds) in spans {
                    let tally = counters.window_usage(window);
                    let shown = (tally.used.requests, tally.used.tokens, tally.used.spend.0);
                    prop_assert_eq!(shown, sum(holds), "{:?} of {}", window, day);
                    prop_assert_eq!(tally.held, Amounts::default());
                }
            }
            reset_day = other_day.unwrap_or(reset_day);
            counters.set_reset_day(reset(reset_day));
        }
    }
}
