//! Users: people who can be operators and members.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::ids::UserId;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, at_or_null, id, uuid};
use crate::store::database::DatabaseError;

#[derive(Debug, Clone)]
pub struct User {
    pub id: UserId,
    /// Trimmed and in lower case.
    pub email: String,
    pub name: String,
    /// An Argon2 hash; `None` if the user cannot sign in with a password.
    pub password_hash: Option<String>,
    pub is_operator: bool,
    pub email_verified: bool,
    pub created_at: UnixMs,
    pub last_login_at: Option<UnixMs>,
}

pub async fn insert(connection: &mut SqliteConnection, user: &User) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO users
            (id, email, name, password_hash, is_operator, email_verified, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(uuid(user.id.0))
    .bind(&user.email)
    .bind(&user.name)
    .bind(&user.password_hash)
    .bind(user.is_operator)
    .bind(user.email_verified)
    .bind(user.created_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the user with this normalized email address.
pub async fn by_email(
    executor: impl SqliteExecutor<'_>,
    email: &str,
) -> Result<Option<User>, DatabaseError> {
    let row =
        sqlx::query("SELECT * FROM users WHERE email = $1").bind(email).fetch_optional(executor);
    Ok(row.await?.as_ref().map(user).transpose()?)
}

pub async fn by_id(
    executor: impl SqliteExecutor<'_>,
    user_id: UserId,
) -> Result<Option<User>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM users WHERE id = $1")
        .bind(uuid(user_id.0))
        .fetch_optional(executor)
        .await?;
    Ok(row.as_ref().map(user).transpose()?)
}

/// Returns the operator who was created first.
pub async fn first_operator(
    executor: impl SqliteExecutor<'_>,
) -> Result<Option<User>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM users WHERE is_operator ORDER BY created_at, id LIMIT 1")
        .fetch_optional(executor)
        .await?;
    Ok(row.as_ref().map(user).transpose()?)
}

pub async fn record_login(
    connection: &mut SqliteConnection,
    user_id: UserId,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE users SET last_login_at = $2 WHERE id = $1")
        .bind(uuid(user_id.0))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Reads a user from the columns of `users`.
pub fn user(row: &SqliteRow) -> Result<User, sqlx::Error> {
    Ok(User {
        id: UserId(id(row, "id")?),
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        is_operator: row.try_get("is_operator")?,
        email_verified: row.try_get("email_verified")?,
        created_at: at(row, "created_at")?,
        last_login_at: at_or_null(row, "last_login_at")?,
    })
}
