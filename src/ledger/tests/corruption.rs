//! Each kind of corruption is applied to a sound database and must be found.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::ledger::chain_auditor::ChainAuditor;
use crate::ledger::tests::sound::{
    CALLERS, CHAIN, RECHARGE, append, corrupt, hold, id, settle, sound,
};
use crate::ledger::verify::{Verified, verify};
use crate::ledger::wallets::{self, NewRecord};
use crate::store::database::Database;
use crate::store::read_only::{ReadOnlyDatabase, ReadOnlyError};

async fn verify_folder(folder: &Path) -> Verified {
    let mut database = ReadOnlyDatabase::open(&folder.join("meteor.db")).await.expect("a store");
    let mut snapshot = database.begin_snapshot().await.expect("a snapshot");
    verify(&mut snapshot, &folder.join("journal")).await.expect("verified")
}

fn lines(verified: &Verified) -> Vec<String> {
    verified.findings.violations.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_sound_database_has_no_violations_and_is_not_modified() {
    let folder = sound().await;
    let files = || {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .map(|file| file.expect("a file").file_name())
            .collect();
        names.sort();
        (names, fs::read(folder.path().join("meteor.db")).expect("a file"))
    };
    let before = files();
    let verified = verify_folder(folder.path()).await;
    assert_eq!(lines(&verified), [""; 0]);
    assert_eq!((verified.organizations, verified.records, verified.calls), (2, 6, 4));
    assert_eq!((verified.open_holds, verified.frozen, verified.unprojected), (2, 67, Some(3)));
    assert!(!verified.is_stale);
    assert!(before == files(), "nothing is created or written");
}

/// SQL that corrupts the database, and a part of each violation that must be found.
const CORRUPTIONS: &[(&str, &[&str])] = &[
    (
        "UPDATE wallet_records SET seq = 5 WHERE organization_id = #1 AND seq = 4;
         UPDATE wallets SET last_seq = 5 WHERE organization_id = #1",
        &["wallet_records org_00000000000000000000000000000001 seq 5: follows seq 3; expected"],
    ),
    (
        "UPDATE wallet_records SET previous_balance_nano = 1001 WHERE seq = 2 AND kind = 'Consume'
            AND organization_id = #1",
        &[
            "seq 2: previous balance 0.000001001; expected 0.000001, the balance after the previous record",
        ],
    ),
    (
        "UPDATE wallet_records SET amount_nano = 31 WHERE request_log_id = #a AND kind = 'Consume'",
        &[
            "seq 2: current balance 0.00000097; expected 0.000000969, according to its amount",
            "balance -0.00000012; expected -0.00000012 according to the last record, -0.000000121 according",
            "org_00000000000000000000000000000001 organization: spend 0.00000113 over all days;",
            "proj_00000000000000000000000000000002: spend 0.00000113 over all days; expected 0.000001131",
            "key_00000000000000000000000000000003: spend 0.00000113 over all days;",
            "seq 2, call 00000000-0000-0000-0000-00000000000a: amount 0.000000031; expected 0.00000003",
        ],
    ),
    (
        "UPDATE wallet_records SET amount_nano = -10, previous_balance_nano = -110
            WHERE kind = 'Refund'",
        &[
            "seq 4: previous balance -0.00000011; expected",
            "seq 4: amount -0.00000001; expected at least 0",
            "wallets org_00000000000000000000000000000001 wallet: balance",
        ],
    ),
    (
        "UPDATE wallet_records SET kind = 'Gift' WHERE seq = 1 AND organization_id = #5",
        &["seq 1: kind \"Gift\"; expected Recharge, Consume or Refund"],
    ),
    (
        "UPDATE wallets SET balance_nano = balance_nano + 1 WHERE organization_id = #5",
        &[
            "wallet: balance 0.0000005; expected 0.000000499 according to the last record, 0.000000499 according",
        ],
    ),
    (
        "UPDATE wallets SET last_seq = 3 WHERE organization_id = #5",
        &["wallets org_00000000000000000000000000000005 wallet: last seq 3; expected 2"],
    ),
    (
        "DELETE FROM wallets WHERE organization_id = #5",
        &["wallet: missing, although there are records"],
    ),
    (
        "DROP INDEX one_consume_per_call;
         INSERT INTO wallet_records SELECT organization_id, 3, id, kind, 0, 499, 499,
            request_log_id, project_id, api_key_id, model, description, reference, actor,
            settled_by, overage, late, price_version, created_at FROM wallet_records
            WHERE request_log_id = #14;
         UPDATE wallets SET last_seq = 3 WHERE organization_id = #5",
        &[
            "seq 3, call 00000000-0000-0000-0000-000000000014: 2 Consumes of one call; expected at most one",
            "seq 3, call 00000000-0000-0000-0000-000000000014: amount 0.00; expected 0.000000001",
        ],
    ),
    (
        "UPDATE wallet_records SET amount_nano = 31, current_balance_nano = -99
            WHERE kind = 'Refund';
         UPDATE wallets SET balance_nano = -99 WHERE organization_id = #1",
        &[
            "seq 4, call 00000000-0000-0000-0000-00000000000a: refunds of 0.000000031; expected at most 0.00000003",
        ],
    ),
    (
        "UPDATE wallet_records SET request_log_id = #14 WHERE kind = 'Refund'",
        &[
            "refunds of 0.00000001; expected none, because the organization has no Consume of this call",
        ],
    ),
    (
        "UPDATE wallet_records SET overage = 0 WHERE request_log_id = #b",
        &["seq 3: balance -0.00000013; expected at least 0.00", "seq 4: balance -0.00000012;"],
    ),
    (
        "UPDATE usage_days SET spend_nano = spend_nano - 1 WHERE subject_id = #3",
        &[
            "usage_days org_00000000000000000000000000000001 key_00000000000000000000000000000003: spend",
        ],
    ),
    (
        "UPDATE usage_days SET requests = requests + 1 WHERE subject_id = #1",
        &[
            "usage_days org_00000000000000000000000000000001 day 0: exceeds its projects by 1 requests",
        ],
    ),
    (
        "INSERT INTO usage_days VALUES (#99, 4, 1, 1, 1, 8)",
        &[
            "subject 00000000-0000-0000-0000-000000000099: spend 0.000000008 over all days; expected 0",
        ],
    ),
    (
        "DELETE FROM request_logs WHERE id = #a",
        &["seq 2, call 00000000-0000-0000-0000-00000000000a: a Consume without a request log"],
    ),
    (
        "UPDATE request_logs SET api_key_id = #7 WHERE id = #a",
        &[
            "seq 2, call 00000000-0000-0000-0000-00000000000a: organization or key differs from the request log",
        ],
    ),
    (
        "UPDATE wallet_records SET request_log_id = NULL WHERE request_log_id = #14",
        &["seq 2, no call: a Consume without a request log", "cost 0.000000001 without a Consume"],
    ),
    (
        "UPDATE request_logs SET cost_nano = 7 WHERE id = #d",
        &[
            "request_logs org_00000000000000000000000000000001 call 00000000-0000-0000-0000-00000000000d: cost 0.000000007 without",
        ],
    ),
    (
        "INSERT INTO request_logs SELECT project_id, #f, organization_id, api_key_id, created_at,
            outcome, status, refusal, model, upstream, stream, 0, detail FROM request_logs
            WHERE id = #a",
        &[
            "open_holds org_00000000000000000000000000000001 call 00000000-0000-0000-0000-00000000000f: an open hold; expected no Consume",
        ],
    ),
    (
        "INSERT INTO request_logs SELECT project_id, #c, organization_id, api_key_id, created_at,
            outcome, status, refusal, model, upstream, stream, 0, detail FROM request_logs
            WHERE id = #a",
        &["call 00000000-0000-0000-0000-00000000000c: a result of a call that already has one"],
    ),
    (
        "UPDATE open_holds SET entry = x'00' WHERE request_log_id = #f",
        &["open_holds call 00000000-0000-0000-0000-00000000000f: not a journal entry"],
    ),
    (
        "UPDATE open_holds SET entry = (SELECT entry FROM open_holds WHERE request_log_id = #c)
            WHERE request_log_id = #f",
        &["open_holds call 00000000-0000-0000-0000-00000000000f: not a journal entry"],
    ),
    (
        "DELETE FROM open_holds WHERE request_log_id = #c",
        &["journal call 00000000-0000-0000-0000-00000000000c: a result without a Hold"],
    ),
];

/// Replaces `#1f` by the id 0x1f.
fn with_ids(sql: &str) -> String {
    let mut parts = sql.split('#');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(part.len());
        whole += &id(u128::from_str_radix(&part[..end], 16).expect("an id"));
        whole += &part[end..];
    }
    whole
}

#[tokio::test]
async fn each_corruption_is_found_and_nothing_else() {
    let sound = sound().await;
    for (sql, expected) in CORRUPTIONS {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("journal")).expect("a folder");
        let segment = CHAIN.segment(0).path(Path::new("journal"));
        for file in [Path::new("meteor.db"), &segment] {
            fs::copy(sound.path().join(file), folder.path().join(file)).expect("copied");
        }
        corrupt(folder.path(), &with_ids(sql)).await;
        let found = lines(&verify_folder(folder.path()).await);
        assert_eq!(found.len(), expected.len(), "{sql}: {found:#?}");
        for part in *expected {
            let is_found = found.iter().any(|line| line.contains(part));
            assert!(is_found, "{sql}: {part} is not in {found:#?}");
        }
    }
}

#[tokio::test]
async fn journal_results_need_a_hold_and_come_once() {
    for (entry, expected) in [
        (
            settle(99, 1),
            "journal call 00000000-0000-0000-0000-000000000063: a result without a Hold",
        ),
        (
            settle(12, 1),
            "journal org_00000000000000000000000000000001 call 00000000-0000-0000-0000-00000000000c: a second result",
        ),
        (
            hold(15, CALLERS[0], 1),
            "journal org_00000000000000000000000000000001 call 00000000-0000-0000-0000-00000000000f: a second Hold",
        ),
        (hold(12, CALLERS[0], 1), "call 00000000-0000-0000-0000-00000000000c: a second Hold"),
    ] {
        let folder = sound().await;
        append(folder.path(), 0, &[entry]);
        let found = lines(&verify_folder(folder.path()).await);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
    }
}

#[tokio::test]
async fn no_hold_is_missed_while_the_journal_is_written() {
    let folder = sound().await;
    // The next segment is prepared, as in production, and not written yet.
    fs::write(CHAIN.segment(1).path(&folder.path().join("journal")), [0; 64]).expect("written");
    assert_eq!(lines(&verify_folder(folder.path()).await), [""; 0]);
    append(folder.path(), 0, &[hold(16, CALLERS[1], 1)]);
    fs::remove_file(CHAIN.segment(1).path(&folder.path().join("journal"))).expect("removed");
    append(folder.path(), 1, &[settle(16, 1)]);
    let verified = verify_folder(folder.path()).await;
    assert_eq!((lines(&verified), verified.unprojected), (vec![], Some(5)));
    fs::remove_file(CHAIN.segment(0).path(&folder.path().join("journal"))).expect("removed");
    let verified = verify_folder(folder.path()).await;
    assert!(verified.is_stale, "a newer snapshot may not need it");
    assert!(lines(&verified)[0].contains("00000001-000-00000000.journal: no such file"));
}

#[tokio::test]
async fn foreign_and_incompatible_databases_are_distinguished() {
    let folder = sound().await;
    let file = folder.path().join("meteor.db");
    let open = async || ReadOnlyDatabase::open(&file).await.map(drop).expect_err("refused");
    corrupt(folder.path(), "UPDATE _sqlx_migrations SET version = 9000 WHERE version = 1").await;
    assert!(matches!(open().await, ReadOnlyError::Schema { found: 9000, .. }));
    corrupt(folder.path(), "DELETE FROM _sqlx_migrations WHERE version <> 2").await;
    let found = open().await.to_string();
    assert!(
        found.contains("has schema version 2, this program supports")
            && found.contains("to migrate it"),
        "{found}"
    );
    fs::write(&file, "not a database, and longer than a database header").expect("written");
    assert!(matches!(open().await, ReadOnlyError::NotADatabase(..)));
    fs::write(&file, "").expect("written");
    assert!(matches!(open().await, ReadOnlyError::NotADatabase(..)));
    fs::remove_file(&file).expect("removed");
    assert!(matches!(open().await, ReadOnlyError::NotFound(_)));
    assert!(!file.exists(), "nothing is created");
}

#[tokio::test]
async fn the_auditor_verifies_new_records_and_remembers_violations() {
    let folder = sound().await;
    let database = Database::open(&folder.path().join("meteor.db")).await.expect("a database");
    let (auditor, first) = (ChainAuditor::default(), OrganizationId(1));
    let check = async || {
        auditor.check_all(database.reader()).await.expect("checked");
        auditor.check(database.reader(), first, UnixMs(9)).await.expect("verified")
    };
    let status = check().await;
    assert_eq!((status.last_seq, status.ok, status.checked_at), (4, true, UnixMs(9)));
    let mut tx = database.begin().await.expect("a transaction");
    wallets::post(&mut tx, first, &NewRecord { amount: Nano(9), ..RECHARGE }, UnixMs(0))
        .await
        .expect("posted");
    tx.commit().await.expect("committed");
    assert_eq!((check().await.last_seq, check().await.ok), (5, true));
    corrupt(folder.path(), "UPDATE wallets SET balance_nano = balance_nano + 1").await;
    let status = check().await;
    assert_eq!((status.last_seq, status.ok), (5, false));
    corrupt(folder.path(), "UPDATE wallets SET balance_nano = balance_nano - 1").await;
    assert!(!check().await.ok, "a violation is remembered");
}

#[tokio::test]
async fn a_journal_chain_is_read_to_its_last_segment() {
    let folder = sound().await;
    append(folder.path(), 1, &[hold(16, CALLERS[1], 1)]);
    append(folder.path(), 2, &[settle(16, 1)]);
    let verified = verify_folder(folder.path()).await;
    assert_eq!((lines(&verified), verified.unprojected), (vec![], Some(5)));
}

#[tokio::test]
async fn check_all_covers_every_chain_and_check_finds_excess_refunds() {
    let folder = sound().await;
    let database = Database::open(&folder.path().join("meteor.db")).await.expect("a database");
    let check = async |auditor: &ChainAuditor| {
        auditor.check(database.reader(), OrganizationId(1), UnixMs(9)).await.expect("verified").ok
    };
    let auditor = ChainAuditor::default();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(Duration::from_millis(2) <= auditor.age());
    let started = clock::monotonic_now();
    corrupt(folder.path(), "UPDATE wallets SET balance_nano = balance_nano + 1").await;
    auditor.check_all(database.reader()).await.expect("checked");
    assert!(auditor.age() <= clock::elapsed_since(started));
    corrupt(folder.path(), "UPDATE wallets SET balance_nano = balance_nano - 1").await;
    assert!(!check(&auditor).await, "check_all has found the violation");
    assert!(check(&ChainAuditor::default()).await);
    let refund = "UPDATE wallet_records SET amount_nano = 31, current_balance_nano = -99
            WHERE kind = 'Refund';
         UPDATE wallets SET balance_nano = -99 WHERE organization_id = #1";
    corrupt(folder.path(), &with_ids(refund)).await;
    assert!(!check(&ChainAuditor::default()).await);
}
