//! The projector: reads the journal of this run and commits it to the database, batch by batch.

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

/// How long entries are collected before they are committed, unless a read waits for them.
const BATCH_DELAY: Duration = Duration::from_millis(25);

/// The most entries of one chain in one transaction.
const BATCH_ENTRIES_MAX: usize = 8_192;

/// How long a shutdown waits for the database. Entries that are not committed by then stay in the
/// journal.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after a database error.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Whether a batch is committed for the first time. A commit that failed may nevertheless have
/// reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Retry,
}

/// Projects all chains of a journal.
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
    /// Creates a projector that starts at the beginning of the journal.
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

    /// Projects until `shutdown` resolves, then projects what is written by then, for at most 5 s.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let stopping = watch::Sender::new(false);
        let timeout = async {
            shutdown.await;
            stopping.send_replace(true);
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            () = self.project_until(stopping.subscribe()) => {}
            () = timeout => {
                tracing::error!("projector timed out; the next start recovers the remaining calls");
            }
        }
        self.call_log.close();
    }

    async fn project_until(&mut self, mut stopping: watch::Receiver<bool>) {
        let journal = Arc::clone(&self.journal);
        let read_barrier = Arc::clone(&self.read_barrier);
        let mut shutdown = std::pin::pin!(stopping.wait_for(|stopping| *stopping));
        loop {
            tokio::select! {
                _ = &mut shutdown => break,
                () = journal.wait_for_entries() => {}
            }
            tokio::select! {
                _ = &mut shutdown => break,
                () = read_barrier.wait_for_waiters() => {}
                () = tokio::time::sleep(BATCH_DELAY) => {}
            }
            self.project(BATCH_ENTRIES_MAX).await;
        }
        while 0 < journal.backlog_bytes() {
            self.project(BATCH_ENTRIES_MAX).await;
        }
    }

    /// Reads what the workers have written into the batch.
    fn read(&mut self, entries_max: usize) {
        for (reader, chain) in self.readers.iter_mut().zip(self.journal.chains()) {
            let batch = &mut self.batch;
            let read = reader.read(chain.published(), entries_max, |entry| batch.apply(entry));
            if let Err(fault) = read {
                tracing::error!(%fault, chain = ?chain.name, "journal read failed");
                tasks::stop_process("journal entries are missing");
            }
        }
    }

    /// Commits one batch of about `entries_max` entries per chain. Retries as long as the database
    /// fails.
    pub async fn project(&mut self, entries_max: usize) {
        self.read(entries_max);
        if self.batch.is_empty() {
            return;
        }
        while let Err(fault) = late_results::resolve(self.database.reader(), &mut self.batch).await
        {
            tracing::error!(%fault, "database read failed; retrying");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        let mut attempt = Attempt::First;
        while let Err(fault) = self.commit(attempt).await {
            attempt = Attempt::Retry;
            tracing::error!(%fault, "database commit failed; retrying");
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

    /// Writes the call log and the metrics of the committed batch.
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

/// Adds the calls to the metrics, one update per distinct set of labels.
fn record_metrics(calls: &[FinishedCall]) {
    let mut outcomes: HashMap<(&str, &str), u64> = HashMap::new();
    let mut refusals: HashMap<&str, u64> = HashMap::new();
    let mut rules: HashMap<&str, u64> = HashMap::new();
    let mut usage: HashMap<&str, u64> = HashMap::new();
    let (mut spend, mut overage_count, mut late_count) = (0, 0, 0);
    let histogram_of = |name| histogram!(metric::STAGE_SECONDS, "stage" => name);
    let (admit, forward, relay) =
        (histogram_of("admit"), histogram_of("forward"), histogram_of("relay"));
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
        overage_count += u64::from(result.charge.overage);
        late_count += u64::from(*late);
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
    counter!(metric::OVERAGES).increment(overage_count);
    counter!(metric::LATE_SETTLEMENTS).increment(late_count);
}

/// Converts microseconds to seconds, the unit of Prometheus.
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

    /// What is in the database: number of records, balance, last seq, requests and spend of the
    /// day.
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

    /// A projector of a journal with one chain, the writer of that chain, and the database.
    async fn started_projector(folder: &Path) -> (Projector, Rc<Writer>, Database) {
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
        let read_barrier = Arc::new(ReadBarrier::new(Arc::clone(&journal)));
        let (log, copy) = (CallLog::default(), database.clone());
        (Projector::new(journal, read_barrier, copy, "node_1", log), writer, database)
    }

    /// Writes a call that was admitted and ended.
    fn write(writer: &Writer, id: u128) {
        writer.append(&CALL.hold(id));
        writer.append(&CALL.end(id));
        writer.commit();
    }

    #[tokio::test]
    async fn a_commit_that_was_reported_as_failed_is_not_repeated_if_it_succeeded() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut projector, writer, database) = started_projector(folder.path()).await;
        write(&writer, 1);
        projector.read(BATCH_ENTRIES_MAX);
        projector.commit(Attempt::First).await.expect("committed");
        projector.commit(Attempt::Retry).await.expect("already committed");
        projector.batch.reset();
        assert_eq!(projected(&database).await, [1, -5, 1, 1, 5]);
        // A commit that did fail is repeated.
        write(&writer, 2);
        projector.read(BATCH_ENTRIES_MAX);
        projector.commit(Attempt::Retry).await.expect("committed");
        assert_eq!(projected(&database).await, [2, -10, 2, 2, 10]);
    }

    #[tokio::test]
    async fn shutdown_waits_until_everything_written_is_committed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (projector, writer, database) = started_projector(folder.path()).await;
        write(&writer, 1);
        projector.run(async {}).await;
        assert_eq!(projected(&database).await, [1, -5, 1, 1, 5]);
    }

    #[tokio::test]
    async fn committed_entries_are_counted_and_lag_is_that_of_the_oldest_call() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut projector, writer, _) = started_projector(folder.path()).await;
        write(&writer, 1);
        projector.read(BATCH_ENTRIES_MAX);
        let age = || (clock::wall_now().0 - CALL.minute.start().0) / 1_000;
        let lag_min = age();
        let rendered = metrics_of(|| projector.publish());
        assert!(
            rendered.lines().any(|line| line == "meteor_projected_entries_total 2"),
            "{rendered}"
        );
        let lag =
            rendered.lines().find_map(|line| line.strip_prefix("meteor_projector_lag_seconds "));
        let whole = lag.and_then(|lag| lag.split('.').next()).and_then(|lag| lag.parse().ok());
        assert!((lag_min..=age()).contains(&whole.expect("a lag")), "{rendered}");
    }

    #[test]
    fn calls_are_counted_by_outcome() {
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
        let rendered = metrics_of(|| record_metrics(&batch.calls));
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
            assert!(
                rendered.lines().any(|rendered_line| rendered_line == line),
                "{line}: {rendered}"
            );
        }
    }
}
