//! Recovery and projection on a real database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use crate::domain::counter::Windows;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::settlement::{Charge, SettledBy};
use crate::domain::status::Outcome;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::domain::usage::Usage;
use crate::journal::chains::{Durability, Journal, JournalSettings};
use crate::journal::entry::{CallOwner, CallResult, Entry, Progress};
use crate::journal::segment::{self, ChainName};
use crate::journal::writer::Writer;
use crate::ledger::batch::Batch;
use crate::ledger::persist::Checkpoint;
use crate::ledger::recovery::{commit, first_gap, recover};
use crate::store::database::Database;
use crate::store::provider_states::state_key;
use crate::store::usage;

const MINUTES_A_DAY: i64 = 1_440;

/// A call of (organization, project, key) in a minute, and its usage.
#[derive(Clone, Copy)]
pub struct CallFixture {
    pub caller: (u128, u128, u128),
    pub minute: Minute,
    pub used: Amounts,
}

impl CallFixture {
    fn day(&self) -> Day {
        Day(self.minute.0 / MINUTES_A_DAY)
    }

    fn is_of(&self, subject: u128) -> bool {
        [self.caller.0, self.caller.1, self.caller.2].contains(&subject)
    }

    fn windows(&self) -> Windows {
        Windows { minute: self.minute, day: self.day() }
    }

    fn minimal(&self, id: u128) -> CallResult<String> {
        let owner = CallOwner {
            organization: OrganizationId(self.caller.0),
            project: ProjectId(self.caller.1),
            key: ApiKeyId(self.caller.2),
            windows: self.windows(),
        };
        CallResult::minimal(RequestLogId(id), owner, Outcome::Completed)
    }

    pub fn hold(&self, id: u128) -> Entry<String> {
        let mut hold = self.minimal(id).synthesize_hold();
        hold.header.at = self.minute.start();
        Entry::Hold(hold)
    }

    pub fn end(&self, id: u128) -> Entry<String> {
        let input = 1 + self.used.tokens.unsigned_abs() / 2;
        let output = self.used.tokens.unsigned_abs() - input;
        let used = Usage::from_tokens(input, output);
        Entry::Settled(CallResult {
            charge: Charge { usage: used, cost: self.used.spend, ..Charge::not_charged() },
            counted: self.used.requests == 1,
            status: 200,
            attempts: 1,
            ..self.minimal(id)
        })
    }
}

/// A database with the organizations 1 and 2, whose wallets are empty.
pub async fn with_organizations(file: &Path) -> Database {
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
    (row.get("minute"), Amounts { requests: row.get("requests"), tokens: row.get("tokens"), spend })
}

#[tokio::test]
async fn a_state_id_is_stored_with_its_project_for_30_days() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let mut batch = Batch::restore("node_1", []);
    let mut project = async |first_id: u128, caller, at: Minute, ids: &[Option<&str>], now| {
        let used = Amounts { tokens: 2, ..Amounts::default() };
        let call = CallFixture { caller, minute: at, used };
        for (id, state_id) in (first_id..).zip(ids) {
            batch.apply(call.hold(id));
            let mut end = call.end(id);
            if let Entry::Settled(result) = &mut end {
                result.state_id = state_id.map(str::to_owned);
                result.upstream = "u".to_owned();
            }
            batch.apply(end);
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
    let row = |project, id, at: Minute| (project, state_key(id).to_vec(), at.start().0);
    let (first, other) = ((1, 11, 111), (2, 21, 211));
    let (day, later) = (Minute(MINUTES_A_DAY), Minute(32 * MINUTES_A_DAY));
    let rows = project(1, first, day, &[Some("a"), None, Some("a")], UnixMs(0)).await;
    assert_eq!(rows, [row(11, "a", day)], "stored once");
    let rows = project(4, other, later, &[Some("a")], later.start()).await;
    assert_eq!(
        rows,
        [row(11, "a", day), row(21, "a", later)],
        "ids of different projects are separate"
    );
    let rows = project(5, first, later, &[Some("a")], later.start()).await;
    let mut both = vec![row(11, "a", later), row(21, "a", later)];
    assert_eq!(rows, both, "the expired row is deleted");
    let next = Minute(later.0 + 1);
    both.push(row(11, "b", next));
    assert_eq!(project(6, first, next, &[Some("b")], next.start()).await, both, "other rows stay");
}

#[tokio::test]
async fn a_result_without_its_hold_is_posted_once_as_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let used = Amounts { requests: 1, tokens: 30, spend: Nano(7) };
    let call = CallFixture { caller: (1, 11, 111), minute: Minute(3 * MINUTES_A_DAY), used };
    let nobody = CallFixture { caller: (9, 11, 111), ..call };
    let mut batch = Batch::restore("node_1", []);
    for round in 0..2 {
        // The second round repeats results that are already posted.
        for end in [call.end(5), call.end(5), nobody.end(6)] {
            batch.apply(end);
        }
        commit(&database, &mut batch, &[], UnixMs(0)).await.expect("committed");
        let records = sqlx::query("SELECT amount_nano, late FROM wallet_records");
        let records = records.fetch_all(database.reader()).await.expect("records");
        let row = |row: &sqlx::sqlite::SqliteRow| (row.get::<i64, _>(0), row.get::<bool, _>(1));
        assert_eq!(records.iter().map(row).collect::<Vec<_>>(), [(7, true)], "{round}");
        let day = usage::sum(database.reader(), 11, call.day(), call.day().next()).await;
        assert_eq!(day.expect("a sum"), used, "{round}");
    }
}

#[test]
fn a_missing_segment_before_another_is_a_gap() {
    let gap = |start, numbers: &[u32]| first_gap(start, numbers.iter().copied());
    assert_eq!(gap(0, &[0, 1, 2]), None);
    assert_eq!(gap(2, &[1, 2, 3]), None, "projected segments may be missing");
    assert_eq!(gap(0, &[]), None);
    assert_eq!((gap(0, &[1]), gap(1, &[0, 2]), gap(1, &[1, 3])), (Some(0), Some(1), Some(2)));
}

#[tokio::test]
async fn a_call_counts_for_its_project_key_and_organization() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let midnight = 20_000 * MINUTES_A_DAY;
    let owner = [(1, 11, 111), (1, 11, 112), (1, 12, 121), (2, 21, 211)];
    let calls: Vec<CallFixture> = (0..40)
        .zip(owner.into_iter().cycle())
        .map(|(n, caller)| CallFixture {
            caller,
            // From the last minutes of a day into the next; some calls are late by a minute.
            minute: Minute(midnight - 2 + n / 8 - n % 5 / 4),
            used: Amounts { requests: i64::from(n % 7 != 0), tokens: 10 + n, spend: Nano(1 << n) },
        })
        .collect();
    let mut batch = Batch::restore("node_1", []);
    for (part, half) in calls.chunks(20).zip(0..) {
        for (call, id) in part.iter().zip(100 * half..) {
            batch.apply(call.hold(id));
            batch.apply(call.end(id));
        }
        commit(&database, &mut batch, &[], UnixMs(0)).await.expect("committed");
    }

    for subject in [1, 2, 11, 12, 21, 111, 112, 121, 211] {
        let sum = |fits: &dyn Fn(&CallFixture) -> bool| {
            let mut sum = Amounts::default();
            let own = calls.iter().filter(|call| call.is_of(subject) && fits(call));
            own.for_each(|call| sum += call.used);
            sum
        };
        for day in [Day(19_999), Day(20_000)] {
            let state_id = usage::sum(database.reader(), subject, day, day.next()).await;
            let expected = sum(&|call| call.day() == day);
            assert_ne!(expected, Amounts::default(), "{subject} on {day}");
            assert_eq!(state_id.expect("a sum"), expected, "{subject} on {day}");
        }
        let own = calls.iter().filter(|call| call.is_of(subject));
        let latest = own.map(|call| call.minute).max().expect("a call");
        let expected = (latest.0, sum(&|call| call.minute == latest));
        assert_eq!(minute_of(&database, subject).await, expected, "{subject}");
    }
}

/// The progress of a call: 6 nano-units for 5 tokens.
pub fn progress(id: u128) -> Entry<String> {
    let charge = Charge {
        usage: Usage::from_tokens(3, 2),
        cost: Nano(6),
        settled_by: SettledBy::Estimate,
        overage: false,
    };
    Entry::Progress(Progress { id: RequestLogId(id), charge })
}

/// Writes entries to the journal of a run and closes it.
fn write_run(folder: &Path, run: u32, entries: &[Entry<String>]) {
    let settings = JournalSettings {
        folder: folder.to_owned(),
        durability: Durability::Process,
        segment_bytes: 1 << 20,
        retention: Duration::from_mins(1),
        backlog_bytes_max: 1 << 30,
    };
    let journal = Arc::new(Journal::open(settings, run, 1).expect("a journal"));
    journal.start_maintenance().expect("a thread");
    let writer = Writer::new(Arc::clone(&journal.chains()[0])).expect("a segment");
    for entry in entries {
        writer.append(entry);
    }
    writer.commit();
}

async fn counted(database: &Database, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(database.reader()).await.expect("a count")
}

#[tokio::test]
async fn recovery_projects_the_last_run_once_and_ends_its_open_calls() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let used = Amounts { requests: 1, tokens: 30, spend: Nano(7) };
    let call = CallFixture { caller: (1, 11, 111), minute: Minute(3 * MINUTES_A_DAY), used };
    let entries = [call.hold(1), call.end(1), call.hold(2), progress(2), call.hold(3)];
    write_run(folder.path(), 1, &entries);
    let now = UnixMs(call.minute.start().0 + 5);
    let again = async || {
        let recovered = recover(&database, folder.path(), "node_1", now).await.expect("recovered");
        let day = usage::sum(database.reader(), 11, call.day(), call.day().next()).await;
        let expected = Amounts { requests: 3, tokens: 30 + 5, spend: Nano(7 + 6) };
        assert_eq!(day.expect("a sum"), expected, "one result, one progress, one voided");
        assert_eq!(counted(&database, "SELECT count(*) FROM open_holds").await, 0);
        let restarted = "SELECT count(*) FROM request_logs
            WHERE outcome = 'Failed' AND refusal = 'gateway_restarted'
            AND detail ->> 'attempts' = 1 AND detail ->> 'durationMs' = 5";
        assert_eq!(counted(&database, restarted).await, 2);
        let chains = counted(&database, "SELECT count(*) FROM journal_checkpoints").await;
        (recovered.next_run, recovered.entries, recovered.orphans, chains)
    };
    assert_eq!(again().await, (2, 5, 2, 1));
    assert_eq!(again().await, (3, 0, 0, 1), "nothing new");
    for name in segment::list(folder.path()).expect("segments") {
        std::fs::remove_file(name.path(folder.path())).expect("removed");
    }
    assert_eq!(again().await, (4, 0, 0, 0), "the checkpoint of the removed chain is deleted");
}

#[tokio::test]
async fn open_calls_are_restored_from_the_database() {
    let used = Amounts { requests: 1, tokens: 30, spend: Nano(7) };
    let call = CallFixture { caller: (1, 11, 111), minute: Minute(3 * MINUTES_A_DAY), used };
    for (seen, spend, orphans) in [
        (vec![vec![call.hold(1)]], 0, 1),
        (vec![vec![call.hold(1), progress(1)]], 6, 1),
        (vec![vec![call.hold(1)], vec![progress(1)]], 6, 1),
        (vec![vec![call.hold(1)], vec![call.end(1)]], 7, 0),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_organizations(&folder.path().join("gateway.db")).await;
        let mut batch = Batch::restore("node_1", []);
        for entries in seen {
            assert!(batch.is_empty());
            for entry in entries {
                batch.apply(entry);
            }
            assert!(!batch.is_empty());
            commit(&database, &mut batch, &[], UnixMs(0)).await.expect("committed");
        }
        let recovered = recover(&database, folder.path(), "node_2", UnixMs(9)).await;
        assert_eq!(recovered.expect("recovered").orphans, orphans, "{spend}");
        let day = usage::sum(database.reader(), 11, call.day(), call.day().next()).await;
        let day = day.expect("a sum");
        assert_eq!((day.requests, day.spend), (1, Nano(spend)));
        assert_eq!(counted(&database, "SELECT count(*) FROM open_holds").await, 0, "{spend}");
        let seen_by = if orphans == 1 { "node_2" } else { "node_1" };
        let detail: String = sqlx::query_scalar("SELECT detail FROM request_logs")
            .fetch_one(database.reader())
            .await
            .expect("a call");
        assert!(detail.contains(&format!("\"node\":\"{seen_by}\"")), "{detail}");
    }
}

#[tokio::test]
async fn each_chain_has_its_own_checkpoint_which_is_deleted_with_its_segments() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let used = Amounts { requests: 1, tokens: 30, spend: Nano(7) };
    let call = CallFixture { caller: (1, 11, 111), minute: Minute(3 * MINUTES_A_DAY), used };
    write_run(folder.path(), 1, &[call.hold(1), call.end(1)]);
    write_run(folder.path(), 2, &[call.hold(2), call.end(2)]);
    // The later chain is already in its fourth segment, and the earlier segments are gone.
    let later = ChainName { run: 2, worker: 0 };
    let [first, fourth] = [0, 3].map(|number| later.segment(number).path(folder.path()));
    std::fs::rename(first, fourth).expect("renamed");
    let checkpoint = Checkpoint { chain: later.number(), segment: 3, position: 0 };
    let mut batch = Batch::restore("node_1", []);
    commit(&database, &mut batch, &[checkpoint], UnixMs(0)).await.expect("committed");
    let again = async || {
        let recovered = recover(&database, folder.path(), "node_1", UnixMs(9)).await;
        let chains = counted(&database, "SELECT count(*) FROM journal_checkpoints").await;
        (recovered.expect("recovered").entries, chains)
    };
    assert_eq!(again().await, (4, 2));
    let segments = segment::list(folder.path()).expect("segments").into_iter();
    for name in segments.filter(|name| name.chain() == later) {
        std::fs::remove_file(name.path(folder.path())).expect("removed");
    }
    assert_eq!(again().await, (0, 1));
}
