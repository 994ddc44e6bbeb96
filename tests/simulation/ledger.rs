//! Compares the database with the model: of each journal chain the first entries, each call exactly
//! as it ended, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::model::{End, Model, ModelEntry, Subject, Sums};
use crate::world::World;

/// Checks the database. If `is_complete`, everything written must be in it.
pub async fn check(world: &World, is_complete: bool) {
    let mut tx = world.node.database.begin_snapshot().await.expect("a picture");
    let logged_ids = check_request_log(&mut tx, &world.model, is_complete).await;
    for organization in [1, 2] {
        check_wallet_chain(&mut tx, &world.model, organization, &logged_ids).await;
    }
    check_usage(&mut tx, &world.model, &logged_ids).await;
    if is_complete {
        let open = rows(&mut tx, "SELECT request_log_id FROM open_holds").await;
        let open: BTreeSet<u64> = open.iter().map(|row| number(row, 0)).collect();
        let held = world.model.calls.iter();
        let held = held.filter(|call| !logged_ids.contains(&call.id));
        let held: BTreeSet<u64> =
            held.map(|call| call.id).filter(|id| world.model.is_held(*id)).collect();
        assert_eq!(open, held, "open holds in the database");
    }
}

async fn rows(connection: &mut SqliteConnection, query: &'static str) -> Vec<SqliteRow> {
    sqlx::query(query).fetch_all(connection).await.expect(query)
}

fn number(row: &SqliteRow, column: usize) -> u64 {
    u64::try_from(row.get::<Uuid, _>(column).as_u128()).expect("a small number")
}

/// Checks the request log: calls that ended before this run, and a prefix of the ends of each
/// chain. Returns their ids.
async fn check_request_log(
    tx: &mut SqliteConnection,
    model: &Model,
    is_complete: bool,
) -> BTreeSet<u64> {
    let query = "SELECT id, cost_nano FROM request_logs WHERE outcome <> 'Refused'";
    let logged: BTreeMap<u64, i64> =
        rows(tx, query).await.iter().map(|row| (number(row, 0), row.get(1))).collect();
    let mut expected: BTreeSet<u64> = model.calls.iter().map(|call| call.id).collect();
    for (entries, written) in &model.chains {
        for entry in entries {
            if let ModelEntry::Held(id) = entry {
                expected.remove(id);
            }
        }
        let mut is_prefix = true;
        for entry in &entries[..*written] {
            let ModelEntry::Ended(id, _) = entry else { continue };
            let is_logged = logged.contains_key(id);
            assert!(is_prefix || !is_logged, "{id} is logged, but a call that ended before is not");
            assert!(is_logged || !is_complete, "{id} has ended, and is not in the log");
            is_prefix = is_logged;
            if is_logged {
                expected.insert(*id);
            }
        }
    }
    let logged_ids: BTreeSet<u64> = logged.keys().copied().collect();
    assert_eq!(logged_ids, expected, "calls in the log");
    for (id, end) in ends(model, &logged_ids) {
        assert_eq!(logged[&id], end.money, "the cost of {id} in the log");
    }
    logged_ids
}

fn ends(model: &Model, logged_ids: &BTreeSet<u64>) -> Vec<(u64, End)> {
    let ended = model.calls.iter().filter(|call| logged_ids.contains(&call.id));
    ended.map(|call| (call.id, call.end.expect("the call has ended"))).collect()
}

/// Checks the records of a wallet: one chain, the payments, and one Consume per charged call.
async fn check_wallet_chain(
    tx: &mut SqliteConnection,
    model: &Model,
    organization: Subject,
    logged_ids: &BTreeSet<u64>,
) {
    let query = "SELECT request_log_id, organization_id, seq, kind, amount_nano,
        previous_balance_nano, current_balance_nano, overage FROM wallet_records
        ORDER BY organization_id, seq";
    let (mut seq, mut balance) = (0, 0);
    let (mut consumed, mut payments) = (BTreeMap::new(), Vec::new());
    for row in rows(tx, query).await.iter().filter(|row| number(row, 1) == organization) {
        seq += 1;
        assert_eq!(
            (row.get::<i64, _>(2), row.get::<i64, _>(5)),
            (seq, balance),
            "an unbroken chain"
        );
        let amount: i64 = row.get(4);
        let call = row.get::<Option<Uuid>, _>(0).map(|_| number(row, 0));
        balance = row.get(6);
        let moved = balance - row.get::<i64, _>(5);
        if row.get::<&str, _>(3) == "Consume" {
            assert_eq!(moved, -amount);
            let twice = consumed.insert(call.expect("a call"), (amount, row.get::<bool, _>(7)));
            assert_eq!(twice, None, "a call has one debit");
        } else {
            assert_eq!(moved, amount);
            payments.push((organization, amount, call));
        }
    }
    let belongs = |call: &u64| {
        model.calls.iter().any(|c| c.id == *call && c.owner.organization == organization)
    };
    let charged =
        ends(model, logged_ids).into_iter().filter(|(id, end)| end.charged && belongs(id));
    let charged: BTreeMap<u64, (i64, bool)> =
        charged.map(|(id, end)| (id, (end.money, end.overage))).collect();
    assert_eq!(consumed, charged, "what the calls of {organization} are charged");
    let expected: Vec<_> =
        model.payments.iter().filter(|payments| payments.0 == organization).copied().collect();
    assert_eq!(payments, expected, "what was paid to {organization}");
    let overages: i64 = charged.values().filter(|(_, over)| *over).map(|(cost, _)| cost).sum();
    assert!(-overages <= balance, "{balance} of {organization} is below zero by more than overage");
    let query = "SELECT organization_id, balance_nano, last_seq FROM wallets";
    let wallets = rows(tx, query).await;
    let wallet = wallets.iter().find(|row| number(row, 0) == organization).expect("a wallet");
    assert_eq!((wallet.get::<i64, _>(1), wallet.get::<i64, _>(2)), (balance, seq), "the wallet");
}

/// Checks the usage by day and in the latest minute.
async fn check_usage(tx: &mut SqliteConnection, model: &Model, logged_ids: &BTreeSet<u64>) {
    let mut days: BTreeMap<Subject, BTreeMap<i64, Sums>> = BTreeMap::new();
    let query = "SELECT subject_id, day, requests, input_tokens + output_tokens, spend_nano
        FROM usage_days";
    for row in rows(tx, query).await {
        let sums = [row.get(2), row.get(3), row.get(4)];
        days.entry(number(&row, 0)).or_default().insert(row.get(1), sums);
    }
    let query = "SELECT subject_id, minute, requests, tokens, spend_nano FROM usage_minutes";
    let minutes: BTreeMap<Subject, (i64, Sums)> = rows(tx, query)
        .await
        .iter()
        .map(|row| (number(row, 0), (row.get(1), [row.get(2), row.get(3), row.get(4)])))
        .collect();
    for subject in model.subjects() {
        let (expected_days, expected_minute) = model.usage(subject, logged_ids);
        assert_eq!(days.remove(&subject).unwrap_or_default(), expected_days, "days of {subject}");
        assert_eq!(minutes.get(&subject).copied(), expected_minute, "latest minute of {subject}");
    }
}
