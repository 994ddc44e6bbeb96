//! Window counters: what they count, which limits they exceed, and what is left.

use crate::domain::counter::WindowCounters;
use crate::domain::limit::{Amounts, Limit, Limits, Measure};
use crate::domain::money::Nano;
use crate::domain::time::{Day, Minute, ResetDay, UnixMs};

pub const CALL: Amounts = Amounts { requests: 1, tokens: 10, spend: Nano(5) };
pub const NOON: UnixMs = UnixMs(19_737 * 86_400_000 + 43_200_000); // 2024-01-15T12:00Z

pub fn counters() -> WindowCounters {
    WindowCounters::restore(ResetDay::FIRST, NOON, (Minute(0), Amounts::default()), [])
}

fn limits(limit: Limit, value: i64) -> Limits {
    Limits::default().with(limit, Some(value))
}

#[test]
fn a_new_minute_begins_at_zero_and_the_current_one_continues() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    counters.hold(windows, &CALL);
    counters.advance_to(UnixMs(NOON.0 + 59_999));
    assert_eq!(counters.used_and_held(Limit::RequestsPerMinute), (0, 1));
    counters.advance_to(UnixMs(NOON.0 + 60_000));
    assert_eq!(counters.used_and_held(Limit::RequestsPerMinute), (0, 0));
    counters.settle(windows, &CALL, &CALL);
    assert_eq!(
        counters.used_and_held(Limit::RequestsPerMinute),
        (0, 0),
        "it ended with its minute"
    );
    assert_eq!(counters.used_and_held(Limit::DailyRequests), (1, 0));
}

#[test]
fn counted_requests_are_never_released_but_concurrency_is() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    counters.hold(windows, &CALL);
    counters.hold(windows, &CALL);
    for (limit, is_released) in [
        (Limit::ConcurrentCalls, true),
        (Limit::DailyRequests, false),
        (Limit::RequestsPerMinute, false),
        (Limit::DailyTokens, true),
        (Limit::MonthlySpend, true),
    ] {
        let limits = limits(limit, CALL.get(limit.measure()));
        let refused = counters.check(&limits, &CALL).expect_err("two calls are in flight");
        assert_eq!((refused.limit, refused.transient()), (limit, is_released), "{limit:?}");
    }
    assert_eq!(counters.open_calls(), 2);
}

#[test]
fn used_and_held_amounts_both_count_against_a_limit() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    counters.hold(windows, &CALL);
    counters.hold(windows, &CALL);
    counters.settle(windows, &CALL, &Amounts { tokens: 7, ..CALL });
    counters.check(&limits(Limit::DailyTokens, 27), &CALL).expect("7 + 10 + 10");
    let refused = counters.check(&limits(Limit::DailyTokens, 26), &CALL).expect_err("26 < 27");
    assert_eq!((refused.value, refused.used, refused.held), (26, 7, 10));
    let limits = limits(Limit::DailyTokens, 26);
    counters.check_ignoring_holds(&limits, &CALL).expect("7 + 10, once the other has ended");
}

#[test]
fn the_tightest_limit_of_a_measure_is_the_one_with_the_smallest_headroom() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    counters.hold(windows, &CALL);
    counters.hold(windows, &CALL);
    counters.settle(windows, &CALL, &CALL);
    let limits = limits(Limit::DailyTokens, 50)
        .with(Limit::MonthlyTokens, Some(40))
        .with(Limit::TokensPerMinute, Some(1_000))
        .with(Limit::ConcurrentCalls, Some(1))
        .with(Limit::DailyRequests, Some(1));
    let tokens = counters.tightest(&limits, Measure::Tokens).expect("three limits");
    assert_eq!((tokens.limit, tokens.value, tokens.remaining), (Limit::MonthlyTokens, 40, 20));
    assert_eq!(tokens.reset_at, counters.reset_at(Limit::MonthlyTokens));
    let requests = counters.tightest(&limits, Measure::Requests).expect("a limit");
    assert_eq!((requests.limit, requests.remaining), (Limit::DailyRequests, 0), "never below 0");
    assert_eq!(counters.tightest(&limits, Measure::Spend), None);
}

#[test]
fn a_limit_resets_when_the_next_window_begins() {
    let mut counters = counters();
    let now = UnixMs(NOON.0 + 90_000);
    counters.advance_to(now);
    let at = |limit| counters.reset_at(limit).to_string();
    assert_eq!(at(Limit::RequestsPerMinute), "2024-01-15T12:02:00.000Z");
    assert_eq!(at(Limit::DailySpend), "2024-01-16T00:00:00.000Z");
    assert_eq!(at(Limit::MonthlyTokens), "2024-02-01T00:00:00.000Z");
    assert_eq!((counters.reset_at(Limit::ConcurrentCalls), counters.last_seen()), (now, now));
}

#[test]
fn counters_continue_from_the_latest_recorded_window_if_the_clock_is_behind_it() {
    let later = Minute(NOON.minute().0 + 1_500);
    let days = [(later.start().day(), CALL)];
    let mut counters = WindowCounters::restore(ResetDay::FIRST, NOON, (later, CALL), days);
    assert_eq!(counters.advance_to(NOON).minute, later);
    assert_eq!(counters.used_and_held(Limit::RequestsPerMinute), (1, 0));
    assert_eq!(counters.used_and_held(Limit::DailyTokens), (10, 0));
    let earlier = (Minute(NOON.minute().0 - 1), CALL);
    let counters = WindowCounters::restore(ResetDay::FIRST, NOON, earlier, []);
    assert_eq!(counters.used_and_held(Limit::RequestsPerMinute), (0, 0), "that minute is over");
}

#[test]
fn an_amount_equal_to_the_limit_fits_and_a_refusal_changes_nothing() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    let limits = limits(Limit::DailyTokens, 35);
    for _ in 0..3 {
        counters.check(&limits, &CALL).expect("fits");
        counters.hold(windows, &CALL);
    }
    let refused = counters.check(&limits, &CALL).expect_err("31 of 35 would be 40");
    assert_eq!((refused.used, refused.held, refused.requested), (0, 30, 10));
    assert!(refused.transient());
    counters.check_ignoring_holds(&limits, &CALL).expect("fits when what is held comes back");
    let refused = counters.check_ignoring_holds(&limits, &Amounts { tokens: 36, ..CALL });
    assert!(!refused.expect_err("36 of 35").transient());
    counters.settle(windows, &CALL, &Amounts { tokens: 5, ..CALL });
    counters.check(&limits, &CALL).expect("what came back fits again");
    assert_eq!(counters.used_and_held(Limit::DailyRequests), (1, 2));
}

#[test]
fn the_first_exceeded_limit_in_check_order_is_reported() {
    let limits = limits(Limit::RequestsPerMinute, 0)
        .with(Limit::MonthlyTokens, Some(0))
        .with(Limit::DailySpend, Some(0));
    let refused = counters().check(&limits, &CALL).expect_err("all are 0");
    assert_eq!(refused.limit, Limit::MonthlyTokens);
}

#[test]
fn a_call_is_settled_in_the_windows_of_its_admission() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    counters.hold(windows, &CALL);
    let tomorrow = UnixMs(NOON.0 + 86_400_000);
    counters.advance_to(tomorrow);
    assert_eq!(counters.used_and_held(Limit::DailyRequests), (0, 0));
    assert_eq!(counters.used_and_held(Limit::MonthlyRequests), (0, 1));
    counters.settle(windows, &CALL, &CALL);
    assert_eq!(counters.used_and_held(Limit::DailyRequests), (0, 0));
    assert_eq!(counters.used_and_held(Limit::MonthlyTokens), (10, 0));
    assert_eq!(counters.used_and_held(Limit::ConcurrentCalls), (0, 0));
}

#[test]
fn a_clock_that_steps_back_does_not_reopen_an_old_window() {
    let mut counters = counters();
    let windows = counters.advance_to(NOON);
    counters.hold(windows, &CALL);
    let back = counters.advance_to(UnixMs(NOON.0 - 3_600_000));
    assert_eq!(back, windows);
    assert_eq!(counters.used_and_held(Limit::RequestsPerMinute), (0, 1));
}

#[test]
fn changing_the_reset_day_never_loses_usage() {
    let day = NOON.day();
    let used = |tokens| Amounts { requests: 1, tokens, spend: Nano(1) };
    let days = [(Day(day.0 - 20), used(1)), (Day(day.0 - 3), used(2)), (day, used(4))];
    let start = (NOON.minute(), used(9));
    let mut counters = WindowCounters::restore(ResetDay::FIRST, NOON, start, days);
    let tokens = |counters: &WindowCounters| counters.used_and_held(Limit::MonthlyTokens).0;
    assert_eq!(tokens(&counters), 6, "since the 1st: the 12th and the 15th");
    counters.set_reset_day(ResetDay::new(15).expect("1..=28"));
    assert_eq!(tokens(&counters), 4);
    counters.set_reset_day(ResetDay::new(16).expect("1..=28"));
    assert_eq!(tokens(&counters), 7);
    counters.set_reset_day(ResetDay::FIRST);
    assert_eq!(tokens(&counters), 6);
    assert_eq!(counters.used_and_held(Limit::RequestsPerMinute), (1, 0));
}
