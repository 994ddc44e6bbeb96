//! Exact input token counts of request bodies. Needed only near a limit, where the bound of one token
//! per byte would refuse calls that fit.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use foldhash::quality::RandomState;

use crate::dialect::endpoint::Endpoint;
use crate::dialect::{prompt, tokenizer};
use crate::domain::catalog::{Model, Target};
use crate::tasks;

/// Number of cached bodies. The provider's count of an identical body is more exact than the
/// gateway's tokenizer.
const ENTRIES_MAX: usize = 4_096;

/// Input tokens that providers reported, by request body.
#[derive(Debug)]
pub struct InputTokenCache {
    hasher: RandomState,
    /// Indexed by fingerprint; a newer entry replaces the one in its slot.
    entries: Mutex<Vec<Option<(Fingerprint, u64)>>>,
}

/// A hash of endpoint, model and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Default for InputTokenCache {
    fn default() -> Self {
        Self { hasher: RandomState::default(), entries: Mutex::new(vec![None; ENTRIES_MAX]) }
    }
}

impl InputTokenCache {
    /// Returns the fingerprint of a body. It includes the endpoint, because endpoints interpret the same
    /// body differently.
    pub fn fingerprint(&self, endpoint: Endpoint, model: impl Hash, body: &[u8]) -> Fingerprint {
        Fingerprint(self.hasher.hash_one((endpoint, model, body)))
    }

    /// Stores the input tokens that a provider reported for a body.
    pub fn insert(&self, body: Fingerprint, tokens: u64) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries[slot(body)] = Some((body, tokens));
    }

    /// Returns the input tokens that a provider reported for this body before.
    pub fn get(&self, body: Fingerprint) -> Option<u64> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries[slot(body)].filter(|(fingerprint, _)| *fingerprint == body).map(|(_, count)| count)
    }
}

fn slot(body: Fingerprint) -> usize {
    usize::try_from(body.0 % ENTRIES_MAX as u64).unwrap_or_default()
}

/// Tokenizes a body on a blocking thread with the vocabularies of all targets of its model and returns
/// the largest count. `None` if the text does not bound the tokens or is too long to tokenize.
pub async fn count_tokens(endpoint: Endpoint, model: &Model, body: Bytes) -> Option<u64> {
    let name = |target: &Target| target.upstream_model.clone().unwrap_or(Arc::clone(&model.name));
    let mut names: Vec<Arc<str>> = model.targets.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    tasks::run_blocking(move || {
        let prompt = prompt::extract(endpoint, &body);
        let counts = names.iter().map(|name| tokenizer::count(name, endpoint.dialect(), &prompt));
        counts.max().filter(|_| prompt.is_text_only)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_keyed_by_endpoint_model_and_body() {
        let cache = InputTokenCache::default();
        let chat =
            |model: &str, body: &[u8]| cache.fingerprint(Endpoint::ChatCompletions, model, body);
        assert_eq!(cache.get(chat("a", b"{}")), None);
        cache.insert(chat("a", b"{}"), 7);
        assert_eq!(cache.get(chat("a", b"{}")), Some(7));
        assert_eq!(cache.get(chat("b", b"{}")), None);
        assert_eq!(cache.get(chat("a", b"{ }")), None);
        assert_eq!(cache.get(cache.fingerprint(Endpoint::Messages, "a", b"{}")), None);
    }

    #[test]
    fn many_entries_are_cached_together() {
        let cache = InputTokenCache::default();
        let named = |n: u8| cache.fingerprint(Endpoint::Messages, "a", &[n]);
        let bodies = || (0..8).map(|n| (named(n), u64::from(n)));
        bodies().for_each(|(body, tokens)| cache.insert(body, tokens));
        // Some may share a slot by chance, hardly all.
        assert!(1 < bodies().filter(|(body, tokens)| cache.get(*body) == Some(*tokens)).count());
    }
}
