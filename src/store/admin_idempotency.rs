//! Responses of the admin API stored by `Idempotency-Key`: a repeated request gets the stored
//! response.

use sqlx::{Row, SqliteConnection};

use crate::domain::time::UnixMs;
use crate::store::database::DatabaseError;

/// A stored response.
#[derive(Debug)]
pub struct StoredResponse {
    /// SHA-256 of the request's query and body.
    pub fingerprint: Vec<u8>,
    pub status: i64,
    /// The body, without secrets.
    pub body: String,
}

/// How long responses are stored: one day.
const RETENTION_MS: i64 = 86_400_000;

/// Returns the response stored for a scope.
pub async fn find(
    connection: &mut SqliteConnection,
    scope: &[u8; 32],
    now: UnixMs,
) -> Result<Option<StoredResponse>, DatabaseError> {
    let row = sqlx::query(
        "SELECT fingerprint, status, response_body FROM admin_idempotency_keys
         WHERE scope = $1 AND $2 < created_at AND status IS NOT NULL",
    )
    .bind(&scope[..])
    .bind(now.0 - RETENTION_MS)
    .fetch_optional(connection)
    .await?;
    let response = |row: sqlx::sqlite::SqliteRow| -> Result<StoredResponse, sqlx::Error> {
        Ok(StoredResponse {
            fingerprint: row.try_get("fingerprint")?,
            status: row.try_get("status")?,
            body: row.try_get("response_body")?,
        })
    };
    Ok(row.map(response).transpose()?)
}

/// Stores a response and deletes expired ones.
pub async fn insert(
    connection: &mut SqliteConnection,
    scope: &[u8; 32],
    response: &StoredResponse,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("DELETE FROM admin_idempotency_keys WHERE created_at <= $1")
        .bind(now.0 - RETENTION_MS)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO admin_idempotency_keys (scope, fingerprint, status, response_body, created_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&scope[..])
    .bind(&response.fingerprint)
    .bind(response.status)
    .bind(&response.body)
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(())
}
