//! Cooldowns: models for which an upstream requested a pause with `Retry-After`.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;
use http::HeaderMap;

use crate::clock;
use crate::domain::time::{Day, UnixMs};

/// How many models of an upstream can cool down at a time. Two models in the same slot replace each
/// other.
const SLOTS: usize = 64;

/// The models of an upstream that cool down. Shared by all workers without a lock.
#[derive(Debug)]
pub struct Cooldowns {
    created_at: Instant,
    /// Packed: a hash of the model, and the end in tenths of a second since `created_at`, 32 bits
    /// each.
    slots: [AtomicU64; SLOTS],
}

impl Default for Cooldowns {
    fn default() -> Self {
        Self { created_at: clock::monotonic_now(), slots: [const { AtomicU64::new(0) }; SLOTS] }
    }
}

impl Cooldowns {
    /// Starts a cooldown of `model`.
    pub fn start(&self, model: &str, now: Instant, duration: Duration) {
        let (slot, tag) = slot_and_tag(model);
        let until =
            (now + duration).saturating_duration_since(self.created_at).as_millis().div_ceil(100);
        let until = u32::try_from(until).unwrap_or(u32::MAX);
        self.slots[slot].store(tag << 32 | u64::from(until), Relaxed);
    }

    /// Returns the end of the cooldown of `model`, if one is active at `now`.
    pub fn active_until(&self, model: &str, now: Instant) -> Option<Instant> {
        let (slot, tag) = slot_and_tag(model);
        let entry = self.slots[slot].load(Relaxed);
        let until = self.created_at + Duration::from_millis((entry & u64::from(u32::MAX)) * 100);
        (entry >> 32 == tag && now < until).then_some(until)
    }
}

fn slot_and_tag(model: &str) -> (usize, u64) {
    let hash = FixedState::default().hash_one(model);
    (usize::try_from(hash % SLOTS as u64).unwrap_or_default(), hash >> 32)
}

/// Returns the pause that a response requests: `retry-after-ms`, else `Retry-After` in seconds or as a
/// date relative to `now`.
pub fn retry_after(headers: &HeaderMap, now: UnixMs) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let integer = |text: &str| text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok();
    if let Some(ms) = text("retry-after-ms").and_then(integer) {
        return Some(Duration::from_millis(ms));
    }
    let text = text("retry-after")?;
    integer(text).map(Duration::from_secs).or_else(|| {
        let ms = u64::try_from(parse_http_date(text)?.0 - now.0).unwrap_or_default();
        Some(Duration::from_millis(ms))
    })
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Parses an HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_http_date(text: &str) -> Option<UnixMs> {
    let (_, text) = text.split_once(", ")?;
    let parts: Vec<&str> = text.strip_suffix(" GMT")?.split([' ', ':']).collect();
    let [day, month, year, hour, minute, second] = parts[..] else { return None };
    let number =
        |text: &str| text.parse::<i64>().ok().filter(|number| (0..10_000).contains(number));
    let month = MONTHS.iter().zip(1..).find(|(name, _)| **name == month)?.1;
    let day = Day::from_civil(number(year)?, month, number(day)?);
    let seconds = (number(hour)? * 60 + number(minute)?) * 60 + number(second)?;
    Some(UnixMs(day.start().0 + seconds * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cooldown_covers_one_model_until_it_expires() {
        let cooldowns = Cooldowns::default();
        let at = |ms| cooldowns.created_at + Duration::from_millis(ms);
        cooldowns.start("gpt-4o", at(1_000), Duration::from_secs(2));
        assert_eq!(cooldowns.active_until("gpt-4o", at(1_000)), Some(at(3_000)));
        assert!(cooldowns.active_until("gpt-4o", at(2_999)).is_some());
        assert_eq!(cooldowns.active_until("gpt-4o", at(3_000)), None);
        assert_eq!(cooldowns.active_until("gpt-4o-mini", at(1_000)), None);
        assert_eq!(cooldowns.active_until("", at(0)), None, "initially empty");
    }

    #[test]
    fn retry_after_is_parsed_in_every_form() {
        let now = UnixMs(784_111_777_000);
        for (name, value, expected) in [
            ("retry-after", "7", Some(7_000)),
            ("retry-after", " 1.5", Some(1_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("retry-after", "Sun, 06 Foo 1994 08:49:07 GMT", None),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after", "Sun, 06 Nov 1994 08:49 GMT", None),
            ("retry-after-ms", "250", Some(250)),
            ("x-retry", "1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_millis), "{value}");
        }
        let mut both = HeaderMap::new();
        both.insert("retry-after", "9".parse().expect("a value"));
        both.insert("retry-after-ms", "30".parse().expect("a value"));
        assert_eq!(retry_after(&both, now), Some(Duration::from_millis(30)));
    }
}
