//! The part of the journal that is not in the database yet: calls opened or ended since the last
//! checkpoint.
//!
//! The database is read first. Its open holds and checkpoints are from one snapshot and chains only
//! grow, so the journal continues that snapshot.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::domain::ids::{OrganizationId, ProjectId, RequestLogId};
use crate::journal::entry::{Entry, Hold};
use crate::journal::format;
use crate::journal::reader::Reader;
use crate::journal::segment::{self, ChainName, SegmentName};
use crate::ledger::violation::{Findings, Violation};
use crate::store::columns::uuid;

/// An open hold, as far as the checks need it.
#[derive(Debug, Clone, Copy)]
struct OpenHoldRef {
    organization: OrganizationId,
    project: ProjectId,
    amount: i64,
    /// Whether the hold is in the database, or only in the journal.
    is_stored: bool,
}

impl OpenHoldRef {
    fn of(hold: &Hold<String>, is_stored: bool) -> Self {
        let header = &hold.header;
        let (organization, project) = (header.organization, header.project);
        Self { organization, project, amount: hold.amount.0, is_stored }
    }
}

/// Open calls, and calls that ended after the checkpoints.
#[derive(Debug, Default)]
pub struct JournalTail {
    checkpoints: HashMap<i64, (u32, u64)>,
    open: HashMap<RequestLogId, OpenHoldRef>,
    ended: HashMap<RequestLogId, OpenHoldRef>,
    /// Journal entries that are not in the database yet.
    pub entries: u64,
}

impl JournalTail {
    /// Loads the open holds and the checkpoints from the database.
    pub async fn restore(
        connection: &mut SqliteConnection,
        findings: &mut Findings,
    ) -> Result<Self, sqlx::Error> {
        let mut tail = Self::default();
        let query = "SELECT chain, segment, position FROM journal_checkpoints";
        for row in sqlx::query(query).fetch_all(&mut *connection).await? {
            let position = row.try_get::<i64, _>(2)?.unsigned_abs();
            tail.checkpoints.insert(row.try_get(0)?, (row.try_get(1)?, position));
        }
        let query = "SELECT request_log_id, entry FROM open_holds";
        for row in sqlx::query(query).fetch_all(connection).await? {
            let id = RequestLogId(row.try_get::<Uuid, _>(0)?.as_u128());
            match format::read(row.try_get(1)?) {
                Some((Entry::Hold(hold), _)) if hold.header.id == id => {
                    tail.open.insert(id, OpenHoldRef::of(&hold, true));
                }
                _ => findings.add(violation(
                    "open_holds",
                    None,
                    id,
                    "not a journal entry",
                    "the Hold of this call",
                )),
            }
        }
        Ok(tail)
    }

    /// Returns the number of open calls and the sum of their holds in nano-units.
    pub fn open_holds(&self) -> (usize, i128) {
        (self.open.len(), self.open.values().map(|held| i128::from(held.amount)).sum())
    }

    /// Reads the journal from the checkpoints on. The journal may be written at the same time.
    ///
    /// Returns the missing segments. The gateway removes segments after they are projected, so a
    /// newer snapshot of the database would not need them.
    pub fn read(&mut self, folder: &Path, findings: &mut Findings) -> io::Result<Vec<SegmentName>> {
        let mut missing = Vec::new();
        let segments = segment::list(folder)?;
        for chain in segments.chunk_by(|one, other| one.chain() == other.chain()) {
            let name = chain[0].chain();
            let (first, position) =
                self.checkpoints.get(&name.number()).copied().unwrap_or_default();
            let numbers: Vec<u32> = chain.iter().map(|segment| segment.number).collect();
            let last = last_written_segment(folder, name, &numbers, first)?;
            // The last segment may be prepared but unwritten; it is not needed, so its absence is
            // no gap.
            let gone = || {
                let names = (first..last).map(|number| name.segment(number));
                names.filter(|segment| !segment.path(folder).exists()).collect::<Vec<_>>()
            };
            if gone().is_empty() {
                let mut reader = Reader::new(folder, name, first, position);
                reader.read_through(last, |entry| self.apply(entry, findings))?;
            }
            // A segment that exists after the read existed during the read.
            missing.extend(gone());
        }
        Ok(missing)
    }

    fn apply(&mut self, entry: Entry<String>, findings: &mut Findings) {
        self.entries += 1;
        match entry {
            Entry::Hold(hold) => {
                let id = hold.header.id;
                let is_duplicate = self.open.insert(id, OpenHoldRef::of(&hold, false)).is_some();
                if is_duplicate || self.ended.contains_key(&id) {
                    let owner = Some(hold.header.organization);
                    findings.add(violation("journal", owner, id, "a second Hold", "exactly one"));
                }
            }
            Entry::Settled(result) | Entry::Voided(result) => match self.open.remove(&result.id) {
                Some(held) => {
                    self.ended.insert(result.id, held);
                }
                None => {
                    let earlier = self.ended.get(&result.id);
                    let found = earlier.map_or("a result without a Hold", |_| "a second result");
                    let owner = earlier.map(|held| held.organization);
                    findings.add(violation(
                        "journal",
                        owner,
                        result.id,
                        found,
                        "one result per Hold",
                    ));
                }
            },
            Entry::Progress(_) | Entry::Refused(_) => {}
        }
    }

    /// Checks that none of the calls has already ended in the database.
    pub async fn compare(
        &self,
        connection: &mut SqliteConnection,
        findings: &mut Findings,
    ) -> Result<(), sqlx::Error> {
        let ended = "a result of a call that already has one";
        let open = self.open.iter().map(|(id, held)| (*id, held, "an open hold"));
        for (id, held, what) in open.chain(self.ended.iter().map(|(id, held)| (*id, held, ended))) {
            let row = sqlx::query(
                "SELECT EXISTS (SELECT 1 FROM wallet_records
                    WHERE kind = 'Consume' AND request_log_id = $1),
                    EXISTS (SELECT 1 FROM request_logs WHERE project_id = $2 AND id = $1),
                    EXISTS (SELECT 1 FROM projects WHERE id = $2 AND organization_id = $3)",
            )
            .bind(uuid(id.0))
            .bind(uuid(held.project.0))
            .bind(uuid(held.organization.0))
            .fetch_one(&mut *connection)
            .await?;
            let table = if held.is_stored { "open_holds" } else { "journal" };
            let owner = Some(held.organization);
            let (has_consume, has_log): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
            if has_consume || has_log {
                let expected = "no Consume and no request log of this call";
                findings.add(violation(table, owner, id, what, expected));
            }
            // A project may be newer than the snapshot, unless the hold is part of the snapshot.
            if held.is_stored && !row.try_get::<bool, _>(2)? {
                let expected = "a project of this organization";
                findings.add(violation(table, owner, id, "a hold of an unknown project", expected));
            }
        }
        Ok(())
    }
}

/// Returns the last segment that contains entries. All segments before it are complete. Must be
/// called before the segments are read, so that no entry is read without its predecessors.
fn last_written_segment(
    folder: &Path,
    chain: ChainName,
    numbers: &[u32],
    first: u32,
) -> io::Result<u32> {
    for number in numbers.iter().rev().copied().filter(|number| first < *number) {
        if Reader::new(folder, chain, number, 0).has_entry()? {
            return Ok(number);
        }
    }
    Ok(first)
}

fn violation(
    table: &'static str,
    organization: Option<OrganizationId>,
    call: RequestLogId,
    found: &str,
    expected: &str,
) -> Violation {
    let row = format!("call {call}");
    Violation { table, organization, row, found: found.into(), expected: expected.into() }
}
