//! An index of the objects that providers store for a project: which upstream issued which id.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState as FastHash;

use crate::domain::time::UnixMs;
use crate::store::provider_states::{STATE_RETENTION_MS, STATES_PER_PROJECT_MAX, StateKey};

/// The newest ids of a project: at most `KEPT_MAX`, none older than `KEPT_MS`.
#[derive(Debug, Default)]
pub struct ProviderStateIndex {
    entries: HashMap<StateKey, StateEntry, FastHash>,
    by_age: VecDeque<StateKey>,
}

#[derive(Debug)]
struct StateEntry {
    upstream: Arc<str>,
    at: UnixMs,
}

impl StateEntry {
    const fn is_expired(&self, now: UnixMs) -> bool {
        self.at.0 + STATE_RETENTION_MS < now.0
    }
}

impl ProviderStateIndex {
    /// Records that `upstream` issued an id at `now`. An id that exists keeps its age and upstream.
    pub fn insert(&mut self, key: StateKey, upstream: Arc<str>, now: UnixMs) {
        while self.oldest().is_some_and(|oldest| oldest.is_expired(now)) {
            self.evict_oldest();
        }
        if self.entries.contains_key(&key) {
            return;
        }
        if STATES_PER_PROJECT_MAX <= self.by_age.len() {
            self.evict_oldest();
        }
        self.entries.insert(key, StateEntry { upstream, at: now });
        self.by_age.push_back(key);
    }

    /// Returns the upstream that issued this id.
    pub fn upstream(&self, key: &StateKey, now: UnixMs) -> Option<Arc<str>> {
        let entry = self.entries.get(key).filter(|entry| !entry.is_expired(now))?;
        Some(Arc::clone(&entry.upstream))
    }

    fn oldest(&self) -> Option<&StateEntry> {
        self.entries.get(self.by_age.front()?)
    }

    fn evict_oldest(&mut self) {
        if let Some(key) = self.by_age.pop_front() {
            self.entries.remove(&key);
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
    fn an_id_resolves_to_its_first_upstream_for_30_days() {
        let mut states = ProviderStateIndex::default();
        states.insert(key(1), "first".into(), UnixMs(5));
        states.insert(key(1), "second".into(), UnixMs(9));
        let at = |states: &ProviderStateIndex, now| states.upstream(&key(1), UnixMs(now));
        assert_eq!(at(&states, STATE_RETENTION_MS + 5).as_deref(), Some("first"));
        assert_eq!(at(&states, STATE_RETENTION_MS + 6), None);
        assert_eq!(states.upstream(&key(2), UnixMs(9)), None);
        states.insert(key(1), "second".into(), UnixMs(STATE_RETENTION_MS + 6));
        assert_eq!(at(&states, STATE_RETENTION_MS + 6).as_deref(), Some("second"), "issued again");
        assert_eq!((states.entries.len(), states.by_age.len()), (1, 1));
    }

    #[test]
    fn the_oldest_entry_is_evicted_at_capacity() {
        let mut states = ProviderStateIndex::default();
        for number in 0..=STATES_PER_PROJECT_MAX {
            states.insert(key(number), "u".into(), UnixMs(0));
        }
        assert_eq!(
            (states.entries.len(), states.by_age.len()),
            (STATES_PER_PROJECT_MAX, STATES_PER_PROJECT_MAX)
        );
        assert_eq!(states.upstream(&key(0), UnixMs(0)), None);
        assert!(states.upstream(&key(1), UnixMs(0)).is_some());
    }
}
