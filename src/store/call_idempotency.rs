//! Completed calls by their `Idempotency-Key`. The projector writes them.

use std::collections::BTreeMap;

use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::idempotency::{CompletedCall, Digest, RETENTION_MS};
use crate::domain::ids::RequestLogId;
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::domain::usage::{Unit, Usage};
use crate::store::columns::id;
use crate::store::database::DatabaseError;

/// Returns the digest of the body and the result of the call completed with this key in the last
/// day.
pub async fn find(
    executor: impl SqliteExecutor<'_>,
    key: Digest,
    now: UnixMs,
) -> Result<Option<(Digest, CompletedCall)>, DatabaseError> {
    let row =
        sqlx::query("SELECT * FROM call_idempotency_keys WHERE key_hash = $1 AND $2 < created_at")
            .bind(&key[..])
            .bind(now.0 - RETENTION_MS)
            .fetch_optional(executor)
            .await?;
    let done = |row: sqlx::sqlite::SqliteRow| -> Result<_, sqlx::Error> {
        let body = row.try_get::<&[u8], _>("body_hash")?.try_into().unwrap_or_default();
        let done = CompletedCall {
            id: RequestLogId(id(&row, "request_log_id")?),
            status: row.try_get("status")?,
            usage: parse_usage(row.try_get("usage")?)?,
            cost: Nano(row.try_get("cost_nano")?),
        };
        Ok((body, done))
    };
    Ok(row.map(done).transpose()?)
}

/// Deletes at most `count_max` expired keys.
pub async fn delete_expired(
    connection: &mut SqliteConnection,
    now: UnixMs,
    count_max: usize,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM call_idempotency_keys WHERE key_hash IN
            (SELECT key_hash FROM call_idempotency_keys WHERE created_at <= $1 ORDER BY created_at LIMIT $2)",
    )
    .bind(now.0 - RETENTION_MS)
    .bind(i64::try_from(count_max).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

/// Encodes usage as a JSON object.
pub fn usage_json(usage: &Usage) -> String {
    let counts: BTreeMap<_, _> = usage.counts().map(|(unit, count)| (unit.name(), count)).collect();
    serde_json::to_string(&counts).unwrap_or_else(|_| "{}".to_owned())
}

fn parse_usage(text: &str) -> Result<Usage, sqlx::Error> {
    let counts: BTreeMap<&str, u64> =
        serde_json::from_str(text).map_err(|fault| sqlx::Error::Decode(Box::new(fault)))?;
    let with = |usage: Usage, unit: Unit| match counts.get(unit.name()) {
        Some(count) => usage.with(unit, *count),
        None => usage,
    };
    Ok(Unit::ALL.into_iter().fold(Usage::default(), with))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database::Database;

    #[tokio::test]
    async fn a_key_expires_after_a_day_and_is_deleted_in_steps() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("gateway.db")).await.expect("a database");
        let mut tx = database.begin().await.expect("a transaction");
        let used = Usage::from_tokens(7, 8).with(Unit::WebSearches, 2);
        for at in 1..=3_u8 {
            sqlx::query("INSERT INTO call_idempotency_keys VALUES ($1, $2, $3, 200, $4, 5, $5)")
                .bind(&[at; 16][..])
                .bind(&[9; 16][..])
                .bind(uuid::Uuid::from_u128(u128::from(at)))
                .bind(usage_json(&used))
                .bind(i64::from(at))
                .execute(&mut *tx)
                .await
                .expect("a row");
        }
        let mut found =
            async |key: u8, now| find(&mut *tx, [key; 16], UnixMs(now)).await.expect("read");
        let done = CompletedCall { id: RequestLogId(2), status: 200, usage: used, cost: Nano(5) };
        assert_eq!(found(2, RETENTION_MS + 1).await, Some(([9; 16], done)));
        assert_eq!(found(2, RETENTION_MS + 2).await, None, "expired");
        assert_eq!(found(4, 0).await, None, "another key");

        for (now, count_max, left) in
            [(3, 2, 3), (RETENTION_MS + 3, 2, 1), (RETENTION_MS + 3, 2, 0)]
        {
            delete_expired(&mut tx, UnixMs(now), count_max).await.expect("deleted");
            let count = sqlx::query_scalar("SELECT count(*) FROM call_idempotency_keys");
            let count: i64 = count.fetch_one(&mut *tx).await.expect("a count");
            assert_eq!(count, left);
        }
    }
}
