//! The wall clock and the monotonic clock; all other modules receive the time as a value.

#![expect(clippy::disallowed_methods, reason = "this module alone reads the clocks")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::UnixMs;

static TIMELINE: Timeline = Timeline::new();

/// Returns the wall-clock time, which never steps back while the process runs; see [`Timeline`].
pub fn wall_now() -> UnixMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TIMELINE.at(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX), monotonic_now)
}

pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// Returns the time elapsed since `start`.
pub fn elapsed_since(start: Instant) -> Duration {
    start.elapsed()
}

/// A wall clock that never steps back. When the system clock does, the timeline continues from its
/// latest value at half speed until the system clock has caught up. So no window occurs twice, none
/// lasts for hours, and later entries have later timestamps.
#[derive(Debug)]
struct Timeline {
    /// The latest time returned, in milliseconds since 1970.
    latest: AtomicI64,
    /// The time and instant at which half speed began; unused while the system clock is ahead.
    slow_from: Mutex<Option<(i64, Instant)>>,
}

/// A smaller difference is not a step: threads may report their clock readings out of order.
const STEP_MS: i64 = 1_000;

impl Timeline {
    const fn new() -> Self {
        Self { latest: AtomicI64::new(i64::MIN), slow_from: Mutex::new(None) }
    }

    fn at(&self, wall: i64, monotonic_now: impl FnOnce() -> Instant) -> UnixMs {
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
        let mut slow_from = self.slow_from.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, latest) = (monotonic_now(), self.latest.load(Ordering::Relaxed));
        let half_speed = |(from, started): (i64, Instant)| {
            let elapsed = now.saturating_duration_since(started).as_millis() / 2;
            from.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))
        };
        // If the system clock was ahead in the meantime, this is a new step back.
        let slowed =
            slow_from.map(half_speed).filter(|slowed| latest <= *slowed).unwrap_or_else(|| {
                *slow_from = Some((latest, now));
                latest
            });
        self.latest.fetch_max(slowed, Ordering::Relaxed);
        UnixMs(slowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn time_continues_at_half_speed_until_the_wall_clock_has_caught_up() {
        let (timeline, start) = (Timeline::new(), Instant::now());
        let at = |wall, hours: i64| {
            let passed = Duration::from_millis(u64::try_from(hours * HOUR).expect("not below 0"));
            timeline.at(wall, || start + passed).0
        };
        assert_eq!(at(100 * HOUR, 0), 100 * HOUR);
        assert_eq!(at(100 * HOUR - 10, 0), 100 * HOUR, "a few milliseconds are not a step");
        assert_eq!(at(98 * HOUR, 0), 100 * HOUR);
        assert_eq!(at(99 * HOUR, 1), 100 * HOUR + HOUR / 2);
        assert_eq!(at(100 * HOUR, 2), 101 * HOUR);
        assert_eq!(at(102 * HOUR, 4), 102 * HOUR, "caught up");
        assert_eq!(at(110 * HOUR, 12), 110 * HOUR, "at full speed");
        assert_eq!(at(105 * HOUR, 12), 110 * HOUR, "another step back");
        assert_eq!(at(106 * HOUR, 13), 110 * HOUR + HOUR / 2);
        assert_eq!(at(200 * HOUR, 13), 200 * HOUR, "a step forward is taken over");
        assert_eq!(at(110 * HOUR, 13), 200 * HOUR);
        assert_eq!(at(111 * HOUR, 14), 200 * HOUR + HOUR / 2);
    }
}
