//! Lets reads wait for the projector, so that a client that has seen the end of a call also sees
//! its record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::domain::time::UnixMs;
use crate::journal::chains::Journal;

/// How long a read waits for the projector before it returns what is in the database.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// Tracks how far the journal is projected.
#[derive(Debug)]
pub struct ReadBarrier {
    journal: Arc<Journal>,
    /// Notified after each batch of the projector.
    batches: watch::Sender<()>,
    /// The number of waiting reads. While it is not zero, the projector commits without delay.
    waiting: watch::Sender<u64>,
}

impl ReadBarrier {
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, batches: watch::Sender::new(()), waiting: watch::Sender::new(0) }
    }

    /// Wakes waiting reads after a batch was committed.
    pub fn notify_committed(&self) {
        self.batches.send_replace(());
    }

    /// Waits until a read waits for the projector.
    pub async fn wait_for_waiters(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|count| 0 < *count).await;
    }

    /// Waits until everything in the journal now is in the database, for at most one second.
    ///
    /// Returns `None` if it is; otherwise the current time, for the field `asOf`.
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

    /// A journal of one chain with one entry, and the position after that entry.
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
        let writer = Writer::new(Arc::clone(&journal.chains()[0])).expect("a segment");
        let entry = Progress { id: RequestLogId(1), charge: Charge::not_charged() };
        let position = writer.append(&Entry::<String>::Progress(entry));
        writer.commit();
        (ReadBarrier::new(journal), position.0)
    }

    #[tokio::test]
    async fn a_read_waits_only_until_the_projector_has_caught_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let (read_barrier, end) = written(folder.path());
        let projector = async {
            read_barrier.wait_for_waiters().await;
            read_barrier.notify_committed();
            tokio::task::yield_now().await;
            read_barrier.journal.chains()[0].report_projected(end, 0);
            read_barrier.notify_committed();
        };
        let started = clock::monotonic_now();
        let both = async { tokio::join!(read_barrier.wait_caught_up(), projector).0 };
        assert_eq!(tokio::time::timeout(CATCH_UP_TIMEOUT * 5, both).await, Ok(None));
        assert!(started.elapsed() < CATCH_UP_TIMEOUT, "the projector is woken by the waiting read");
        assert_eq!(read_barrier.wait_caught_up().await, None, "everything is projected already");
        let no_waiter =
            tokio::time::timeout(Duration::from_millis(1), read_barrier.wait_for_waiters());
        assert!(no_waiter.await.is_err(), "no read waits");
    }

    #[tokio::test]
    async fn a_read_that_times_out_returns_the_current_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (read_barrier, _) = written(folder.path());
        let started = clock::wall_now();
        let as_of = read_barrier.wait_caught_up().await.expect("not everything is projected");
        assert!(started.0 + 900 < as_of.0, "the read waited");
    }
}
