//! Rest: the models that an upstream asked not to be called for, by `Retry-After`, and until when.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;
use http::HeaderMap;

use crate::clock;
use crate::domain::time::{Day, UnixMs};

/// How many models of one upstream can rest at a time. Two that share a place forget each other.
const PLACES: usize = 64;

/// Which models of an upstream rest. Shared by all workers, without a lock.
#[derive(Debug)]
pub struct Rests {
    made: Instant,
    /// A mark of the model, and until when in tenths of a second since `made`: 32 bits each.
    places: [AtomicU64; PLACES],
}

impl Default for Rests {
    fn default() -> Self {
        Self { made: clock::tick(), places: [const { AtomicU64::new(0) }; PLACES] }
    }
}

impl Rests {
    /// Lets `model` rest until `time` from `now` has passed.
    pub fn begin(&self, model: &str, now: Instant, time: Duration) {
        let (place, mark) = place(model);
        let until = (now + time).saturating_duration_since(self.made).as_millis().div_ceil(100);
        let until = u32::try_from(until).unwrap_or(u32::MAX);
        self.places[place].store(mark << 32 | u64::from(until), Relaxed);
    }

    /// Until when `model` rests, if it does at `now`.
    pub fn until(&self, model: &str, now: Instant) -> Option<Instant> {
        let (place, mark) = place(model);
        let kept = self.places[place].load(Relaxed);
        let until = self.made + Duration::from_millis((kept & u64::from(u32::MAX)) * 100);
        (kept >> 32 == mark && now < until).then_some(until)
    }
}

fn place(model: &str) -> (usize, u64) {
    let hash = FixedState::default().hash_one(model);
    (usize::try_from(hash % PLACES as u64).unwrap_or_default(), hash >> 32)
}

/// How long an answer asks to be left alone: `retry-after-ms`, else `Retry-After` in seconds or as a
/// date, as seen at `now`.
pub fn asked_for(headers: &HeaderMap, now: UnixMs) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let whole = |text: &str| text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok();
    if let Some(ms) = text("retry-after-ms").and_then(whole) {
        return Some(Duration::from_millis(ms));
    }
    let text = text("retry-after")?;
    whole(text).map(Duration::from_secs).or_else(|| {
        let ms = u64::try_from(date(text)?.0 - now.0).unwrap_or_default();
        Some(Duration::from_millis(ms))
    })
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<UnixMs> {
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
    fn a_model_rests_alone_and_until_its_time() {
        let rests = Rests::default();
        let at = |ms| rests.made + Duration::from_millis(ms);
        rests.begin("gpt-4o", at(1_000), Duration::from_secs(2));
        assert_eq!(rests.until("gpt-4o", at(1_000)), Some(at(3_000)));
        assert!(rests.until("gpt-4o", at(2_999)).is_some());
        assert_eq!(rests.until("gpt-4o", at(3_000)), None);
        assert_eq!(rests.until("gpt-4o-mini", at(1_000)), None);
        assert_eq!(rests.until("", at(0)), None, "none rests at first");
    }

    #[test]
    fn the_time_is_read_in_all_its_forms() {
        let now = UnixMs(784_111_777_000);
        for (name, value, asked) in [
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
            assert_eq!(asked_for(&headers, now), asked.map(Duration::from_millis), "{value}");
        }
        let mut both = HeaderMap::new();
        both.insert("retry-after", "9".parse().expect("a value"));
        both.insert("retry-after-ms", "30".parse().expect("a value"));
        assert_eq!(asked_for(&both, now), Some(Duration::from_millis(30)));
    }
}
