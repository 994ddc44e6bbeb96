//! Fresh reads: whoever saw the last byte of a call sees its record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::domain::time::UnixMs;
use crate::journal::chains::Journal;

/// How long a read waits for the projector before it answers with what there is.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the journal ends and how far it is projected.
#[derive(Debug)]
pub struct ReadBarrier {
    journal: Arc<Journal>,
    /// Tells of each of the projector's batches.
    batches: watch::Sender<()>,
    /// Counts the reads that wait: the projector does not linger while there are any.
    waiting: watch::Sender<u64>,
}

impl ReadBarrier {
    /// Watches all chains of that journal.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, batches: watch::Sender::new(()), waiting: watch::Sender::new(0) }
    }

    /// The projector's word that it has committed a batch.
    pub fn notify_committed(&self) {
        self.batches.send_replace(());
    }

    /// Resolves when some read waits for the projector.
    pub async fn wait_for_waiters(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|count| 0 < *count).await;
    }

    /// Waits until all that is in the journal now is in the database, a second at most.
    ///
    /// `None` when it is; else the moment of the answer, for the field `asOf`.
    pub async fn wait_caught_up(&self) -> Option<UnixMs> {
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
        let waited = tokio::time::timeout(CATCH_UP_TIMEOUT, batches.wait_for(|()| reached())).await;
        self.waiting.send_modify(|count| *count -= 1);
        match waited {
            Ok(Ok(_)) => None,
            _ => Some(clock::wall_now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestLogId;
    use crate::domain::settlement::Charge;
    use crate::journal::chains::{Durability, JournalSettings};
    use crate::journal::entry::{Entry, Progress};
    use crate::journal::writer::Writer;

    /// A journal of one chain with one entry; how far that reaches.
    fn written(folder: &std::path::Path) -> (ReadBarrier, u64) {
        let settings = JournalSettings {
            folder: folder.to_owned(),
            durability: Durability::Process,
            segment_bytes: 1 << 20,
            retention: Duration::from_mins(1),
            backlog_bytes_max: 1 << 30,
        };
        let journal = Arc::new(Journal::open(settings, 1, 1).expect("a journal"));
        journal.start_maintenance().expect("a thread");
        let writer = Writer::new(Arc::clone(&journal.chains()[0])).expect("a spare");
        let entry = Progress { id: RequestLogId(1), charge: Charge::not_charged() };
        let position = writer.append(&Entry::<String>::Progress(entry));
        writer.commit();
        (ReadBarrier::new(journal), position.0)
    }

    #[tokio::test]
    async fn a_read_waits_for_the_projector_and_no_longer_than_it_must() {
        let folder = tempfile::tempdir().expect("a folder");
        let (freshness, end) = written(folder.path());
        let projector = async {
            freshness.wait_for_waiters().await;
            freshness.notify_committed();
            tokio::task::yield_now().await;
            freshness.journal.chains()[0].report_projected(end, 0);
            freshness.notify_committed();
        };
        let started = clock::monotonic_now();
        let both = async { tokio::join!(freshness.wait_caught_up(), projector).0 };
        assert_eq!(tokio::time::timeout(CATCH_UP_TIMEOUT * 5, both).await, Ok(None));
        assert!(started.elapsed() < CATCH_UP_TIMEOUT, "the projector is told that somebody waits");
        assert_eq!(freshness.wait_caught_up().await, None, "all of it is there already");
        let nobody = tokio::time::timeout(Duration::from_millis(1), freshness.wait_for_waiters());
        assert!(nobody.await.is_err(), "whoever waited has gone");
    }

    #[tokio::test]
    async fn a_read_that_waits_in_vain_says_of_when_its_answer_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (freshness, _) = written(folder.path());
        let started = clock::wall_now();
        let as_of = freshness.wait_caught_up().await.expect("not all is there");
        assert!(started.0 + 900 < as_of.0, "it waited");
    }
}
