//! Recovery: what the last run left behind is brought into the database before calls are taken.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::Row;

use crate::domain::settlement::Charge;
use crate::domain::time::UnixMs;
use crate::journal::entry::{Ended, Entry, Hold, Outcome, Progress};
use crate::journal::format;
use crate::journal::reader::Reader;
use crate::journal::segment::{self, ChainName};
use crate::ledger::batch::{Batch, OpenCall};
use crate::ledger::projection::{self, Checkpoint};
use crate::store::database::{Database, DatabaseError};
use crate::store::facts;

/// Why the last run could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal cannot be read.
    #[error("journal: {0}")]
    Journal(#[from] std::io::Error),
    /// The database cannot be read or written.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The number for the run that begins now.
    pub next_run: u32,
    /// Entries that were not projected yet.
    pub entries: u64,
    /// Calls that were open when the last run ended.
    pub orphans: usize,
}

/// Projects the rest of every chain in `folder`, then ends the calls that were left open: each by
/// its last progress, or for nothing. It reached an upstream, so it counts as a request.
pub async fn recover(
    database: &Database,
    folder: &Path,
    node: &str,
    now: UnixMs,
) -> Result<Recovered, RecoveryError> {
    let segments = segment::list(folder)?;
    let places = checkpoints(database).await?;
    let mut batch = Batch::restore(node, open_holds(database).await?);
    let mut chains: Vec<ChainName> = segments.iter().map(|name| name.chain()).collect();
    chains.dedup();
    let latest = chains.iter().map(|chain| chain.run).max().unwrap_or_default();
    let mut recovered =
        Recovered { next_run: facts::next_run(database, latest).await?, ..Recovered::default() };
    forget_removed(database, &places, &chains).await?;
    for chain in chains {
        let oldest =
            segments.iter().find(|name| name.chain() == chain).map_or(0, |name| name.number);
        let (segment, position) = places.get(&chain.number()).copied().unwrap_or((oldest, 0));
        let mut reader = Reader::new(folder, chain, segment, position);
        reader.read_to_end(|entry| batch.take(entry))?;
        recovered.entries += batch.entries;
        let (segment, position) = reader.place();
        let checkpoint = Checkpoint { chain: chain.number(), segment, position };
        commit(database, &mut batch, &[checkpoint], now).await?;
    }
    for orphan in batch.open_calls() {
        batch.take(end_of(&orphan, now));
        recovered.orphans += 1;
        commit(database, &mut batch, &[], now).await?;
    }
    Ok(recovered)
}

async fn commit(
    database: &Database,
    batch: &mut Batch,
    checkpoints: &[Checkpoint],
    now: UnixMs,
) -> Result<(), DatabaseError> {
    let mut tx = database.begin().await?;
    projection::write(&mut tx, batch, checkpoints, now).await?;
    tx.commit().await?;
    batch.committed();
    Ok(())
}

fn end_of(orphan: &OpenCall, now: UnixMs) -> Entry<String> {
    let asked = &orphan.hold.asked;
    let lived_us = now.0.saturating_sub(asked.at.0).saturating_mul(1_000);
    let ended = Ended {
        id: asked.id,
        charge: orphan.progress.map_or_else(Charge::nothing, |progress| progress.charge),
        counted: true,
        outcome: Outcome::Failed,
        status: 0,
        refusal: "gateway_restarted".to_owned(),
        upstream: String::new(),
        upstream_model: String::new(),
        output_clamped: false,
        attempts: 1,
        admitted_us: 0,
        first_byte_us: None,
        duration_us: u32::try_from(lived_us).unwrap_or(u32::MAX),
        kept_id: None,
    };
    if orphan.progress.is_some() { Entry::Settle(ended) } else { Entry::Void(ended) }
}

/// Forgets the checkpoints of chains whose segments are gone: nobody will ask for them again.
async fn forget_removed(
    database: &Database,
    places: &BTreeMap<i64, (u32, u64)>,
    chains: &[ChainName],
) -> Result<(), DatabaseError> {
    let mut tx = database.begin().await?;
    for chain in places.keys() {
        if !chains.iter().any(|there| there.number() == *chain) {
            sqlx::query("DELETE FROM journal_checkpoints WHERE chain = $1")
                .bind(chain)
                .execute(&mut *tx)
                .await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn checkpoints(database: &Database) -> Result<BTreeMap<i64, (u32, u64)>, DatabaseError> {
    let rows = sqlx::query("SELECT chain, segment, position FROM journal_checkpoints")
        .fetch_all(database.reader())
        .await?;
    let place = |row: &sqlx::sqlite::SqliteRow| -> Result<_, sqlx::Error> {
        Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get::<i64, _>(2)?.unsigned_abs())))
    };
    Ok(rows.iter().map(place).collect::<Result<_, _>>()?)
}

async fn open_holds(
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
    Ok(read.ok_or_else(|| sqlx::Error::Decode("open_holds holds no journal entries".into()))?)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::counter::Windows;
    use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
    use crate::domain::limit::Amounts;
    use crate::domain::money::Nano;
    use crate::domain::settlement::Bound;
    use crate::domain::time::{Day, Minute};
    use crate::domain::usage::Usage;
    use crate::journal::entry::Asked;
    use crate::store::provider_states::key;
    use crate::store::usage;

    const MINUTES_A_DAY: i64 = 1_440;

    /// A call of (organization, project, key) in that minute, and what it used.
    #[derive(Clone, Copy)]
    struct Told {
        who: (u128, u128, u128),
        minute: Minute,
        used: Amounts,
    }

    impl Told {
        fn day(&self) -> Day {
            Day(self.minute.0 / MINUTES_A_DAY)
        }

        fn is_of(&self, subject: u128) -> bool {
            [self.who.0, self.who.1, self.who.2].contains(&subject)
        }

        fn hold(&self, id: u128) -> Entry<String> {
            let asked = Asked {
                id: RequestLogId(id),
                at: self.minute.start(),
                organization: OrganizationId(self.who.0),
                project: ProjectId(self.who.1),
                key: ApiKeyId(self.who.2),
                endpoint: String::new(),
                dialect: String::new(),
                model: String::new(),
                stream: false,
                address: "::1".parse().expect("an address"),
            };
            let windows = Windows { minute: self.minute, day: self.day() };
            let (bound, amount) = (Bound::default(), Nano::ZERO);
            Entry::Hold(Hold { asked, windows, bound, amount, price_version: String::new() })
        }

        fn end(&self, id: u128) -> Entry<String> {
            let input = 1 + self.used.tokens.unsigned_abs() / 2;
            let output = self.used.tokens.unsigned_abs() - input;
            let used = Usage::tokens_of(input, output);
            let ended = Ended {
                id: RequestLogId(id),
                charge: Charge { usage: used, cost: self.used.spend, ..Charge::nothing() },
                counted: self.used.requests == 1,
                outcome: Outcome::Completed,
                status: 200,
                refusal: String::new(),
                upstream: String::new(),
                upstream_model: String::new(),
                output_clamped: false,
                attempts: 1,
                admitted_us: 0,
                first_byte_us: None,
                duration_us: 0,
                kept_id: None,
            };
            Entry::Settle(ended)
        }
    }

    async fn with_organizations(file: &std::path::Path) -> Database {
        let database = Database::open(file).await.expect("a database");
        let mut tx = database.begin().await.expect("a transaction");
        for organization in [1, 2] {
            for query in [
                "INSERT INTO organizations (id, name, status, self_funding, on_disconnect,
                    created_at, updated_at, version) VALUES (?, '', 'Active', 1, 'drain', 0, 0, 1)",
                "INSERT INTO wallets (organization_id, balance_nano, last_seq, is_active,
                    deactivated_by_operator, updated_at) VALUES (?, 0, 0, 1, 0, 0)",
            ] {
                let query = sqlx::query(query).bind(Uuid::from_u128(organization));
                query.execute(&mut *tx).await.expect("a row");
            }
        }
        tx.commit().await.expect("committed");
        database
    }

    async fn minute_of(database: &Database, subject: u128) -> (i64, Amounts) {
        let row = sqlx::query("SELECT * FROM usage_minutes WHERE subject_id = ?")
            .bind(Uuid::from_u128(subject))
            .fetch_one(database.reader())
            .await
            .expect("a minute");
        let spend = Nano(row.get("spend_nano"));
        (
            row.get("minute"),
            Amounts { requests: row.get("requests"), tokens: row.get("tokens"), spend },
        )
    }

    #[tokio::test]
    async fn an_id_of_state_stands_beside_its_project_for_30_days() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_organizations(&folder.path().join("gateway.db")).await;
        let mut batch = Batch::restore("node_1", []);
        let mut project = async |call: u128, who, at: Minute, ids: &[Option<&str>], now| {
            let used = Amounts { tokens: 2, ..Amounts::default() };
            let told = Told { who, minute: at, used };
            for (id, kept) in (call..).zip(ids) {
                batch.take(told.hold(id));
                let mut end = told.end(id);
                if let Entry::Settle(ended) = &mut end {
                    ended.kept_id = kept.map(str::to_owned);
                    ended.upstream = "u".to_owned();
                }
                batch.take(end);
            }
            commit(&database, &mut batch, &[], now).await.expect("committed");
            let rows = sqlx::query("SELECT * FROM provider_states ORDER BY created_at, project_id");
            let rows = rows.fetch_all(database.reader()).await.expect("rows");
            let row = |row: &sqlx::sqlite::SqliteRow| {
                assert_eq!(row.get::<&str, _>("upstream"), "u");
                let id: Vec<u8> = row.get("id_hash");
                (row.get::<Uuid, _>("project_id").as_u128(), id, row.get::<i64, _>("created_at"))
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        let row = |project, id, at: Minute| (project, key(id).to_vec(), at.start().0);
        let (first, other) = ((1, 11, 111), (2, 21, 211));
        let (day, later) = (Minute(MINUTES_A_DAY), Minute(32 * MINUTES_A_DAY));
        let rows = project(1, first, day, &[Some("a"), None, Some("a")], UnixMs(0)).await;
        assert_eq!(rows, [row(11, "a", day)], "once");
        let rows = project(4, other, later, &[Some("a")], later.start()).await;
        assert_eq!(rows, [row(11, "a", day), row(21, "a", later)], "each for itself");
        let rows = project(5, first, later, &[Some("a")], later.start()).await;
        assert_eq!(rows, [row(11, "a", later), row(21, "a", later)], "the old one is forgotten");
    }

    #[tokio::test]
    async fn a_call_is_the_usage_of_its_project_its_key_and_its_organization() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_organizations(&folder.path().join("gateway.db")).await;
        let midnight = 20_000 * MINUTES_A_DAY;
        let whose = [(1, 11, 111), (1, 11, 112), (1, 12, 121), (2, 21, 211)];
        let calls: Vec<Told> = (0..40)
            .zip(whose.into_iter().cycle())
            .map(|(n, who)| Told {
                who,
                // From the last minutes of a day into the next one; now and then a late one.
                minute: Minute(midnight - 2 + n / 8 - n % 5 / 4),
                used: Amounts {
                    requests: i64::from(n % 7 != 0),
                    tokens: 10 + n,
                    spend: Nano(1 << n),
                },
            })
            .collect();
        let mut batch = Batch::restore("node_1", []);
        for (part, half) in calls.chunks(20).zip(0..) {
            for (call, id) in part.iter().zip(100 * half..) {
                batch.take(call.hold(id));
                batch.take(call.end(id));
            }
            commit(&database, &mut batch, &[], UnixMs(0)).await.expect("committed");
        }

        for subject in [1, 2, 11, 12, 21, 111, 112, 121, 211] {
            let sum = |fits: &dyn Fn(&Told) -> bool| {
                let mut sum = Amounts::default();
                let own = calls.iter().filter(|call| call.is_of(subject) && fits(call));
                own.for_each(|call| sum += call.used);
                sum
            };
            for day in [Day(19_999), Day(20_000)] {
                let kept = usage::sum(database.reader(), subject, day, day.next()).await;
                let expected = sum(&|call| call.day() == day);
                assert_ne!(expected, Amounts::default(), "{subject} on {day}");
                assert_eq!(kept.expect("a sum"), expected, "{subject} on {day}");
            }
            let own = calls.iter().filter(|call| call.is_of(subject));
            let latest = own.map(|call| call.minute).max().expect("a call");
            let expected = (latest.0, sum(&|call| call.minute == latest));
            assert_eq!(minute_of(&database, subject).await, expected, "{subject}");
        }
    }
}
