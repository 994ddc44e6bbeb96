//! Input: how many tokens a body really has. Asked only near a limit, where the loose bound of a
//! token a byte would refuse what fits.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use foldhash::quality::RandomState;

use crate::dialect::endpoint::Endpoint;
use crate::dialect::{prompt, tokenizer};
use crate::domain::catalog::{Model, Target};
use crate::tasks;

/// How many bodies are remembered: the provider's own count of the very same body is better than
/// any of ours.
const KNOWN_MAX: usize = 4_096;

/// What is known of bodies that were counted.
#[derive(Debug)]
pub struct Inputs {
    hasher: RandomState,
    /// By fingerprint, the latest at each place.
    known: Mutex<Vec<Option<(Fingerprint, u64)>>>,
}

/// Names a model and a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Default for Inputs {
    fn default() -> Self {
        Self { hasher: RandomState::default(), known: Mutex::new(vec![None; KNOWN_MAX]) }
    }
}

impl Inputs {
    /// Names a body that is meant for a model. Each endpoint reads it in its own way.
    pub fn fingerprint(&self, endpoint: Endpoint, model: impl Hash, body: &[u8]) -> Fingerprint {
        Fingerprint(self.hasher.hash_one((endpoint, model, body)))
    }

    /// Remembers how many input tokens a provider reported for a body.
    pub fn learn(&self, body: Fingerprint, tokens: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known[place(body)] = Some((body, tokens));
    }

    /// What a provider reported for this body before.
    pub fn known(&self, body: Fingerprint) -> Option<u64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known[place(body)].filter(|(known, _)| *known == body).map(|(_, count)| count)
    }
}

fn place(body: Fingerprint) -> usize {
    usize::try_from(body.0 % KNOWN_MAX as u64).unwrap_or_default()
}

/// Counts the tokens of a body by the vocabularies of its model, wherever that is served, off the
/// worker's thread. `None` where its text does not bound them, or is too long to be counted.
pub async fn by_vocabulary(endpoint: Endpoint, model: &Model, body: Bytes) -> Option<u64> {
    let name = |target: &Target| target.upstream_model.clone().unwrap_or(Arc::clone(&model.name));
    let mut names: Vec<Arc<str>> = model.targets.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    tasks::blocking(move || {
        let prompt = prompt::of(endpoint, &body);
        let counts = names.iter().map(|name| tokenizer::count(name, endpoint.dialect(), &prompt));
        counts.max().filter(|_| prompt.is_text)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_known_by_its_model_and_its_bytes() {
        let inputs = Inputs::default();
        let chat =
            |model: &str, body: &[u8]| inputs.fingerprint(Endpoint::ChatCompletions, model, body);
        assert_eq!(inputs.known(chat("a", b"{}")), None);
        inputs.learn(chat("a", b"{}"), 7);
        assert_eq!(inputs.known(chat("a", b"{}")), Some(7));
        assert_eq!(inputs.known(chat("b", b"{}")), None);
        assert_eq!(inputs.known(chat("a", b"{ }")), None);
        assert_eq!(inputs.known(inputs.fingerprint(Endpoint::Messages, "a", b"{}")), None);
    }

    #[test]
    fn many_bodies_are_known_at_once() {
        let inputs = Inputs::default();
        let named = |n: u8| inputs.fingerprint(Endpoint::Messages, "a", &[n]);
        let bodies = || (0..8).map(|n| (named(n), u64::from(n)));
        bodies().for_each(|(body, tokens)| inputs.learn(body, tokens));
        // Two of them may share a place by chance, hardly all.
        assert!(1 < bodies().filter(|(body, tokens)| inputs.known(*body) == Some(*tokens)).count());
    }
}
