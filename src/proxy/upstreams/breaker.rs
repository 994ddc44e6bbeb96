//! The circuit breaker of an upstream. An upstream with an open circuit is tried after the others.
//!
//! All workers share a breaker. It consists of atomics only: when two threads race, one result more
//! or less may be counted, but no thread waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};

use crate::clock;
use crate::domain::status::CircuitState;
use crate::settings::upstream::CircuitSettings;
use crate::telemetry::metric;

/// The circuit breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    upstream: Arc<str>,
    settings: CircuitSettings,
    /// All times in a breaker are milliseconds since this instant.
    created_at: Instant,
    /// Incremented whenever the circuit opens or closes; odd while the circuit is open.
    generation: AtomicU32,
    /// How many times the circuit has opened since it was last closed.
    consecutive_opens: AtomicU32,
    /// When the next probe is allowed, while the circuit is open.
    probe_at: AtomicU64,
    probe_in_flight: AtomicBool,
    failures_in_a_row: AtomicU32,
    /// Packed: window number (32 bits), attempts (16) and failures (16).
    window: AtomicU64,
    opened: Counter,
    state: Gauge,
}

/// Permission to call an upstream. The result of the call is recorded with the same pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPass {
    generation: u32,
    is_probe: bool,
}

impl CircuitState {
    /// The value of the metric.
    const fn value(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

impl Breaker {
    /// Returns a closed breaker.
    pub fn new(upstream: &Arc<str>, settings: CircuitSettings) -> Self {
        let state = gauge!(metric::UPSTREAM_CIRCUIT, "upstream" => upstream.to_string());
        state.set(CircuitState::Closed.value());
        let opened = counter!(metric::UPSTREAM_CIRCUIT_OPENED, "upstream" => upstream.to_string());
        opened.absolute(0);
        Self {
            upstream: Arc::clone(upstream),
            settings,
            created_at: clock::monotonic_now(),
            generation: AtomicU32::new(0),
            consecutive_opens: AtomicU32::new(0),
            probe_at: AtomicU64::new(0),
            probe_in_flight: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            window: AtomicU64::new(0),
            opened,
            state,
        }
    }

    /// Grants a pass: always while the circuit is closed, and to one probe per open period.
    ///
    /// # Errors
    /// The instant at which the next probe is allowed.
    pub fn try_acquire(&self, now: Instant) -> Result<BreakerPass, Instant> {
        let generation = self.generation.load(Relaxed);
        if !is_open(generation) {
            return Ok(BreakerPass { generation, is_probe: false });
        }
        let (now, due) = (self.ms_since_creation(now), self.probe_at.load(Relaxed));
        // The thread that advances `probe_at` gets the probe. If that probe is never answered, the
        // next one is allowed at `next`.
        let next = now.saturating_add(self.open_ms());
        if due <= now && self.probe_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            self.probe_in_flight.store(true, Relaxed);
            self.state.set(CircuitState::HalfOpen.value());
            return Ok(BreakerPass { generation, is_probe: true });
        }
        Err(self.created_at + Duration::from_millis(self.probe_at.load(Relaxed)))
    }

    /// Grants a pass to a call that has no other upstream left.
    pub fn force_acquire(&self) -> BreakerPass {
        BreakerPass { generation: self.generation.load(Relaxed), is_probe: false }
    }

    /// Records a response. Closes an open circuit unless the call was sent before it opened.
    pub fn record_success(&self, pass: BreakerPass, now: Instant) {
        if !is_open(pass.generation) {
            self.failures_in_a_row.store(0, Relaxed);
            self.count(now, 1, 0);
        } else if self.advance_generation(pass.generation) {
            self.consecutive_opens.store(0, Relaxed);
            self.state.set(CircuitState::Closed.value());
            tracing::info!(upstream = %self.upstream, "circuit closed");
        }
    }

    /// Records a failure. Opens the circuit after too many consecutive failures, or if the failure
    /// rate of the window is too high.
    pub fn record_failure(&self, pass: BreakerPass, now: Instant) {
        if is_open(pass.generation) {
            return self.failed_while_open(pass, now);
        }
        let in_a_row = self.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        let (attempts, failures) = self.count(now, 1, 1);
        if self.settings.failures_in_a_row <= in_a_row
            || self.failure_rate_exceeded(attempts, failures)
        {
            self.open(pass, now);
        }
    }

    /// Opens the circuit: the upstream rejected the gateway's credential, so every call would fail.
    pub fn record_credential_refusal(&self, pass: BreakerPass, now: Instant) {
        if is_open(pass.generation) {
            return self.failed_while_open(pass, now);
        }
        self.count(now, 1, 1);
        self.open(pass, now);
    }

    /// Turns an attempt that was counted as a success into a failure: its response broke off.
    pub fn record_interruption(&self, now: Instant) {
        let pass = self.force_acquire();
        let (attempts, failures) = self.count(now, 0, 1);
        if !is_open(pass.generation) && self.failure_rate_exceeded(attempts, failures) {
            self.open(pass, now);
        }
    }

    /// Returns the state, and the attempts and failures of the current window.
    pub fn snapshot(&self, now: Instant) -> (CircuitState, (u32, u32)) {
        let is_due = || self.probe_at.load(Relaxed) <= self.ms_since_creation(now);
        let circuit = if !is_open(self.generation.load(Relaxed)) {
            CircuitState::Closed
        } else if self.probe_in_flight.load(Relaxed) || is_due() {
            CircuitState::HalfOpen
        } else {
            CircuitState::Open
        };
        (circuit, counts(add_to_window(self.window.load(Relaxed), self.window_number(now), 0, 0)))
    }

    fn failure_rate_exceeded(&self, attempts: u32, failures: u32) -> bool {
        let percent = self.settings.window_failures_percent;
        self.settings.window_attempts_min <= attempts && attempts * percent < failures * 100
    }

    fn open(&self, pass: BreakerPass, now: Instant) {
        if self.advance_generation(pass.generation) {
            self.consecutive_opens.store(1, Relaxed);
            self.start_open_period(now);
            tracing::warn!(upstream = %self.upstream, "circuit opened");
        }
    }

    /// Extends the open period if a probe failed. Failures of other calls change nothing.
    fn failed_while_open(&self, pass: BreakerPass, now: Instant) {
        if pass.is_probe && self.generation.load(Relaxed) == pass.generation {
            self.consecutive_opens.fetch_add(1, Relaxed);
            self.start_open_period(now);
        }
    }

    fn start_open_period(&self, now: Instant) {
        self.probe_at.store(self.ms_since_creation(now).saturating_add(self.open_ms()), Relaxed);
        self.failures_in_a_row.store(0, Relaxed);
        self.window.store(0, Relaxed);
        self.probe_in_flight.store(false, Relaxed);
        self.state.set(CircuitState::Open.value());
        self.opened.increment(1);
    }

    /// Moves to the next generation; false if another thread already did.
    fn advance_generation(&self, generation: u32) -> bool {
        self.generation
            .compare_exchange(generation, generation.wrapping_add(1), Relaxed, Relaxed)
            .is_ok()
    }

    /// How long the circuit stays open: doubled with each consecutive opening, up to the maximum.
    fn open_ms(&self) -> u64 {
        let doublings = self.consecutive_opens.load(Relaxed).saturating_sub(1).min(31);
        let min_ms = millis(self.settings.open_min);
        min_ms.saturating_mul(1 << doublings).min(millis(self.settings.open_max))
    }

    /// Counts in the window of `now`. Returns the totals of that window.
    fn count(&self, now: Instant, attempts: u64, failures: u64) -> (u32, u32) {
        let number = self.window_number(now);
        let updated = |window| Some(add_to_window(window, number, attempts, failures));
        let before = self.window.fetch_update(Relaxed, Relaxed, updated).unwrap_or_default();
        counts(add_to_window(before, number, attempts, failures))
    }

    /// The number of the window that contains `now`; never 0.
    fn window_number(&self, now: Instant) -> u64 {
        let number = self.ms_since_creation(now) / millis(self.settings.window).max(1) + 1;
        number & u64::from(u32::MAX)
    }

    fn ms_since_creation(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.created_at))
    }
}

/// Counts of one window saturate at this value.
const COUNT_MAX: u64 = 0xFFFF;

/// Adds to the packed `window`, or to an empty one if `window` has another number.
fn add_to_window(window: u64, number: u64, attempts: u64, failures: u64) -> u64 {
    let (current, t, f) = (window >> 32, window >> 16 & COUNT_MAX, window & COUNT_MAX);
    let (t, f) = if current == number { (t, f) } else { (0, 0) };
    number << 32 | (t + attempts).min(COUNT_MAX) << 16 | (f + failures).min(COUNT_MAX)
}

/// Attempts and failures of a packed window.
fn counts(window: u64) -> (u32, u32) {
    let part = |bits: u64| u32::try_from(bits & COUNT_MAX).unwrap_or_default();
    (part(window >> 16), part(window))
}

const fn is_open(generation: u32) -> bool {
    generation % 2 == 1
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
            window_attempts_min: 10,
            window_failures_percent: 50,
            open_min: Duration::from_millis(100),
            open_max: Duration::from_millis(350),
        };
        let breaker = Breaker::new(&"a".into(), settings);
        let created_at = breaker.created_at;
        (breaker, move |ms| created_at + Duration::from_millis(ms))
    }

    fn fail(breaker: &Breaker, now: Instant) {
        let pass = breaker.try_acquire(now).expect("a pass");
        breaker.record_failure(pass, now);
    }

    fn succeed(breaker: &Breaker, now: Instant) {
        let pass = breaker.try_acquire(now).expect("a pass");
        breaker.record_success(pass, now);
    }

    #[test]
    fn opens_after_consecutive_failures_and_a_success_resets_the_count() {
        let (breaker, at) = breaker();
        fail(&breaker, at(0));
        fail(&breaker, at(1));
        succeed(&breaker, at(2));
        fail(&breaker, at(3));
        fail(&breaker, at(4));
        assert!(breaker.try_acquire(at(5)).is_ok(), "two in a row are not three");
        fail(&breaker, at(6));
        assert_eq!(breaker.snapshot(at(6)), (CircuitState::Open, (0, 0)), "it counts anew");
        assert_eq!(breaker.try_acquire(at(7)), Err(at(106)));
    }

    #[test]
    fn lets_one_probe_through_at_a_time_and_doubles_the_open_period_after_a_failed_one() {
        let (breaker, at) = breaker();
        (0..3).for_each(|_| fail(&breaker, at(0)));
        for (due, next) in [(100, 300), (300, 650), (650, 1_000)] {
            assert!(breaker.try_acquire(at(due - 1)).is_err(), "not before {due}");
            let probe = breaker.try_acquire(at(due)).expect("a probe");
            assert!(breaker.try_acquire(at(due)).is_err(), "one at a time");
            breaker.record_failure(probe, at(due));
            assert_eq!(breaker.try_acquire(at(due)), Err(at(next)));
        }
        let probe = breaker.try_acquire(at(1_000)).expect("a probe");
        breaker.record_success(probe, at(1_001));
        assert!(
            breaker.try_acquire(at(1_001)).is_ok() && breaker.try_acquire(at(1_001)).is_ok(),
            "closed"
        );
        (0..3).for_each(|_| fail(&breaker, at(1_002)));
        assert_eq!(breaker.try_acquire(at(1_002)), Err(at(1_102)), "the doubling begins anew");
    }

    #[test]
    fn a_lost_probe_is_replaced_after_the_open_period() {
        let (breaker, at) = breaker();
        (0..3).for_each(|_| fail(&breaker, at(0)));
        assert_eq!(breaker.snapshot(at(99)).0, CircuitState::Open);
        assert_eq!(breaker.snapshot(at(100)).0, CircuitState::HalfOpen, "a probe may go");
        breaker.try_acquire(at(150)).expect("a probe");
        assert_eq!(breaker.snapshot(at(150)).0, CircuitState::HalfOpen);
        assert_eq!(breaker.try_acquire(at(150)), Err(at(250)));
        breaker.try_acquire(at(250)).expect("the next");
    }

    #[test]
    fn results_from_before_it_opened_do_not_change_an_open_circuit() {
        let (breaker, at) = breaker();
        let early = breaker.try_acquire(at(0)).expect("a pass");
        (0..3).for_each(|_| fail(&breaker, at(0)));
        breaker.record_success(early, at(1));
        breaker.record_failure(early, at(1));
        assert_eq!(breaker.try_acquire(at(2)), Err(at(100)));
        // A forced call that is answered proves that the upstream works.
        let forced = breaker.force_acquire();
        breaker.record_failure(forced, at(3));
        assert_eq!(breaker.try_acquire(at(3)), Err(at(100)));
        breaker.record_success(forced, at(4));
        assert!(breaker.try_acquire(at(4)).is_ok());
    }

    #[test]
    fn opens_when_the_failure_rate_of_a_window_is_exceeded() {
        let (breaker, at) = breaker();
        for ms in 0..5 {
            fail(&breaker, at(ms));
            succeed(&breaker, at(ms));
        }
        assert!(breaker.try_acquire(at(9)).is_ok(), "half is not more than half");
        assert_eq!(breaker.snapshot(at(9)), (CircuitState::Closed, (10, 5)));
        assert_eq!(breaker.snapshot(at(10_000)).1, (0, 0), "another window");
        fail(&breaker, at(9));
        assert!(breaker.try_acquire(at(10)).is_err());
    }

    #[test]
    fn windows_are_counted_separately_and_few_attempts_do_not_open_it() {
        let (breaker, at) = breaker();
        for window in 0..9 {
            for _ in 0..2 {
                fail(&breaker, at(window * 10_000));
            }
            succeed(&breaker, at(window * 10_000));
        }
        assert!(breaker.try_acquire(at(90_000)).is_ok());
    }

    #[test]
    fn interrupted_responses_count_towards_the_failure_rate() {
        let (breaker, at) = breaker();
        for ms in 0..9 {
            succeed(&breaker, at(ms));
            breaker.record_interruption(at(ms));
        }
        assert!(breaker.try_acquire(at(9)).is_ok());
        succeed(&breaker, at(10));
        breaker.record_interruption(at(10));
        assert!(breaker.try_acquire(at(11)).is_err());
    }

    #[test]
    fn a_refused_credential_opens_it_immediately() {
        let (breaker, at) = breaker();
        let pass = breaker.try_acquire(at(0)).expect("a pass");
        breaker.record_credential_refusal(pass, at(0));
        assert_eq!(breaker.try_acquire(at(1)), Err(at(100)));
    }
}
