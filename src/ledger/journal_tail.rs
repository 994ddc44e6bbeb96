//! What the journal says beyond the database: its open holds, and how they went on since.
//!
//! The database is read first: its open holds and its checkpoints are of one moment, and a chain
//! only grows. Whatever is read of the journal later continues them.

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

/// A call that holds money, as far as it matters here.
#[derive(Debug, Clone, Copy)]
struct OpenHoldRef {
    organization: OrganizationId,
    project: ProjectId,
    amount: i64,
    /// Whether the database has it, or only the journal.
    is_stored: bool,
}

impl OpenHoldRef {
    fn of(hold: &Hold<String>, is_stored: bool) -> Self {
        let asked = &hold.header;
        let (organization, project) = (asked.organization, asked.project);
        Self { organization, project, amount: hold.amount.0, is_stored }
    }
}

/// The calls that are open, and those that ended since the database was written.
#[derive(Debug, Default)]
pub struct JournalTail {
    checkpoints: HashMap<i64, (u32, u64)>,
    open: HashMap<RequestLogId, OpenHoldRef>,
    ended: HashMap<RequestLogId, OpenHoldRef>,
    /// Entries that the database does not have yet.
    pub entries: u64,
}

impl JournalTail {
    /// What the database says: its open holds, and how far each chain is projected.
    pub async fn restore(
        connection: &mut SqliteConnection,
        findings: &mut Findings,
    ) -> Result<Self, sqlx::Error> {
        let mut own = Self::default();
        let query = "SELECT chain, segment, position FROM journal_checkpoints";
        for row in sqlx::query(query).fetch_all(&mut *connection).await? {
            let position = row.try_get::<i64, _>(2)?.unsigned_abs();
            own.checkpoints.insert(row.try_get(0)?, (row.try_get(1)?, position));
        }
        let query = "SELECT request_log_id, entry FROM open_holds";
        for row in sqlx::query(query).fetch_all(connection).await? {
            let id = RequestLogId(row.try_get::<Uuid, _>(0)?.as_u128());
            match format::read(row.try_get(1)?) {
                Some((Entry::Hold(hold), _)) if hold.header.id == id => {
                    own.open.insert(id, OpenHoldRef::of(&hold, true));
                }
                _ => {
                    findings.add(violation("open_holds", None, id, "no journal entry", "its Hold"))
                }
            }
        }
        Ok(own)
    }

    /// Calls that are open now, and what they hold.
    pub fn open_holds(&self) -> (usize, i128) {
        (self.open.len(), self.open.values().map(|held| i128::from(held.amount)).sum())
    }

    /// Reads the journal from the checkpoints on. It may be written meanwhile.
    ///
    /// Segments that should be there and are not are returned: the gateway removes them once they
    /// are projected, so that a newer picture of the database does not miss them.
    pub fn read(&mut self, folder: &Path, findings: &mut Findings) -> io::Result<Vec<SegmentName>> {
        let mut missing = Vec::new();
        let segments = segment::list(folder)?;
        for chain in segments.chunk_by(|one, other| one.chain() == other.chain()) {
            let name = chain[0].chain();
            let (first, position) =
                self.checkpoints.get(&name.number()).copied().unwrap_or_default();
            let numbers: Vec<u32> = chain.iter().map(|segment| segment.number).collect();
            let last = last_written_segment(folder, name, &numbers, first)?;
            // The last one may have been a spare that nobody wrote to: it holds nothing that could
            // be missed.
            let gone = || {
                let names = (first..last).map(|number| name.segment(number));
                names.filter(|segment| !segment.path(folder).exists()).collect::<Vec<_>>()
            };
            if gone().is_empty() {
                let mut reader = Reader::new(folder, name, first, position);
                reader.read_through(last, |entry| self.apply(entry, findings))?;
            }
            // What is there after it was read was there while it was read.
            missing.extend(gone());
        }
        Ok(missing)
    }

    fn apply(&mut self, entry: Entry<String>, findings: &mut Findings) {
        self.entries += 1;
        match entry {
            Entry::Hold(hold) => {
                let id = hold.header.id;
                let is_known = self.open.insert(id, OpenHoldRef::of(&hold, false)).is_some();
                if is_known || self.ended.contains_key(&id) {
                    let owner = Some(hold.header.organization);
                    findings.add(violation("journal", owner, id, "a second Hold", "one"));
                }
            }
            Entry::Settled(ended) | Entry::Voided(ended) => match self.open.remove(&ended.id) {
                Some(held) => {
                    self.ended.insert(ended.id, held);
                }
                None => {
                    let before = self.ended.get(&ended.id);
                    let found = before.map_or("an end without a Hold", |_| "a second end");
                    let owner = before.map(|held| held.organization);
                    findings.add(violation("journal", owner, ended.id, found, "the end of a Hold"));
                }
            },
            Entry::Progress(_) | Entry::Refused(_) => {}
        }
    }

    /// Compares every call with what the database has of it: none of them has ended there.
    pub async fn compare(
        &self,
        connection: &mut SqliteConnection,
        findings: &mut Findings,
    ) -> Result<(), sqlx::Error> {
        let ended = "an end of a call that has ended already";
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
                let expected = "no Consume and no request log of that call";
                findings.add(violation(table, owner, id, what, expected));
            }
            // A project may be younger than the picture, but not than the picture's own holds.
            if held.is_stored && !row.try_get::<bool, _>(2)? {
                let expected = "one of a project of that organization";
                findings.add(violation(table, owner, id, "a hold of no known project", expected));
            }
        }
        Ok(())
    }
}

/// The last segment that was begun. All before it are complete: nothing is added to them any more.
/// This is asked before they are read, so that no entry is met without those before it.
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
