//! Writes a batch to the database, in one transaction with its journal checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::domain::settlement::Charge;
use crate::domain::time::UnixMs;
use crate::journal::entry::Entry;
use crate::journal::format;
use crate::ledger::batch::Batch;
use crate::ledger::bulk_insert::BulkInsert;
use crate::ledger::finished_call::{AdmittedCall, CallEnd, FinishedCall};
use crate::store::call_idempotency;
use crate::store::provider_states::{STATE_RETENTION_MS, state_key};

static RECORDS: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO wallet_records (organization_id, seq, id, kind, amount_nano,
        previous_balance_nano, current_balance_nano, request_log_id, project_id, api_key_id,
        model, settled_by, overage, late, price_version, created_at)";
    BulkInsert::new(head, 16, "")
});

static CALLS: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO request_logs (project_id, id, organization_id, api_key_id, created_at,
        outcome, status, refusal, model, upstream, stream, cost_nano, detail)";
    BulkInsert::new(head, 13, "")
});

static DAYS: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO usage_days
        (subject_id, day, requests, input_tokens, output_tokens, spend_nano)";
    let tail = "ON CONFLICT (subject_id, day) DO UPDATE SET
        requests = usage_days.requests + excluded.requests,
        input_tokens = usage_days.input_tokens + excluded.input_tokens,
        output_tokens = usage_days.output_tokens + excluded.output_tokens,
        spend_nano = usage_days.spend_nano + excluded.spend_nano";
    BulkInsert::new(head, 6, tail)
});

static MINUTES: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO usage_minutes (subject_id, minute, requests, tokens, spend_nano)";
    let tail = "ON CONFLICT (subject_id) DO UPDATE SET
        requests = excluded.requests + CASE usage_minutes.minute WHEN excluded.minute
            THEN usage_minutes.requests ELSE 0 END,
        tokens = excluded.tokens + CASE usage_minutes.minute WHEN excluded.minute
            THEN usage_minutes.tokens ELSE 0 END,
        spend_nano = excluded.spend_nano + CASE usage_minutes.minute WHEN excluded.minute
            THEN usage_minutes.spend_nano ELSE 0 END,
        minute = excluded.minute
        WHERE usage_minutes.minute <= excluded.minute";
    BulkInsert::new(head, 5, tail)
});

static PROVIDER_STATES: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO provider_states (project_id, id_hash, upstream, created_at)";
    BulkInsert::new(head, 4, "ON CONFLICT DO NOTHING")
});

static IDEMPOTENCY_KEYS: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO call_idempotency_keys
        (key_hash, body_hash, request_log_id, status, usage, cost_nano, created_at)";
    // A key that still exists has expired: it is more than a day old.
    let tail = "ON CONFLICT (key_hash) DO UPDATE SET
        body_hash = excluded.body_hash, request_log_id = excluded.request_log_id,
        status = excluded.status, usage = excluded.usage, cost_nano = excluded.cost_nano,
        created_at = excluded.created_at";
    BulkInsert::new(head, 7, tail)
});

static OPEN_HOLDS: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO open_holds (request_log_id, entry)";
    BulkInsert::new(head, 2, "ON CONFLICT (request_log_id) DO UPDATE SET entry = excluded.entry")
});

static CHECKPOINTS: LazyLock<BulkInsert> = LazyLock::new(|| {
    let head = "INSERT INTO journal_checkpoints (chain, segment, position)";
    let tail = "ON CONFLICT (chain) DO UPDATE SET
        segment = excluded.segment, position = excluded.position";
    BulkInsert::new(head, 3, tail)
});

/// How far a journal chain is projected.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint {
    /// The number of the chain.
    pub chain: i64,
    /// The segment being read.
    pub segment: u32,
    /// Bytes of that segment that have been projected.
    pub position: u64,
}

/// Returns true if the database has these checkpoints, and therefore the batch committed with them.
pub async fn already_committed(
    connection: &mut SqliteConnection,
    checkpoints: &[Checkpoint],
) -> Result<bool, sqlx::Error> {
    for checkpoint in checkpoints {
        let exists: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM journal_checkpoints
                WHERE chain = $1 AND segment = $2 AND position = $3)",
        )
        .bind(checkpoint.chain)
        .bind(i64::from(checkpoint.segment))
        .bind(i64::try_from(checkpoint.position).unwrap_or(i64::MAX))
        .fetch_one(&mut *connection)
        .await?;
        if !exists {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes all changes of the batch.
pub async fn write_batch(
    connection: &mut SqliteConnection,
    batch: &Batch,
    checkpoints: &[Checkpoint],
    now: UnixMs,
) -> Result<(), sqlx::Error> {
    insert_records(connection, &batch.calls, now).await?;
    insert_calls(connection, &batch.calls).await?;
    insert_states(connection, &batch.calls, now).await?;
    insert_idempotency_keys(connection, &batch.calls, now).await?;
    let days: Vec<_> = batch.days.iter().collect();
    DAYS.run(connection, &days, |query, ((subject, day), used)| {
        query
            .bind(Uuid::from_u128(*subject))
            .bind(day.0)
            .bind(used.requests)
            .bind(used.input_tokens)
            .bind(used.output_tokens)
            .bind(used.spend_nano)
    })
    .await?;
    let minutes: Vec<_> = batch.minutes.iter().collect();
    MINUTES
        .run(connection, &minutes, |query, (subject, (minute, used))| {
            query
                .bind(Uuid::from_u128(**subject))
                .bind(minute.0)
                .bind(used.requests)
                .bind(used.tokens)
                .bind(used.spend.0)
        })
        .await?;
    for (key, minute) in &batch.keys_used {
        sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
            .bind(Uuid::from_u128(key.0))
            .bind(minute.start().0)
            .execute(&mut *connection)
            .await?;
    }
    update_open_holds(connection, batch).await?;
    CHECKPOINTS
        .run(connection, checkpoints, |query, checkpoint| {
            query
                .bind(checkpoint.chain)
                .bind(i64::from(checkpoint.segment))
                .bind(i64::try_from(checkpoint.position).unwrap_or(i64::MAX))
        })
        .await
}

/// A Consume with its position in the chain.
struct Consume<'a> {
    call: &'a FinishedCall,
    seq: i64,
    previous: Nano,
    current: Nano,
}

/// Appends a Consume for every charged call to the chain of its organization.
async fn insert_records(
    connection: &mut SqliteConnection,
    calls: &[FinishedCall],
    now: UnixMs,
) -> Result<(), sqlx::Error> {
    let mut charged: BTreeMap<OrganizationId, Vec<&FinishedCall>> = BTreeMap::new();
    for call in calls
        .iter()
        .filter(|call| matches!(&call.end, CallEnd::Admitted(admitted) if admitted.charged))
    {
        charged.entry(call.header().organization).or_default().push(call);
    }
    let mut records = Vec::new();
    for (organization, calls) in charged {
        let id = Uuid::from_u128(organization.0);
        let wallet =
            sqlx::query("SELECT balance_nano, last_seq FROM wallets WHERE organization_id = $1")
                .bind(id)
                .fetch_one(&mut *connection)
                .await?;
        let (mut balance, mut seq) = (Nano(wallet.try_get(0)?), wallet.try_get::<i64, _>(1)?);
        for call in calls {
            let (previous, current) = (balance, RecordKind::Consume.apply(balance, call.cost()));
            seq += 1;
            balance = current;
            records.push(Consume { call, seq, previous, current });
        }
        sqlx::query(
            "UPDATE wallets SET balance_nano = $2, last_seq = $3, updated_at = $4
             WHERE organization_id = $1",
        )
        .bind(id)
        .bind(balance.0)
        .bind(seq)
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    }
    RECORDS
        .run(connection, &records, |query, record| {
            let header = record.call.header();
            let admitted = match &record.call.end {
                CallEnd::Admitted(admitted) => Some(admitted),
                CallEnd::Refused(_) => None,
            };
            let charge =
                admitted.map_or_else(Charge::not_charged, |admitted| admitted.result.charge);
            query
                .bind(Uuid::from_u128(header.organization.0))
                .bind(record.seq)
                .bind(Uuid::now_v7())
                .bind(RecordKind::Consume.name())
                .bind(record.call.cost().0)
                .bind(record.previous.0)
                .bind(record.current.0)
                .bind(Uuid::from_u128(header.id.0))
                .bind(Uuid::from_u128(header.project.0))
                .bind(Uuid::from_u128(header.key.0))
                .bind(header.model.as_str())
                .bind(charge.settled_by.name())
                .bind(charge.overage)
                .bind(admitted.is_some_and(|admitted| admitted.late))
                .bind(admitted.map(AdmittedCall::price_version))
                .bind(now.0)
        })
        .await
}

async fn insert_calls(
    connection: &mut SqliteConnection,
    calls: &[FinishedCall],
) -> Result<(), sqlx::Error> {
    CALLS
        .run(connection, calls, |query, call| {
            let header = call.header();
            query
                .bind(Uuid::from_u128(header.project.0))
                .bind(Uuid::from_u128(header.id.0))
                .bind(Uuid::from_u128(header.organization.0))
                .bind(Uuid::from_u128(header.key.0))
                .bind(header.at.0)
                .bind(call.outcome().name())
                .bind(i64::from(call.status()))
                .bind(call.refusal())
                .bind(Some(header.model.as_str()).filter(|model| !model.is_empty()))
                .bind(call.upstream())
                .bind(header.stream)
                .bind(call.cost().0)
                .bind(call.detail.as_str())
        })
        .await
}

/// Stores the ids of objects that upstreams keep for projects, and deletes expired ones.
async fn insert_states(
    connection: &mut SqliteConnection,
    calls: &[FinishedCall],
    now: UnixMs,
) -> Result<(), sqlx::Error> {
    let states = calls.iter().filter_map(|call| match &call.end {
        CallEnd::Admitted(AdmittedCall { hold, result, .. }) => {
            let id = state_key(result.state_id.as_deref()?);
            Some((Uuid::from_u128(hold.header.project.0), id, &*result.upstream, hold.header.at))
        }
        CallEnd::Refused(_) => None,
    });
    let states: Vec<_> = states.collect();
    let projects: BTreeSet<Uuid> = states.iter().map(|(project, ..)| *project).collect();
    for project in projects {
        sqlx::query("DELETE FROM provider_states WHERE project_id = $1 AND created_at < $2")
            .bind(project)
            .bind(now.0 - STATE_RETENTION_MS)
            .execute(&mut *connection)
            .await?;
    }
    PROVIDER_STATES
        .run(connection, &states, |query, (project, id, upstream, at)| {
            query.bind(*project).bind(&id[..]).bind(*upstream).bind(at.0)
        })
        .await
}

/// Stores the idempotency keys of charged calls, and deletes twice as many expired keys, so that
/// the table cannot grow without bound.
async fn insert_idempotency_keys(
    connection: &mut SqliteConnection,
    calls: &[FinishedCall],
    now: UnixMs,
) -> Result<(), sqlx::Error> {
    let completed = calls.iter().filter_map(|call| match &call.end {
        CallEnd::Admitted(AdmittedCall { hold, result, charged: true, .. }) => {
            hold.idempotency_key.map(|idempotency_key| (idempotency_key, hold, result))
        }
        _ => None,
    });
    let completed: Vec<_> = completed.collect();
    if completed.is_empty() {
        return Ok(());
    }
    call_idempotency::delete_expired(connection, now, 2 * completed.len()).await?;
    IDEMPOTENCY_KEYS
        .run(connection, &completed, |query, (idempotency_key, hold, result)| {
            query
                .bind(&idempotency_key.key_digest[..])
                .bind(&idempotency_key.body_digest[..])
                .bind(Uuid::from_u128(result.id.0))
                .bind(i64::from(result.status))
                .bind(call_idempotency::usage_json(&result.charge.usage))
                .bind(result.charge.cost.0)
                .bind(hold.header.at.0)
        })
        .await
}

async fn update_open_holds(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    let open: Vec<(Uuid, Vec<u8>)> = batch
        .unpersisted()
        .map(|open| {
            let mut entry = Vec::new();
            format::write(&Entry::Hold(open.hold.as_ref().clone()), &mut entry);
            if let Some(progress) = open.progress {
                format::write(&Entry::<String>::Progress(progress), &mut entry);
            }
            (Uuid::from_u128(open.hold.header.id.0), entry)
        })
        .collect();
    OPEN_HOLDS
        .run(connection, &open, |query, (id, entry)| query.bind(*id).bind(entry.as_slice()))
        .await?;
    for id in &batch.closed {
        sqlx::query("DELETE FROM open_holds WHERE request_log_id = $1")
            .bind(Uuid::from_u128(id.0))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
