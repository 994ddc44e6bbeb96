//! The one home of clocks.

#![expect(clippy::disallowed_methods, reason = "this is where the clocks are read")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::UnixMs;

static TIMELINE: Timeline = Timeline::new();

/// The wall clock, which does not step back while the process runs: see [`Timeline`].
pub fn wall_now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TIMELINE.at(i64::try_from(since.as_millis()).unwrap_or(i64::MAX), monotonic_now)
}

/// The monotonic clock.
pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// How long ago `start` was.
pub fn elapsed_since(start: Instant) -> Duration {
    start.elapsed()
}

/// Time as it is told. When the wall clock steps back, it goes on from where it was, at half speed,
/// until the wall clock has caught up: no window comes again, none lasts for hours, and what is
/// written later has a later time.
#[derive(Debug)]
struct Timeline {
    /// The latest that was told, in milliseconds since 1970.
    latest: AtomicI64,
    /// From where and when on it goes at half speed; means nothing while the wall clock is ahead.
    slow_from: Mutex<Option<(i64, Instant)>>,
}

/// Threads that read the clock one after another may tell what they read in another order.
const STEP_MS: i64 = 1_000;

impl Timeline {
    const fn new() -> Self {
        Self { latest: AtomicI64::new(i64::MIN), slow_from: Mutex::new(None) }
    }

    fn at(&self, wall: i64, tick: impl FnOnce() -> Instant) -> UnixMs {
        let latest = self.latest.load(Ordering::Relaxed);
        if latest < wall {
            self.latest.fetch_max(wall, Ordering::Relaxed);
        }
        if latest <= wall {
            return UnixMs(wall);
        }
        if latest - wall < STEP_MS {
            return UnixMs(latest);
        }
        let mut behind = self.slow_from.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, latest) = (tick(), self.latest.load(Ordering::Relaxed));
        let slow = |(from, since): (i64, Instant)| {
            let passed = now.saturating_duration_since(since).as_millis() / 2;
            from.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
        };
        // Where the wall clock was ahead meanwhile, this step back is another.
        let told = behind.map(slow).filter(|told| latest <= *told).unwrap_or_else(|| {
            *behind = Some((latest, now));
            latest
        });
        self.latest.fetch_max(told, Ordering::Relaxed);
        UnixMs(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn time_goes_on_at_half_speed_until_the_wall_clock_has_caught_up() {
        let (timeline, start) = (Timeline::new(), Instant::now());
        let at = |wall, hours: i64| {
            let passed = Duration::from_millis(u64::try_from(hours * HOUR).expect("not below 0"));
            timeline.at(wall, || start + passed).0
        };
        assert_eq!(at(100 * HOUR, 0), 100 * HOUR);
        assert_eq!(at(100 * HOUR - 10, 0), 100 * HOUR, "a moment is no step");
        assert_eq!(at(98 * HOUR, 0), 100 * HOUR);
        assert_eq!(at(99 * HOUR, 1), 100 * HOUR + HOUR / 2);
        assert_eq!(at(100 * HOUR, 2), 101 * HOUR);
        assert_eq!(at(102 * HOUR, 4), 102 * HOUR, "caught up");
        assert_eq!(at(110 * HOUR, 12), 110 * HOUR, "at full speed");
        assert_eq!(at(105 * HOUR, 12), 110 * HOUR, "another step back");
        assert_eq!(at(106 * HOUR, 13), 110 * HOUR + HOUR / 2);
        assert_eq!(at(200 * HOUR, 13), 200 * HOUR, "a step ahead is believed");
        assert_eq!(at(110 * HOUR, 13), 200 * HOUR);
        assert_eq!(at(111 * HOUR, 14), 200 * HOUR + HOUR / 2);
    }
}
