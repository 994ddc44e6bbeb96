//! API keys: what opens a project. Only hashes of their secrets are kept.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use crate::domain::ids::{ApiKeyId, ProjectId, UserId};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, at_or_null, id, id_or_null, json_or_null, texts, uuid};
use crate::store::database::DatabaseError;
use crate::store::paging::{self, ListQuery, Page, Sort};

/// A key, without its secret.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Which.
    pub id: ApiKeyId,
    /// What it opens.
    pub project: ProjectId,
    /// What it is called.
    pub name: String,
    /// The last letters of its secret.
    pub last4: String,
    /// Whose it is; `None`: the project's own.
    pub owner: Option<UserId>,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Why it was switched off, when nobody did so by hand.
    pub disabled_reason: Option<String>,
    /// When it ends; `None`: never.
    pub expires_at: Option<UnixMs>,
    /// Globs of the models it may use; `None` is all.
    pub allowed_models: Option<Vec<String>>,
    /// Where it may be used from; `None` is anywhere.
    pub allowed_cidrs: Option<Vec<String>>,
    /// Its own calls a minute.
    pub requests_per_minute: Option<i64>,
    /// Its own money a month.
    pub monthly_spend: Option<Nano>,
    /// Whatever its makers note.
    pub metadata: BTreeMap<String, String>,
    /// Until when the secret before the last rotation works.
    pub previous_expires_at: Option<UnixMs>,
    /// Who made it.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it was last changed.
    pub updated_at: UnixMs,
    /// When it was last used, to the minute.
    pub last_used_at: Option<UnixMs>,
    /// When it was revoked.
    pub revoked_at: Option<UnixMs>,
    /// Counts its changes.
    pub version: i64,
}

/// The fields by which keys are sorted, and their columns.
pub const SORTS: &[(&str, &str)] =
    &[("name", "name"), ("createdAt", "created_at"), ("lastUsedAt", "last_used_at")];

/// Adds a key.
pub async fn insert(
    connection: &mut SqliteConnection,
    key: &ApiKey,
    secret_hash: &[u8; 32],
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO api_keys (id, project_id, name, secret_hash, last4, owner_user_id, enabled,
            expires_at, allowed_models, allowed_cidrs, requests_per_minute_limit,
            monthly_spend_limit_nano, metadata, created_by, created_at, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16)",
    )
    .bind(uuid(key.id.0))
    .bind(uuid(key.project.0))
    .bind(&key.name)
    .bind(&secret_hash[..])
    .bind(&key.last4)
    .bind(key.owner.map(|id| uuid(id.0)))
    .bind(key.enabled)
    .bind(key.expires_at.map(|at| at.0))
    .bind(json_or_null(key.allowed_models.as_ref()))
    .bind(json_or_null(key.allowed_cidrs.as_ref()))
    .bind(key.requests_per_minute)
    .bind(key.monthly_spend.map(|nano| nano.0))
    .bind(metadata(key))
    .bind(uuid(key.created_by.0))
    .bind(key.created_at.0)
    .bind(key.version)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes what can be changed of it.
pub async fn update(connection: &mut SqliteConnection, key: &ApiKey) -> Result<(), DatabaseError> {
    sqlx::query(
        "UPDATE api_keys SET name = $2, owner_user_id = $3, enabled = $4, disabled_reason = $5,
            expires_at = $6, allowed_models = $7, allowed_cidrs = $8,
            requests_per_minute_limit = $9, monthly_spend_limit_nano = $10, metadata = $11,
            updated_at = $12, revoked_at = $13, version = $14
         WHERE id = $1",
    )
    .bind(uuid(key.id.0))
    .bind(&key.name)
    .bind(key.owner.map(|id| uuid(id.0)))
    .bind(key.enabled)
    .bind(&key.disabled_reason)
    .bind(key.expires_at.map(|at| at.0))
    .bind(json_or_null(key.allowed_models.as_ref()))
    .bind(json_or_null(key.allowed_cidrs.as_ref()))
    .bind(key.requests_per_minute)
    .bind(key.monthly_spend.map(|nano| nano.0))
    .bind(metadata(key))
    .bind(key.updated_at.0)
    .bind(key.revoked_at.map(|at| at.0))
    .bind(key.version)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives it another secret; the one it had works until `previous_expires_at`.
pub async fn rotate(
    connection: &mut SqliteConnection,
    key: &ApiKey,
    secret_hash: &[u8; 32],
) -> Result<(), DatabaseError> {
    sqlx::query(
        "UPDATE api_keys SET previous_secret_hash = CASE WHEN $4 IS NULL THEN NULL
                ELSE secret_hash END,
            previous_expires_at = $4, secret_hash = $2, last4 = $3, updated_at = $5, version = $6
         WHERE id = $1",
    )
    .bind(uuid(key.id.0))
    .bind(&secret_hash[..])
    .bind(&key.last4)
    .bind(key.previous_expires_at.map(|at| at.0))
    .bind(key.updated_at.0)
    .bind(key.version)
    .execute(connection)
    .await?;
    Ok(())
}

/// The key with that id, if that project has it.
pub async fn by_id(
    connection: &mut SqliteConnection,
    project: ProjectId,
    which: ApiKeyId,
) -> Result<Option<ApiKey>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM api_keys WHERE id = $1 AND project_id = $2")
        .bind(uuid(which.0))
        .bind(uuid(project.0))
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(key).transpose()?)
}

/// A page of a project's keys, or of one owner's among them, and how many there are.
pub async fn list(
    pool: &SqlitePool,
    project: ProjectId,
    owner: Option<UserId>,
    page: Page,
    sort: Sort,
) -> Result<(Vec<ApiKey>, i64), DatabaseError> {
    let shown = ListQuery {
        columns: "*",
        from: "FROM api_keys WHERE project_id = $3 AND ($4 IS NULL OR owner_user_id = $4)",
    };
    let (rows, total) = paging::read(pool, shown, page, sort, |query| {
        query.bind(uuid(project.0)).bind(owner.map(|id| uuid(id.0)))
    })
    .await?;
    Ok((rows.iter().map(key).collect::<Result<_, _>>()?, total))
}

fn metadata(key: &ApiKey) -> String {
    serde_json::to_string(&key.metadata).unwrap_or_else(|_| "{}".to_owned())
}

fn key(row: &SqliteRow) -> Result<ApiKey, sqlx::Error> {
    let metadata = serde_json::from_str(row.try_get("metadata")?)
        .map_err(|fault| sqlx::Error::Decode(Box::new(fault)))?;
    Ok(ApiKey {
        id: ApiKeyId(id(row, "id")?),
        project: ProjectId(id(row, "project_id")?),
        name: row.try_get("name")?,
        last4: row.try_get("last4")?,
        owner: id_or_null(row, "owner_user_id")?.map(UserId),
        enabled: row.try_get("enabled")?,
        disabled_reason: row.try_get("disabled_reason")?,
        expires_at: at_or_null(row, "expires_at")?,
        allowed_models: texts(row, "allowed_models")?,
        allowed_cidrs: texts(row, "allowed_cidrs")?,
        requests_per_minute: row.try_get("requests_per_minute_limit")?,
        monthly_spend: row.try_get::<Option<i64>, _>("monthly_spend_limit_nano")?.map(Nano),
        metadata,
        previous_expires_at: at_or_null(row, "previous_expires_at")?,
        created_by: UserId(id(row, "created_by")?),
        created_at: at(row, "created_at")?,
        updated_at: at(row, "updated_at")?,
        last_used_at: at_or_null(row, "last_used_at")?,
        revoked_at: at_or_null(row, "revoked_at")?,
        version: row.try_get("version")?,
    })
}
