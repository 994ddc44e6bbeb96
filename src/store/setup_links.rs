//! The setup link: one secret with which the first operator can be created.

use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::time::UnixMs;
use crate::store::database::DatabaseError;

/// Stores a link, in place of any earlier one.
pub async fn replace(
    connection: &mut SqliteConnection,
    secret_hash: &[u8; 32],
    expires_at: UnixMs,
) -> Result<(), DatabaseError> {
    clear(connection).await?;
    sqlx::query("INSERT INTO setup_links (secret_hash, expires_at) VALUES ($1, $2)")
        .bind(&secret_hash[..])
        .bind(expires_at.0)
        .execute(connection)
        .await?;
    Ok(())
}

pub async fn clear(connection: &mut SqliteConnection) -> Result<(), DatabaseError> {
    sqlx::query("DELETE FROM setup_links").execute(connection).await?;
    Ok(())
}

/// Returns when the link with this secret hash expires.
pub async fn expiry(
    executor: impl SqliteExecutor<'_>,
    secret_hash: &[u8; 32],
) -> Result<Option<UnixMs>, DatabaseError> {
    let row = sqlx::query("SELECT expires_at FROM setup_links WHERE secret_hash = $1")
        .bind(&secret_hash[..])
        .fetch_optional(executor)
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.map(UnixMs))
}
