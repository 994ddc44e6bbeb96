//! Sessions of signed-in users. Only hashes of their secrets are stored.

use sqlx::{Row, SqliteConnection, SqlitePool};

use crate::domain::ids::UserId;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, uuid};
use crate::store::database::DatabaseError;
use crate::store::users::{User, user};

/// A session with its user.
#[derive(Debug, Clone)]
pub struct Session {
    pub user: User,
    /// When the session ends even if it is in use.
    pub expires_at: UnixMs,
    /// To the minute.
    pub last_seen_at: UnixMs,
}

/// Adds a session, and deletes expired ones.
pub async fn insert(
    connection: &mut SqliteConnection,
    secret_hash: &[u8; 32],
    user_id: UserId,
    now: UnixMs,
    expires_at: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO sessions (secret_hash, user_id, created_at, expires_at, last_seen_at)
         VALUES ($1, $2, $3, $4, $3)",
    )
    .bind(&secret_hash[..])
    .bind(uuid(user_id.0))
    .bind(now.0)
    .bind(expires_at.0)
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM sessions WHERE expires_at <= $1")
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the session with this secret hash.
pub async fn find(
    pool: &SqlitePool,
    secret_hash: &[u8; 32],
) -> Result<Option<Session>, DatabaseError> {
    let row = sqlx::query(
        "SELECT u.*, s.expires_at, s.last_seen_at
         FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.secret_hash = $1",
    )
    .bind(&secret_hash[..])
    .fetch_optional(pool)
    .await?;
    let session = |row: &_| -> Result<Session, sqlx::Error> {
        Ok(Session {
            user: user(row)?,
            expires_at: at(row, "expires_at")?,
            last_seen_at: at(row, "last_seen_at")?,
        })
    };
    Ok(row.as_ref().map(session).transpose()?)
}

pub async fn record_use(
    connection: &mut SqliteConnection,
    secret_hash: &[u8; 32],
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE sessions SET last_seen_at = $2 WHERE secret_hash = $1")
        .bind(&secret_hash[..])
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes the session; returns whether there was one.
pub async fn delete(
    connection: &mut SqliteConnection,
    secret_hash: &[u8; 32],
) -> Result<bool, DatabaseError> {
    let done = sqlx::query("DELETE FROM sessions WHERE secret_hash = $1 RETURNING user_id")
        .bind(&secret_hash[..])
        .fetch_optional(connection)
        .await?;
    Ok(done.map(|row| row.try_get::<uuid::Uuid, _>(0)).transpose()?.is_some())
}
