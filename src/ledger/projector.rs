//! The projector: follows the journal of this run and commits it to the database, batch by batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::sync::watch;

use crate::clock;
use crate::crash::crash_point;
use crate::journal::keeper::Journal;
use crate::journal::reader::Reader;
use crate::ledger::batch::Batch;
use crate::ledger::call::{Call, End, Ending};
use crate::ledger::freshness::Freshness;
use crate::ledger::late;
use crate::ledger::projection::{self, Checkpoint};
use crate::store::database::{Database, DatabaseError};
use crate::tasks;
use crate::telemetry::call_log::CallLog;
use crate::telemetry::metric;

/// How long entries gather before they are committed, unless a read waits for them.
const LINGER: Duration = Duration::from_millis(25);

/// How many entries one transaction takes at most.
const BATCH_ENTRIES_MAX: usize = 8_192;

/// How long a stop waits for the database. What it lacks then is in the journal.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_millis(500);

/// Which attempt to commit a batch it is. One that was told to have failed may have succeeded:
/// what a sync was about can be on the disk though the sync failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Further,
}

/// Follows every chain of a journal.
#[derive(Debug)]
pub struct Projector {
    journal: Arc<Journal>,
    freshness: Arc<Freshness>,
    database: Database,
    readers: Vec<Reader>,
    batch: Batch,
    call_log: CallLog,
}

impl Projector {
    /// A projector of a journal that has just begun.
    pub fn new(
        journal: Arc<Journal>,
        freshness: Arc<Freshness>,
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
        Self { journal, freshness, database, readers, batch, call_log }
    }

    /// Projects until `stop` resolves, and then all that is written by then, for 5 s at most.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let stopping = watch::Sender::new(false);
        let patience = async {
            stop.await;
            stopping.send_replace(true);
            tokio::time::sleep(STOP_PATIENCE).await;
        };
        tokio::select! {
            () = self.follow(stopping.subscribe()) => {}
            () = patience => {
                tracing::error!("the database lacks the last calls; the next start brings them in");
            }
        }
        self.call_log.close();
    }

    async fn follow(&mut self, mut stopping: watch::Receiver<bool>) {
        let journal = Arc::clone(&self.journal);
        let freshness = Arc::clone(&self.freshness);
        let mut stop = std::pin::pin!(stopping.wait_for(|stopping| *stopping));
        loop {
            tokio::select! {
                _ = &mut stop => break,
                () = journal.wait_for_entries() => {}
            }
            tokio::select! {
                _ = &mut stop => break,
                () = freshness.is_awaited() => {}
                () = tokio::time::sleep(LINGER) => {}
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
            let read = reader.read(chain.published(), most, |entry| batch.take(entry));
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
        while let Err(fault) = late::post(self.database.reader(), &mut self.batch).await {
            tracing::error!(%fault, "the database cannot be asked; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
        let mut attempt = Attempt::First;
        while let Err(fault) = self.commit(attempt).await {
            attempt = Attempt::Further;
            tracing::error!(%fault, "the projection could not be committed; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
        self.tell();
        self.batch.committed();
        for (reader, chain) in self.readers.iter().zip(self.journal.chains()) {
            chain.report_projected(reader.consumed(), reader.place().0);
        }
        self.freshness.batch_committed();
    }

    async fn commit(&self, attempt: Attempt) -> Result<(), DatabaseError> {
        let checkpoints: Vec<Checkpoint> = self
            .readers
            .iter()
            .map(|reader| {
                let (segment, position) = reader.place();
                Checkpoint { chain: reader.chain().number(), segment, position }
            })
            .collect();
        let mut tx = self.database.begin().await?;
        if attempt == Attempt::Further && projection::is_written(&mut tx, &checkpoints).await? {
            return Ok(());
        }
        projection::write(&mut tx, &self.batch, &checkpoints, clock::now()).await?;
        crash_point!("batch-uncommitted");
        tx.commit().await?;
        crash_point!("batch-committed");
        Ok(())
    }

    /// Writes the call log and counts what was committed.
    fn tell(&mut self) {
        for call in &self.batch.calls {
            self.call_log.add(|line| call.write_line(line));
        }
        self.call_log.flush();
        count(&self.batch.calls);
        counter!(metric::PROJECTED_ENTRIES).increment(self.batch.entries);
        if let Some(oldest) = self.batch.calls.iter().map(|call| call.asked().at).min() {
            gauge!(metric::PROJECTOR_LAG_SECONDS).set(seconds((clock::now().0 - oldest.0) * 1_000));
        }
    }
}

/// Adds calls to the metrics, each distinct set of labels once.
fn count(calls: &[Call]) {
    let mut outcomes: HashMap<(&str, &str), u64> = HashMap::new();
    let mut refusals: HashMap<&str, u64> = HashMap::new();
    let mut rules: HashMap<&str, u64> = HashMap::new();
    let mut usage: HashMap<&str, u64> = HashMap::new();
    let (mut spend, mut overages, mut lates) = (0, 0, 0);
    let stage = |name| histogram!(metric::STAGE_SECONDS, "stage" => name);
    let (admit, forward, relay) = (stage("admit"), stage("forward"), stage("relay"));
    for call in calls {
        let times =
            if let End::Refused(refused) = &call.end { u64::from(refused.count) } else { 1 };
        *outcomes.entry((&call.asked().endpoint, call.outcome().name())).or_default() += times;
        if let Some(code) = call.refusal() {
            *refusals.entry(code).or_default() += times;
        }
        let End::Ended(Ending { ended, late, .. }) = &call.end else { continue };
        *rules.entry(ended.charge.settled_by.name()).or_default() += 1;
        for (unit, count) in ended.charge.usage.counts() {
            *usage.entry(unit.name()).or_default() += count;
        }
        spend += u64::try_from(ended.charge.cost.0).unwrap_or_default();
        overages += u64::from(ended.charge.overage);
        lates += u64::from(*late);
        admit.record(seconds(i64::from(ended.admitted_us)));
        if let Some(first_byte) = ended.first_byte_us {
            forward.record(seconds(i64::from(first_byte.saturating_sub(ended.admitted_us))));
            relay.record(seconds(i64::from(ended.duration_us.saturating_sub(first_byte))));
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
    counter!(metric::LATE).increment(lates);
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
    use crate::journal::entry::{Entry, Hold, Refused};
    use crate::journal::keeper::{Durability, JournalSettings};
    use crate::journal::writer::Writer;
    use crate::ledger::tests::projected::{CALL, metrics_of};
    use crate::ledger::tests::recovery::with_organizations;

    /// What the database has of them: records, balance and last place, requests and spend of a day.
    async fn projected(database: &Database) -> [i64; 5] {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM wallet_records), w.balance_nano, w.last_seq,
                coalesce(d.requests, 0), coalesce(d.spend_nano, 0)
             FROM wallets w LEFT JOIN usage_days d ON d.subject_id = w.organization_id
             WHERE w.organization_id = ?",
        )
        .bind(uuid::Uuid::from_u128(CALL.who.0));
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
            keep: Duration::from_mins(1),
            backlog_bytes_max: 1 << 30,
        };
        let journal = Arc::new(Journal::open(settings, 1, 1).expect("a journal"));
        let writer = Writer::new(Arc::clone(&journal.chains()[0])).expect("a segment");
        let freshness = Arc::new(Freshness::new(Arc::clone(&journal)));
        let (log, copy) = (CallLog::default(), database.clone());
        (Projector::new(journal, freshness, copy, "node_1", log), writer, database)
    }

    /// Writes that a call was admitted and ended.
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
        projector.commit(Attempt::Further).await.expect("seen to be committed");
        projector.batch.committed();
        assert_eq!(projected(&database).await, [1, -5, 1, 1, 5]);
        // One that did fail is done.
        write(&writer, 2);
        projector.read(BATCH_ENTRIES_MAX);
        projector.commit(Attempt::Further).await.expect("committed");
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
        let age = || (clock::now().0 - CALL.minute.start().0) / 1_000;
        let least = age();
        let told = metrics_of(|| projector.tell());
        assert!(told.lines().any(|line| line == "meteor_projected_entries_total 2"), "{told}");
        let lag = told.lines().find_map(|line| line.strip_prefix("meteor_projector_lag_seconds "));
        let whole = lag.and_then(|lag| lag.split('.').next()).and_then(|lag| lag.parse().ok());
        assert!((least..=age()).contains(&whole.expect("a lag")), "{told}");
    }

    #[test]
    fn calls_are_counted_by_what_became_of_them() {
        let mut batch = Batch::restore("node_1", []);
        let mut over = CALL.end(2);
        if let Entry::Settle(ended) = &mut over {
            ended.charge.overage = true;
        }
        for entry in [CALL.hold(1), CALL.end(1), CALL.hold(2), over, CALL.end(3)] {
            batch.take(entry);
        }
        batch.end_late(true);
        let Entry::Hold(Hold { asked, .. }) = CALL.hold(4) else { unreachable!("a hold") };
        batch.take(Entry::Refused(Refused { asked, status: 429, code: "x".to_owned(), count: 3 }));
        let told = metrics_of(|| count(&batch.calls));
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
