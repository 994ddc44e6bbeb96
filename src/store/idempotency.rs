//! Answers kept for `Idempotency-Key`: the same request again gets the same answer again.

use sqlx::{Row, SqliteConnection};

use crate::domain::time::UnixMs;
use crate::store::database::DatabaseError;

/// An answer that was kept.
#[derive(Debug)]
pub struct Kept {
    /// SHA-256 of the request's query and body.
    pub fingerprint: Vec<u8>,
    /// The status.
    pub status: i64,
    /// The body, secrets left out.
    pub answer: String,
}

/// How long answers are kept: a day.
const KEPT_MS: i64 = 86_400_000;

/// The answer kept for that scope.
pub async fn find(
    connection: &mut SqliteConnection,
    scope: &[u8; 32],
    now: UnixMs,
) -> Result<Option<Kept>, DatabaseError> {
    let row = sqlx::query(
        "SELECT fingerprint, status, answer FROM idempotency_keys
         WHERE scope = $1 AND $2 < created_at AND status IS NOT NULL",
    )
    .bind(&scope[..])
    .bind(now.0 - KEPT_MS)
    .fetch_optional(connection)
    .await?;
    let kept = |row: sqlx::sqlite::SqliteRow| -> Result<Kept, sqlx::Error> {
        Ok(Kept {
            fingerprint: row.try_get("fingerprint")?,
            status: row.try_get("status")?,
            answer: row.try_get("answer")?,
        })
    };
    Ok(row.map(kept).transpose()?)
}

/// Keeps an answer, and forgets those that were kept for long enough.
pub async fn keep(
    connection: &mut SqliteConnection,
    scope: &[u8; 32],
    kept: &Kept,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("DELETE FROM idempotency_keys WHERE created_at <= $1")
        .bind(now.0 - KEPT_MS)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO idempotency_keys (scope, fingerprint, status, answer, created_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&scope[..])
    .bind(&kept.fingerprint)
    .bind(kept.status)
    .bind(&kept.answer)
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(())
}
