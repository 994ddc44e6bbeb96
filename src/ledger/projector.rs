//! The projector: follows the journal of this run and commits it to the database, batch by batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};

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

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_millis(500);

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

    /// Projects until `stop` resolves, and then all that is written by then.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let journal = Arc::clone(&self.journal);
        let freshness = Arc::clone(&self.freshness);
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = journal.wait_for_entries() => {}
            }
            tokio::select! {
                () = &mut stop => break,
                () = freshness.is_awaited() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            self.project().await;
        }
        while 0 < self.journal.backlog_bytes() {
            self.project().await;
        }
        self.call_log.close();
    }

    /// Commits one batch; tries again for as long as the database fails.
    async fn project(&mut self) {
        for (reader, chain) in self.readers.iter_mut().zip(self.journal.chains()) {
            let batch = &mut self.batch;
            let read = reader.read(chain.published(), BATCH_ENTRIES_MAX, |entry| batch.take(entry));
            if let Err(fault) = read {
                tracing::error!(%fault, chain = ?chain.name, "the journal cannot be read");
                tasks::stop_process("what was written to the journal is not there");
            }
        }
        if self.batch.is_empty() {
            return;
        }
        while let Err(fault) = late::post(self.database.reader(), &mut self.batch).await {
            tracing::error!(%fault, "the database cannot be asked; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
        while let Err(fault) = self.commit().await {
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

    async fn commit(&self) -> Result<(), DatabaseError> {
        let checkpoints: Vec<Checkpoint> = self
            .readers
            .iter()
            .map(|reader| {
                let (segment, position) = reader.place();
                Checkpoint { chain: reader.chain().number(), segment, position }
            })
            .collect();
        let mut tx = self.database.begin().await?;
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
