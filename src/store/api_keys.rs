//! API keys, with which programs call the data plane. Only hashes of their secrets are stored.

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
    pub id: ApiKeyId,
    pub project: ProjectId,
    pub name: String,
    /// The last four characters of its secret.
    pub last4: String,
    /// `None`: the key belongs to the project alone.
    pub owner: Option<UserId>,
    pub enabled: bool,
    /// Why the gateway disabled the key; `None` if a person did.
    pub disabled_reason: Option<String>,
    /// `None`: the key does not expire.
    pub expires_at: Option<UnixMs>,
    /// Glob patterns of the models it may use; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    /// The client networks it may be used from; `None` allows all.
    pub allowed_cidrs: Option<Vec<String>>,
    /// The key's own limit of requests per minute.
    pub requests_per_minute: Option<i64>,
    /// The key's own limit of spend per month.
    pub monthly_spend: Option<Nano>,
    /// Free-form names and values of the client.
    pub metadata: BTreeMap<String, String>,
    /// When the secret before the last rotation expires.
    pub previous_expires_at: Option<UnixMs>,
    pub created_by: UserId,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    /// To the minute.
    pub last_used_at: Option<UnixMs>,
    pub revoked_at: Option<UnixMs>,
    /// Incremented by each change.
    pub version: i64,
}

/// The sort fields of the API and their columns.
pub const SORTS: &[(&str, &str)] =
    &[("name", "name"), ("createdAt", "created_at"), ("lastUsedAt", "last_used_at")];

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

/// Writes all columns that can change.
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

/// Replaces the secret; the current one stays valid until `previous_expires_at`.
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

/// Returns the key, if it belongs to the project.
pub async fn by_id(
    connection: &mut SqliteConnection,
    project: ProjectId,
    key_id: ApiKeyId,
) -> Result<Option<ApiKey>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM api_keys WHERE id = $1 AND project_id = $2")
        .bind(uuid(key_id.0))
        .bind(uuid(project.0))
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(key).transpose()?)
}

/// Returns one page of the project's keys, or of those of one owner, and the total count.
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
