//! A sound database and journal with every kind of row, for the verification tests.

use std::fs;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::domain::settlement::Charge;
use crate::domain::status::Outcome;
use crate::domain::time::UnixMs;
use crate::domain::usage::Usage;
use crate::journal::entry::{CallOwner, CallResult, Entry, Hold, Progress};
use crate::journal::format;
use crate::journal::segment::ChainName;
use crate::ledger::batch::Batch;
use crate::ledger::persist;
use crate::ledger::persist::Checkpoint;
use crate::ledger::records;
use crate::ledger::wallets::{self, NewRecord};
use crate::store::database::Database;

/// The only chain of the journal.
pub const CHAIN: ChainName = ChainName { run: 1, worker: 0 };

/// Two organizations, each with a project and a key.
pub const CALLERS: [(u128, u128, u128); 2] = [(1, 2, 3), (5, 6, 7)];

/// The entry of an admitted call.
pub fn hold(id: u128, caller: (u128, u128, u128), amount: i64) -> Entry<String> {
    let owner = CallOwner {
        organization: OrganizationId(caller.0),
        project: ProjectId(caller.1),
        key: ApiKeyId(caller.2),
        ..CallOwner::UNKNOWN
    };
    let bare = CallResult::minimal(RequestLogId(id), owner, Outcome::Completed);
    Entry::Hold(Hold { amount: Nano(amount), ..bare.synthesize_hold() })
}

fn result(id: u128, cost: i64, overage: bool) -> CallResult<String> {
    let usage = Usage::from_tokens(3, 4);
    CallResult {
        charge: Charge { usage, cost: Nano(cost), overage, ..Charge::not_charged() },
        counted: true,
        status: 200,
        attempts: 1,
        ..CallResult::minimal(RequestLogId(id), CallOwner::UNKNOWN, Outcome::Completed)
    }
}

/// The entry of a charged call.
pub fn settle(id: u128, cost: i64) -> Entry<String> {
    Entry::Settled(result(id, cost, false))
}

/// Appends entries to a segment and returns the size of the segment.
pub fn append(folder: &Path, number: u32, entries: &[Entry<String>]) -> u64 {
    let path = CHAIN.segment(number).path(&folder.join("journal"));
    let mut bytes = fs::read(&path).unwrap_or_default();
    for entry in entries {
        format::write(entry, &mut bytes);
    }
    fs::write(path, &bytes).expect("a segment");
    bytes.len() as u64
}

/// Creates a sound data folder. The balances are -120 (an overage of 200) and 499. The calls 12 and
/// 15 are open in the database; the journal ends call 12 and opens call 14.
pub async fn sound() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("journal")).expect("a folder");
    let database = Database::open(&folder.path().join("meteor.db")).await.expect("a database");
    let mut tx = database.begin().await.expect("a transaction");
    for (organization, project, _) in CALLERS {
        let query = format!(
            "INSERT INTO organizations (id, name, status, self_funding, on_disconnect, created_at,
                updated_at, version) VALUES ({0}, '', 'Active', 1, 'drain', 0, 0, 1);
             INSERT INTO wallets VALUES ({0}, 0, 0, 1, 0, 0);
             INSERT INTO projects (id, organization_id, name, status, created_by, created_at,
                updated_at, version) VALUES ({1}, {0}, '', 'Active', x'00', 0, 0, 1)",
            id(organization),
            id(project)
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(query)).execute(&mut *tx).await.expect("rows");
        let recharge =
            NewRecord { amount: Nano(if organization == 1 { 1_000 } else { 500 }), ..RECHARGE };
        wallets::post(&mut tx, OrganizationId(organization), &recharge, UnixMs(0))
            .await
            .expect("posted");
    }
    let entries = [
        hold(10, CALLERS[0], 40),
        settle(10, 30),
        hold(11, CALLERS[0], 900),
        hold(12, CALLERS[0], 50),
        Entry::Settled(result(11, 1_100, true)),
        hold(13, CALLERS[0], 0),
        Entry::Voided(CallResult { charge: Charge::not_charged(), ..result(13, 0, false) }),
        hold(15, CALLERS[0], 60),
        hold(20, CALLERS[1], 1),
        settle(20, 1),
    ];
    let position = append(folder.path(), 0, &entries);
    let mut batch = Batch::restore("node_1", []);
    for entry in entries {
        batch.apply(entry);
    }
    let checkpoint = Checkpoint { chain: CHAIN.number(), segment: 0, position };
    persist::write_batch(&mut tx, &batch, &[checkpoint], UnixMs(0)).await.expect("projected");
    let first = OrganizationId(1);
    let consume = records::consume(&mut tx, first, RequestLogId(10)).await.expect("read");
    let consume = consume.expect("a Consume");
    let refund = NewRecord {
        kind: RecordKind::Refund,
        amount: Nano(10),
        consume: Some(&consume),
        ..RECHARGE
    };
    wallets::post(&mut tx, first, &refund, UnixMs(0)).await.expect("posted");
    tx.commit().await.expect("committed");
    database.close().await;
    let progress = Progress { id: RequestLogId(14), charge: Charge::not_charged() };
    let tail = [hold(14, CALLERS[0], 7), Entry::Progress(progress), settle(12, 5)];
    append(folder.path(), 0, &tail);
    folder
}

/// A recharge of zero, to be overridden.
pub const RECHARGE: NewRecord<'_> = NewRecord {
    kind: RecordKind::Recharge,
    amount: Nano::ZERO,
    consume: None,
    description: None,
    reference: None,
    actor: "{}",
};

/// Formats an id as an SQL literal.
pub fn id(id: u128) -> String {
    format!("x'{id:032x}'")
}

/// Executes SQL that the gateway would never execute.
pub async fn corrupt(folder: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(folder.join("meteor.db"));
    let mut connection = options.foreign_keys(false).connect().await.expect("a database");
    let sql = format!(
        "PRAGMA ignore_check_constraints = ON;
         DROP TRIGGER IF EXISTS wallet_records_are_never_changed;
         DROP TRIGGER IF EXISTS wallet_records_are_never_deleted;
         {sql}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut connection).await.expect(&sql);
    connection.close().await.expect("closed");
}
