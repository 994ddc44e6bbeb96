//! States: what providers keep for a project, known by the ids that it was given.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState as FastHash;

use crate::domain::time::UnixMs;
use crate::store::provider_states::{KEPT_MAX, KEPT_MS, StateKey};

/// The newest ids of a project, at most 100,000 and none older than 30 days.
#[derive(Debug, Default)]
pub struct States {
    kept: HashMap<StateKey, Kept, FastHash>,
    by_age: VecDeque<StateKey>,
}

/// What an id names is kept there, since then.
#[derive(Debug)]
struct Kept {
    upstream: Arc<str>,
    at: UnixMs,
}

impl Kept {
    const fn is_over(&self, now: UnixMs) -> bool {
        self.at.0 + KEPT_MS < now.0
    }
}

impl States {
    /// Notes that the project was given an id at `now`. One that comes again is as old as it was,
    /// and stays where it was made.
    pub fn keep(&mut self, key: StateKey, upstream: Arc<str>, now: UnixMs) {
        while self.oldest().is_some_and(|oldest| oldest.is_over(now)) {
            self.forget_oldest();
        }
        if self.kept.contains_key(&key) {
            return;
        }
        if KEPT_MAX <= self.by_age.len() {
            self.forget_oldest();
        }
        self.kept.insert(key, Kept { upstream, at: now });
        self.by_age.push_back(key);
    }

    /// The upstream that gave the project this id.
    pub fn upstream(&self, key: &StateKey, now: UnixMs) -> Option<Arc<str>> {
        let kept = self.kept.get(key).filter(|kept| !kept.is_over(now))?;
        Some(Arc::clone(&kept.upstream))
    }

    fn oldest(&self) -> Option<&Kept> {
        self.kept.get(self.by_age.front()?)
    }

    fn forget_oldest(&mut self) {
        if let Some(key) = self.by_age.pop_front() {
            self.kept.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> StateKey {
        (number as u128).to_le_bytes()
    }

    #[test]
    fn an_id_is_known_for_30_days_where_it_was_first_given() {
        let mut states = States::default();
        states.keep(key(1), "first".into(), UnixMs(5));
        states.keep(key(1), "second".into(), UnixMs(9));
        let at = |states: &States, now| states.upstream(&key(1), UnixMs(now));
        assert_eq!(at(&states, KEPT_MS + 5).as_deref(), Some("first"));
        assert_eq!(at(&states, KEPT_MS + 6), None);
        assert_eq!(states.upstream(&key(2), UnixMs(9)), None);
        states.keep(key(1), "second".into(), UnixMs(KEPT_MS + 6));
        assert_eq!(at(&states, KEPT_MS + 6).as_deref(), Some("second"), "given anew");
        assert_eq!((states.kept.len(), states.by_age.len()), (1, 1));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut states = States::default();
        for number in 0..=KEPT_MAX {
            states.keep(key(number), "u".into(), UnixMs(0));
        }
        assert_eq!((states.kept.len(), states.by_age.len()), (KEPT_MAX, KEPT_MAX));
        assert_eq!(states.upstream(&key(0), UnixMs(0)), None);
        assert!(states.upstream(&key(1), UnixMs(0)).is_some());
    }
}
