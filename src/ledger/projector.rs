//! The projector: follows the journal of this run and commits it to the database, batch by batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::sync::watch;

use crate::clock;
use crate::crash::crash_point;
use crate::journal::chains::Journal;
use crate::journal::reader::Reader;
use crate::ledger::batch::Batch;
use crate::ledger::finished_call::{AdmittedCall, CallEnd, FinishedCall};
use crate::ledger::late_results;
use crate::ledger::persist;
use crate::ledger::persist::Checkpoint;
use crate::ledger::read_barrier::ReadBarrier;
use crate::store::database::{Database, DatabaseError};
use crate::tasks;
use crate::telemetry::call_log::CallLog;
use crate::telemetry::metric;

/// How long entries gather before they are committed, unless a read waits for them.
const BATCH_DELAY: Duration = Duration::from_millis(25);

/// How many entries one transaction takes at most.
const BATCH_ENTRIES_MAX: usize = 8_192;

/// How long a stop waits for the database. What it lacks then is in the journal.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after the database failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Which attempt to commit a batch it is. One that was told to have failed may have succeeded:
/// what a sync was about can be on the disk though the sync failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Retry,
}

/// Follows every chain of a journal.
#[derive(Debug)]
pub struct Projector {
    journal: Arc<Journal>,
    read_barrier: Arc<ReadBarrier>,
    database: Database,
    readers: Vec<Reader>,
    batch: Batch,
    call_log: CallLog,
}

impl Projector {
    /// A projector of a journal that has just begun.
    pub fn new(
        journal: Arc<Journal>,
        read_barrier: Arc<ReadBarrier>,
        database: Database,
        node: &str,
        call_log: CallLog,
    ) -> Self {
        let readers = journal
            .chains()
            .iter()
            .map(|chain| Reader::new(journal.folder(), chain.name, 0, 0))
            .collect();
        let batch = Batch::restore(node, []);
        Self { journal, read_barrier, database, readers, batch, call_log }
    }

    /// Projects until `stop` resolves, and then all that is written by then, for 5 s at most.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let stopping = watch::Sender::new(false);
        let patience = async {
            stop.await;
            stopping.send_replace(true);
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            () = self.project_until(stopping.subscribe()) => {}
            () = patience => {
                tracing::error!("the database lacks the last calls; the next start brings them in");
            }
        }
        self.call_log.close();
    }

    async fn project_until(&mut self, mut stopping: watch::Receiver<bool>) {
        let journal = Arc::clone(&self.journal);
        let freshness = Arc::clone(&self.read_barrier);
        let mut stop = std::pin::pin!(stopping.wait_for(|stopping| *stopping));
        loop {
            tokio::select! {
                _ = &mut stop => break,
                () = journal.wait_for_entries() => {}
            }
            tokio::select! {
                _ = &mut stop => break,
                () = freshness.wait_for_waiters() => {}
                () = tokio::time::sleep(BATCH_DELAY) => {}
            }
            self.project(BATCH_ENTRIES_MAX).await;
        }
        while 0 < journal.backlog_bytes() {
            self.project(BATCH_ENTRIES_MAX).await;
        }
    }

    /// Takes what the workers have written into the batch.
    fn read(&mut self, most: usize) {
        for (reader, chain) in self.readers.iter_mut().zip(self.journal.chains()) {
            let batch = &mut self.batch;
            let read = reader.read(chain.published(), most, |entry| batch.apply(entry));
            if let Err(fault) = read {
                tracing::error!(%fault, chain = ?chain.name, "the journal cannot be read");
                tasks::stop_process("what was written to the journal is not there");
            }
        }
    }

    /// Commits one batch, of about `most` entries a chain; tries again for as long as the database
    /// fails.
    pub async fn project(&mut self, most: usize) {
        self.read(most);
        if self.batch.is_empty() {
            return;
        }
        while let Err(fault) = late_results::resolve(self.database.reader(), &mut self.batch).await
        {
            tracing::error!(%fault, "the database cannot be asked; it is tried again");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        let mut attempt = Attempt::First;
        while let Err(fault) = self.commit(attempt).await {
            attempt = Attempt::Retry;
            tracing::error!(%fault, "the projection could not be committed; it is tried again");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        self.publish();
        self.batch.reset();
        for (reader, chain) in self.readers.iter().zip(self.journal.chains()) {
            chain.report_projected(reader.bytes_read(), reader.checkpoint().0);
        }
        self.read_barrier.notify_committed();
    }

    async fn commit(&self, attempt: Attempt) -> Result<(), DatabaseError> {
        let checkpoints: Vec<Checkpoint> = self
            .readers
            .iter()
            .map(|reader| {
                let (segment, position) = reader.checkpoint();
                Checkpoint { chain: reader.chain().number(), segment, position }
            })
            .collect();
        let mut tx = self.database.begin().await?;
        if attempt == Attempt::Retry && persist::already_committed(&mut tx, &checkpoints).await? {
            return Ok(());
        }
        persist::write_batch(&mut tx, &self.batch, &checkpoints, clock::wall_now()).await?;
        crash_point!("batch-uncommitted");
        tx.commit().await?;
        crash_point!("batch-committed");
        Ok(())
    }

    /// Writes the call log and counts what was committed.
    fn publish(&mut self) {
        for call in &self.batch.calls {
            self.call_log.add(|line| call.write_line(line));
        }
        self.call_log.flush();
        record_metrics(&self.batch.calls);
        counter!(metric::PROJECTED_ENTRIES).increment(self.batch.entries);
        if let Some(oldest) = self.batch.calls.iter().map(|call| call.header().at).min() {
            gauge!(metric::PROJECTOR_LAG_SECONDS)
                .set(seconds((clock::wall_now().0 - oldest.0) * 1_000));
        }
    }
}

/// Adds calls to the metrics, each distinct set of labels once.
fn record_metrics(calls: &[FinishedCall]) {
    let mut outcomes: HashMap<(&str, &str), u64> = HashMap::new();
    let mut refusals: HashMap<&str, u64> = HashMap::new();
    let mut rules: HashMap<&str, u64> = HashMap::new();
    let mut usage: HashMap<&str, u64> = HashMap::new();
    let (mut spend, mut overages, mut lates) = (0, 0, 0);
    let stage = |name| histogram!(metric::STAGE_SECONDS, "stage" => name);
    let (admit, forward, relay) = (stage("admit"), stage("forward"), stage("relay"));
    for call in calls {
        let times =
            if let CallEnd::Refused(refused) = &call.end { u64::from(refused.count) } else { 1 };
        *outcomes.entry((&call.header().endpoint, call.outcome().name())).or_default() += times;
        if let Some(code) = call.refusal() {
            *refusals.entry(code).or_default() += times;
        }
        let CallEnd::Admitted(AdmittedCall { result, late, .. }) = &call.end else { continue };
        *rules.entry(result.charge.settled_by.name()).or_default() += 1;
        for (unit, count) in result.charge.usage.counts() {
            *usage.entry(unit.name()).or_default() += count;
        }
        spend += u64::try_from(result.charge.cost.0).unwrap_or_default();
        overages += u64::from(result.charge.overage);
        lates += u64::from(*late);
        admit.record(seconds(i64::from(result.admitted_us)));
        if let Some(first_byte) = result.first_byte_us {
            forward.record(seconds(i64::from(first_byte.saturating_sub(result.admitted_us))));
            relay.record(seconds(i64::from(result.duration_us.saturating_sub(first_byte))));
        }
    }
    for ((endpoint, outcome), count) in outcomes {
        counter!(metric::CALLS, "endpoint" => endpoint.to_owned(), "outcome" => outcome.to_owned())
            .increment(count);
    }
    for (code, count) in refusals {
        counter!(metric::REFUSALS, "code" => code.to_owned()).increment(count);
    }
    for (rule, count) in rules {
        counter!(metric::SETTLED, "rule" => rule.to_owned()).increment(count);
    }
    for (unit, count) in usage {
        counter!(metric::USAGE, "unit" => unit.to_owned()).increment(count);
    }
    counter!(metric::SPEND_NANO).increment(spend);
    counter!(metric::OVERAGES).increment(overages);
    counter!(metric::LATE_SETTLEMENTS).increment(lates);
}

/// Microseconds as the seconds that Prometheus wants.
#[expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "metrics are floats")]
fn seconds(microseconds: i64) -> f64 {
    microseconds.max(0) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::rc::Rc;

    use sqlx::Row;

    use super::*;
    use crate::journal::chains::{Durability, JournalSettings};
    use crate::journal::entry::{Entry, Hold, Refused};
    use crate::journal::writer::Writer;
    use crate::ledger::tests::persist::{CALL, metrics_of};
    use crate::ledger::tests::recovery::with_organizations;

    /// What the database has of them: records, balance and last place, requests and spend of a day.
    async fn projected(database: &Database) -> [i64; 5] {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM wallet_records), w.balance_nano, w.last_seq,
                coalesce(d.requests, 0), coalesce(d.spend_nano, 0)
             FROM wallets w LEFT JOIN usage_days d ON d.subject_id = w.organization_id
             WHERE w.organization_id = ?",
        )
        .bind(uuid::Uuid::from_u128(CALL.caller.0));
        let row = row.fetch_one(database.reader()).await.expect("a row");
        [0, 1, 2, 3, 4].map(|column| row.get(column))
    }

    /// A projector of a journal of one chain, what writes to that, and the database.
    async fn begun(folder: &Path) -> (Projector, Rc<Writer>, Database) {
        let database = with_organizations(&folder.join("db")).await;
        let settings = JournalSettings {
            folder: folder.to_owned(),
            durability: Durability::Process,
            segment_bytes: 1 << 16,
            retention: Duration::from_mins(1),
            backlog_bytes_max: 1 << 30,
        };
        let journal = Arc::new(Journal::open(settings, 1, 1).expect("a journal"));
        let writer = Writer::new(Arc::clone(&journal.chains()[0])).expect("a segment");
        let freshness = Arc::new(ReadBarrier::new(Arc::clone(&journal)));
        let (log, copy) = (CallLog::default(), database.clone());
        (Projector::new(journal, freshness, copy, "node_1", log), writer, database)
    }

    /// Writes that a call was admitted and result.
    fn write(writer: &Writer, id: u128) {
        writer.append(&CALL.hold(id));
        writer.append(&CALL.end(id));
        writer.commit();
    }

    #[tokio::test]
    async fn a_commit_that_succeeded_and_was_told_to_have_failed_is_not_done_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut projector, writer, database) = begun(folder.path()).await;
        write(&writer, 1);
        projector.read(BATCH_ENTRIES_MAX);
        projector.commit(Attempt::First).await.expect("committed");
        projector.commit(Attempt::Retry).await.expect("seen to be committed");
        projector.batch.reset();
        assert_eq!(projected(&database).await, [1, -5, 1, 1, 5]);
        // One that did fail is done.
        write(&writer, 2);
        projector.read(BATCH_ENTRIES_MAX);
        projector.commit(Attempt::Retry).await.expect("committed");
        assert_eq!(projected(&database).await, [2, -10, 2, 2, 10]);
    }

    #[tokio::test]
    async fn a_stop_waits_until_all_that_was_written_is_in_the_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let (projector, writer, database) = begun(folder.path()).await;
        write(&writer, 1);
        projector.run(async {}).await;
        assert_eq!(projected(&database).await, [1, -5, 1, 1, 5]);
    }

    #[tokio::test]
    async fn what_was_committed_is_counted_and_as_old_as_its_oldest_call() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut projector, writer, _) = begun(folder.path()).await;
        write(&writer, 1);
        projector.read(BATCH_ENTRIES_MAX);
        let age = || (clock::wall_now().0 - CALL.minute.start().0) / 1_000;
        let least = age();
        let told = metrics_of(|| projector.publish());
        assert!(told.lines().any(|line| line == "meteor_projected_entries_total 2"), "{told}");
        let lag = told.lines().find_map(|line| line.strip_prefix("meteor_projector_lag_seconds "));
        let whole = lag.and_then(|lag| lag.split('.').next()).and_then(|lag| lag.parse().ok());
        assert!((least..=age()).contains(&whole.expect("a lag")), "{told}");
    }

    #[test]
    fn calls_are_counted_by_what_became_of_them() {
        let mut batch = Batch::restore("node_1", []);
        let mut over = CALL.end(2);
        if let Entry::Settled(result) = &mut over {
            result.charge.overage = true;
        }
        for entry in [CALL.hold(1), CALL.end(1), CALL.hold(2), over, CALL.end(3)] {
            batch.apply(entry);
        }
        batch.resolve_late(true);
        let Entry::Hold(Hold { header, .. }) = CALL.hold(4) else { unreachable!("a hold") };
        batch.apply(Entry::Refused(Refused {
            header,
            status: 429,
            code: "x".to_owned(),
            count: 3,
        }));
        let told = metrics_of(|| record_metrics(&batch.calls));
        for line in [
            r#"meteor_calls_total{endpoint="",outcome="Completed"} 3"#,
            r#"meteor_calls_total{endpoint="",outcome="Refused"} 3"#,
            r#"meteor_refusals_total{code="x"} 3"#,
            r#"meteor_settled_total{rule="none"} 3"#,
            r#"meteor_usage_total{unit="inputTokens"} 12"#,
            r#"meteor_usage_total{unit="outputTokens"} 9"#,
            "meteor_spend_nano_total 15",
            "meteor_overages_total 1",
            "meteor_late_settlements_total 1",
        ] {
            assert!(told.lines().any(|there| there == line), "{line}: {told}");
        }
    }
}
