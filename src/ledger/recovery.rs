//! Recovery: commits what the last run left in the journal, before the gateway accepts calls.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::Row;

use crate::crash::crash_point;
use crate::domain::settlement::Charge;
use crate::domain::status::Outcome;
use crate::domain::time::UnixMs;
use crate::journal::entry::{CallResult, Entry, Hold, Progress};
use crate::journal::format;
use crate::journal::reader::Reader;
use crate::journal::segment::{self, ChainName, SegmentName};
use crate::ledger::batch::{Batch, OpenCall};
use crate::ledger::late_results;
use crate::ledger::persist;
use crate::ledger::persist::Checkpoint;
use crate::store::database::{Database, DatabaseError};
use crate::store::node_metadata;

/// Why the last run could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal cannot be read.
    #[error("journal: {0}; check permissions and free disk space")]
    Journal(#[from] std::io::Error),
    /// A segment is missing that was not projected.
    #[error(
        "the database is older than the journal: segment {} is missing and was not projected. Restore \
         it or a newer database; to continue without its calls, move the journal folder away",
        .0.path(Path::new("")).display()
    )]
    Gap(SegmentName),
    /// The database cannot be read or written.
    #[error("{0}; check permissions and free disk space")]
    Database(#[from] DatabaseError),
}

/// What recovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The number of the run that starts now.
    pub next_run: u32,
    /// Entries that had not been projected.
    pub entries: u64,
    /// Calls that were open when the last run ended.
    pub orphans: usize,
}

/// Projects the rest of every chain in `folder`, then ends the calls that are still open: each is
/// charged by its last progress, or voided. An open call reached an upstream, so it counts as a
/// request.
pub async fn recover(
    database: &Database,
    folder: &Path,
    node: &str,
    now: UnixMs,
) -> Result<Recovered, RecoveryError> {
    let segments = segment::list(folder)?;
    let positions = load_checkpoints(database).await?;
    let mut batch = Batch::restore(node, load_open_holds(database).await?);
    let mut chains: Vec<ChainName> = segments.iter().map(|name| name.chain()).collect();
    chains.dedup();
    let latest = chains.iter().map(|chain| chain.run).max().unwrap_or_default();
    let mut recovered = Recovered {
        next_run: node_metadata::next_run(database, latest).await?,
        ..Recovered::default()
    };
    delete_removed_checkpoints(database, &positions, &chains).await?;
    for chain in chains {
        let (segment, position) = positions.get(&chain.number()).copied().unwrap_or_default();
        let numbers = segments.iter().filter(|name| name.chain() == chain).map(|name| name.number);
        if let Some(number) = first_gap(segment, numbers) {
            return Err(RecoveryError::Gap(chain.segment(number)));
        }
        let mut reader = Reader::new(folder, chain, segment, position);
        reader.read_to_end(|entry| batch.apply(entry))?;
        recovered.entries += batch.entries;
        let (segment, position) = reader.checkpoint();
        let checkpoint = Checkpoint { chain: chain.number(), segment, position };
        commit(database, &mut batch, &[checkpoint], now).await?;
    }
    crash_point!("recovery-projected");
    for orphan in batch.open_calls() {
        batch.apply(orphan_result(&orphan, now));
        recovered.orphans += 1;
        commit(database, &mut batch, &[], now).await?;
        crash_point!("recovery-orphan");
    }
    Ok(recovered)
}

/// Commits a batch with its checkpoints.
pub async fn commit(
    database: &Database,
    batch: &mut Batch,
    checkpoints: &[Checkpoint],
    now: UnixMs,
) -> Result<(), DatabaseError> {
    late_results::resolve(database.reader(), batch).await?;
    let mut tx = database.begin().await?;
    persist::write_batch(&mut tx, batch, checkpoints, now).await?;
    tx.commit().await?;
    batch.reset();
    Ok(())
}

fn orphan_result(orphan: &OpenCall, now: UnixMs) -> Entry<String> {
    let header = &orphan.hold.header;
    let duration_us = now.0.saturating_sub(header.at.0).saturating_mul(1_000);
    let result = CallResult {
        charge: orphan.progress.map_or_else(Charge::not_charged, |progress| progress.charge),
        counted: true,
        refusal: "gateway_restarted".to_owned(),
        attempts: 1,
        duration_us: u32::try_from(duration_us).unwrap_or(u32::MAX),
        ..CallResult::minimal(header.id, orphan.hold.owner(), Outcome::Failed)
    };
    if orphan.progress.is_some() { Entry::Settled(result) } else { Entry::Voided(result) }
}

/// Returns the first number from `start` on that is missing from `numbers`, which must be
/// ascending. A chain that was read to its end may have been removed completely; that is no gap.
pub fn first_gap(start: u32, numbers: impl Iterator<Item = u32>) -> Option<u32> {
    let later = numbers.filter(|number| start <= *number);
    (start..).zip(later).find(|(expected, number)| expected != number).map(|(gap, _)| gap)
}

/// Deletes the checkpoints of chains whose segments have been removed.
async fn delete_removed_checkpoints(
    database: &Database,
    positions: &BTreeMap<i64, (u32, u64)>,
    chains: &[ChainName],
) -> Result<(), DatabaseError> {
    let mut tx = database.begin().await?;
    for chain in positions.keys() {
        if !chains.iter().any(|other| other.number() == *chain) {
            sqlx::query("DELETE FROM journal_checkpoints WHERE chain = $1")
                .bind(chain)
                .execute(&mut *tx)
                .await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn load_checkpoints(database: &Database) -> Result<BTreeMap<i64, (u32, u64)>, DatabaseError> {
    let rows = sqlx::query("SELECT chain, segment, position FROM journal_checkpoints")
        .fetch_all(database.reader())
        .await?;
    let checkpoint = |row: &sqlx::sqlite::SqliteRow| -> Result<_, sqlx::Error> {
        Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get::<i64, _>(2)?.unsigned_abs())))
    };
    Ok(rows.iter().map(checkpoint).collect::<Result<_, _>>()?)
}

async fn load_open_holds(
    database: &Database,
) -> Result<Vec<(Hold<String>, Option<Progress>)>, DatabaseError> {
    let rows: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT entry FROM open_holds").fetch_all(database.reader()).await?;
    let open = |bytes: &Vec<u8>| {
        let Some((Entry::Hold(hold), length)) = format::read(bytes) else { return None };
        let progress = match format::read(&bytes[length..]) {
            Some((Entry::Progress(progress), _)) => Some(progress),
            _ => None,
        };
        Some((hold, progress))
    };
    let read: Option<Vec<_>> = rows.iter().map(open).collect();
    Ok(read.ok_or_else(|| {
        sqlx::Error::Decode("open_holds contains an invalid journal entry".into())
    })?)
}
