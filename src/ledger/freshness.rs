//! Fresh reads: whoever saw the last byte of a call sees its record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::domain::time::UnixMs;
use crate::journal::keeper::Journal;

/// How long a read waits for the projector before it answers with what there is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the journal ends and how far it is projected.
#[derive(Debug)]
pub struct Freshness {
    journal: Arc<Journal>,
    /// Counts the projector's batches.
    batches: watch::Sender<u64>,
    /// Counts the reads that wait: the projector does not linger while there are any.
    waiting: watch::Sender<u64>,
}

impl Freshness {
    /// Watches all chains of that journal.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, batches: watch::Sender::new(0), waiting: watch::Sender::new(0) }
    }

    /// The projector's word that it has committed a batch.
    pub fn batch_committed(&self) {
        self.batches.send_modify(|count| *count += 1);
    }

    /// Resolves when some read waits for the projector.
    pub async fn is_awaited(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|count| 0 < *count).await;
    }

    /// Waits until all that is in the journal now is in the database, a second at most.
    ///
    /// `None` when it is; else the moment of the answer, for the field `asOf`.
    pub async fn wait(&self) -> Option<UnixMs> {
        let ends: Vec<u64> = self.journal.chains().iter().map(|chain| chain.published()).collect();
        let reached = || {
            let mut chains = self.journal.chains().iter().zip(&ends);
            chains.all(|(chain, end)| *end <= chain.projected())
        };
        let mut batches = self.batches.subscribe();
        if reached() {
            return None;
        }
        self.waiting.send_modify(|count| *count += 1);
        let waited = tokio::time::timeout(PATIENCE, batches.wait_for(|_| reached())).await;
        self.waiting.send_modify(|count| *count -= 1);
        match waited {
            Ok(Ok(_)) => None,
            _ => Some(clock::now()),
        }
    }
}
