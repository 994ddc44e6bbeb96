//! Breaker: the circuit of an upstream, which says whether it is asked before others or after them.
//!
//! All workers share it. It is made of atomics alone: where two threads meet, one outcome more or
//! less is counted, and nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};

use crate::clock;
use crate::settings::upstream::CircuitSettings;
use crate::telemetry::metric;

/// The circuit of an upstream.
#[derive(Debug)]
pub struct Breaker {
    upstream: Arc<str>,
    settings: CircuitSettings,
    /// All times in here are milliseconds since then.
    made: Instant,
    /// Odd while it is open; grows whenever it opens or closes.
    era: AtomicU32,
    /// How many times in a row it was opened.
    openings: AtomicU32,
    /// While it is open: when it lets the next probe through.
    probe_at: AtomicU64,
    /// Whether a probe is under way.
    is_probed: AtomicBool,
    failures_in_a_row: AtomicU32,
    /// The number of the window, its tries and its failures: 32, 16 and 16 bits.
    window: AtomicU64,
    opened: Counter,
    state: Gauge,
}

/// Where a circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// It is asked as usual.
    Closed,
    /// A probe is under way, or may go.
    HalfOpen,
    /// It is asked after others.
    Open,
}

/// Leave to ask an upstream, to be shown again with what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    era: u32,
    is_probe: bool,
}

impl Circuit {
    /// As metrics tell it.
    const fn value(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

impl Breaker {
    /// A closed one, for the upstream of that name.
    pub fn new(upstream: &Arc<str>, settings: CircuitSettings) -> Self {
        let state = gauge!(metric::UPSTREAM_CIRCUIT, "upstream" => upstream.to_string());
        state.set(Circuit::Closed.value());
        let opened = counter!(metric::UPSTREAM_OPENED, "upstream" => upstream.to_string());
        opened.absolute(0);
        Self {
            upstream: Arc::clone(upstream),
            settings,
            made: clock::tick(),
            era: AtomicU32::new(0),
            openings: AtomicU32::new(0),
            probe_at: AtomicU64::new(0),
            is_probed: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            window: AtomicU64::new(0),
            opened,
            state,
        }
    }

    /// Leave to ask now: to everybody while it is closed, to one probe whenever its time has come.
    ///
    /// # Errors
    /// When the next probe may go.
    pub fn ask(&self, now: Instant) -> Result<Leave, Instant> {
        let era = self.era.load(Relaxed);
        if !is_open(era) {
            return Ok(Leave { era, is_probe: false });
        }
        let (now, due) = (self.since_made(now), self.probe_at.load(Relaxed));
        // Whoever moves the time has the probe. One that never comes back holds up the next no
        // longer than this.
        let next = now.saturating_add(self.open_ms());
        if due <= now && self.probe_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            self.is_probed.store(true, Relaxed);
            self.state.set(Circuit::HalfOpen.value());
            return Ok(Leave { era, is_probe: true });
        }
        Err(self.made + Duration::from_millis(self.probe_at.load(Relaxed)))
    }

    /// Leave for a call that has no other upstream left.
    pub fn insist(&self) -> Leave {
        Leave { era: self.era.load(Relaxed), is_probe: false }
    }

    /// It answered: that closes the circuit, unless the call was sent before it opened.
    pub fn succeeded(&self, leave: Leave, now: Instant) {
        if !is_open(leave.era) {
            self.failures_in_a_row.store(0, Relaxed);
            self.count(now, 1, 0);
        } else if self.turns(leave.era) {
            self.openings.store(0, Relaxed);
            self.state.set(Circuit::Closed.value());
            tracing::info!(upstream = %self.upstream, "it answers again: its circuit is closed");
        }
    }

    /// It failed. The circuit opens after too many in a row, or too large a part of a window.
    pub fn failed(&self, leave: Leave, now: Instant) {
        if is_open(leave.era) {
            return self.stays_open(leave, now);
        }
        let in_a_row = self.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        let (tries, failures) = self.count(now, 1, 1);
        if self.settings.failures_in_a_row <= in_a_row || self.is_too_much(tries, failures) {
            self.open(leave, now);
        }
    }

    /// It will fail whoever asks, as it refuses the gateway's own credential.
    pub fn refused(&self, leave: Leave, now: Instant) {
        if is_open(leave.era) {
            return self.stays_open(leave, now);
        }
        self.count(now, 1, 1);
        self.open(leave, now);
    }

    /// An answer that had begun broke off: a try that was counted has failed after all.
    pub fn broke_off(&self, now: Instant) {
        let leave = self.insist();
        let (tries, failures) = self.count(now, 0, 1);
        if !is_open(leave.era) && self.is_too_much(tries, failures) {
            self.open(leave, now);
        }
    }

    /// Where it stands, and the tries and failures of the window until now.
    pub fn stands(&self, now: Instant) -> (Circuit, (u32, u32)) {
        let is_due = || self.probe_at.load(Relaxed) <= self.since_made(now);
        let circuit = if !is_open(self.era.load(Relaxed)) {
            Circuit::Closed
        } else if self.is_probed.load(Relaxed) || is_due() {
            Circuit::HalfOpen
        } else {
            Circuit::Open
        };
        (circuit, counts(with(self.window.load(Relaxed), self.window_at(now), 0, 0)))
    }

    fn is_too_much(&self, tries: u32, failures: u32) -> bool {
        let part = self.settings.window_failures_percent;
        self.settings.window_tries_min <= tries && tries * part < failures * 100
    }

    fn open(&self, leave: Leave, now: Instant) {
        if self.turns(leave.era) {
            self.openings.store(1, Relaxed);
            self.opens(now);
            tracing::warn!(upstream = %self.upstream, "it fails: its circuit is open");
        }
    }

    /// A probe that failed makes the next one wait longer; other calls say nothing new.
    fn stays_open(&self, leave: Leave, now: Instant) {
        if leave.is_probe && self.era.load(Relaxed) == leave.era {
            self.openings.fetch_add(1, Relaxed);
            self.opens(now);
        }
    }

    fn opens(&self, now: Instant) {
        self.probe_at.store(self.since_made(now).saturating_add(self.open_ms()), Relaxed);
        self.failures_in_a_row.store(0, Relaxed);
        self.window.store(0, Relaxed);
        self.is_probed.store(false, Relaxed);
        self.state.set(Circuit::Open.value());
        self.opened.increment(1);
    }

    /// Opens or closes, once an era.
    fn turns(&self, era: u32) -> bool {
        self.era.compare_exchange(era, era.wrapping_add(1), Relaxed, Relaxed).is_ok()
    }

    /// How long it stays open: twice as long each time, up to the maximum.
    fn open_ms(&self) -> u64 {
        let doublings = self.openings.load(Relaxed).saturating_sub(1).min(31);
        let least = millis(self.settings.open_min);
        least.saturating_mul(1 << doublings).min(millis(self.settings.open_max))
    }

    /// Counts in the window of `now`; its tries and failures with these.
    fn count(&self, now: Instant, tries: u64, failures: u64) -> (u32, u32) {
        let number = self.window_at(now);
        let more = |window| Some(with(window, number, tries, failures));
        let before = self.window.fetch_update(Relaxed, Relaxed, more).unwrap_or_default();
        counts(with(before, number, tries, failures))
    }

    /// The number of the window in which `now` is; never 0.
    fn window_at(&self, now: Instant) -> u64 {
        let number = self.since_made(now) / millis(self.settings.window).max(1) + 1;
        number & u64::from(u32::MAX)
    }

    fn since_made(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.made))
    }
}

/// The most tries that are told apart in one window.
const COUNT_MAX: u64 = 0xFFFF;

/// The window of that number, which may be another one than `window` is, with more in it.
fn with(window: u64, number: u64, tries: u64, failures: u64) -> u64 {
    let (was, t, f) = (window >> 32, window >> 16 & COUNT_MAX, window & COUNT_MAX);
    let (t, f) = if was == number { (t, f) } else { (0, 0) };
    number << 32 | (t + tries).min(COUNT_MAX) << 16 | (f + failures).min(COUNT_MAX)
}

/// Its tries and its failures.
fn counts(window: u64) -> (u32, u32) {
    let part = |bits: u64| u32::try_from(bits & COUNT_MAX).unwrap_or_default();
    (part(window >> 16), part(window))
}

const fn is_open(era: u32) -> bool {
    era % 2 == 1
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, impl Fn(u64) -> Instant) {
        let settings = CircuitSettings {
            failures_in_a_row: 3,
            window: Duration::from_secs(10),
            window_tries_min: 10,
            window_failures_percent: 50,
            open_min: Duration::from_millis(100),
            open_max: Duration::from_millis(350),
        };
        let breaker = Breaker::new(&"a".into(), settings);
        let made = breaker.made;
        (breaker, move |ms| made + Duration::from_millis(ms))
    }

    fn fails(breaker: &Breaker, now: Instant) {
        let leave = breaker.ask(now).expect("leave");
        breaker.failed(leave, now);
    }

    fn answers(breaker: &Breaker, now: Instant) {
        let leave = breaker.ask(now).expect("leave");
        breaker.succeeded(leave, now);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_answer_begins_anew() {
        let (breaker, at) = breaker();
        fails(&breaker, at(0));
        fails(&breaker, at(1));
        answers(&breaker, at(2));
        fails(&breaker, at(3));
        fails(&breaker, at(4));
        assert!(breaker.ask(at(5)).is_ok(), "two in a row are not three");
        fails(&breaker, at(6));
        assert_eq!(breaker.stands(at(6)), (Circuit::Open, (0, 0)), "it counts anew");
        assert_eq!(breaker.ask(at(7)), Err(at(106)));
    }

    #[test]
    fn it_lets_one_probe_through_at_a_time_and_waits_twice_as_long_after_each_that_fails() {
        let (breaker, at) = breaker();
        (0..3).for_each(|_| fails(&breaker, at(0)));
        for (due, next) in [(100, 300), (300, 650), (650, 1_000)] {
            assert!(breaker.ask(at(due - 1)).is_err(), "not before {due}");
            let probe = breaker.ask(at(due)).expect("a probe");
            assert!(breaker.ask(at(due)).is_err(), "one at a time");
            breaker.failed(probe, at(due));
            assert_eq!(breaker.ask(at(due)), Err(at(next)));
        }
        let probe = breaker.ask(at(1_000)).expect("a probe");
        breaker.succeeded(probe, at(1_001));
        assert!(breaker.ask(at(1_001)).is_ok() && breaker.ask(at(1_001)).is_ok(), "closed");
        (0..3).for_each(|_| fails(&breaker, at(1_002)));
        assert_eq!(breaker.ask(at(1_002)), Err(at(1_102)), "the doubling begins anew");
    }

    #[test]
    fn a_probe_that_never_comes_back_is_followed_by_another() {
        let (breaker, at) = breaker();
        (0..3).for_each(|_| fails(&breaker, at(0)));
        assert_eq!(breaker.stands(at(99)).0, Circuit::Open);
        assert_eq!(breaker.stands(at(100)).0, Circuit::HalfOpen, "a probe may go");
        breaker.ask(at(150)).expect("a probe");
        assert_eq!(breaker.stands(at(150)).0, Circuit::HalfOpen);
        assert_eq!(breaker.ask(at(150)), Err(at(250)));
        breaker.ask(at(250)).expect("the next");
    }

    #[test]
    fn what_was_sent_before_it_opened_neither_closes_it_nor_makes_it_wait_longer() {
        let (breaker, at) = breaker();
        let early = breaker.ask(at(0)).expect("leave");
        (0..3).for_each(|_| fails(&breaker, at(0)));
        breaker.succeeded(early, at(1));
        breaker.failed(early, at(1));
        assert_eq!(breaker.ask(at(2)), Err(at(100)));
        // Who had to ask all the same, and was answered, has proven it.
        let insisting = breaker.insist();
        breaker.failed(insisting, at(3));
        assert_eq!(breaker.ask(at(3)), Err(at(100)));
        breaker.succeeded(insisting, at(4));
        assert!(breaker.ask(at(4)).is_ok());
    }

    #[test]
    fn it_opens_when_more_than_the_given_part_of_a_window_failed() {
        let (breaker, at) = breaker();
        for ms in 0..5 {
            fails(&breaker, at(ms));
            answers(&breaker, at(ms));
        }
        assert!(breaker.ask(at(9)).is_ok(), "half is not more than half");
        assert_eq!(breaker.stands(at(9)), (Circuit::Closed, (10, 5)));
        assert_eq!(breaker.stands(at(10_000)).1, (0, 0), "another window");
        fails(&breaker, at(9));
        assert!(breaker.ask(at(10)).is_err());
    }

    #[test]
    fn windows_do_not_add_up_and_few_tries_prove_nothing() {
        let (breaker, at) = breaker();
        for window in 0..9 {
            for _ in 0..2 {
                fails(&breaker, at(window * 10_000));
            }
            answers(&breaker, at(window * 10_000));
        }
        assert!(breaker.ask(at(90_000)).is_ok());
    }

    #[test]
    fn answers_that_break_off_open_it_by_their_part_of_the_window() {
        let (breaker, at) = breaker();
        for ms in 0..9 {
            answers(&breaker, at(ms));
            breaker.broke_off(at(ms));
        }
        assert!(breaker.ask(at(9)).is_ok());
        answers(&breaker, at(10));
        breaker.broke_off(at(10));
        assert!(breaker.ask(at(11)).is_err());
    }

    #[test]
    fn a_refused_credential_opens_it_at_once() {
        let (breaker, at) = breaker();
        let leave = breaker.ask(at(0)).expect("leave");
        breaker.refused(leave, at(0));
        assert_eq!(breaker.ask(at(1)), Err(at(100)));
    }
}
