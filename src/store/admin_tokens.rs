//! Admin tokens: how programs act on the admin API. Only hashes of their secrets are kept.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use crate::domain::ids::{AdminTokenId, OrganizationId, UserId};
use crate::domain::time::UnixMs;
use crate::store::columns::{at, at_or_null, id, id_or_null, json, texts, uuid};
use crate::store::database::DatabaseError;
use crate::store::paging::{self, ListQuery, Page, Sort};

/// A token, without its secret.
#[derive(Debug, Clone)]
pub struct AdminToken {
    /// Which.
    pub id: AdminTokenId,
    /// What its maker calls it.
    pub name: String,
    /// `Personal`, `Organization` or `Platform`.
    pub kind: String,
    /// The organization it belongs to, or acts in by default.
    pub organization: Option<OrganizationId>,
    /// What it may do at most.
    pub scopes: Vec<String>,
    /// The last letters of its secret.
    pub last4: String,
    /// When it ends; `None`: never.
    pub expires_at: Option<UnixMs>,
    /// Whose it is.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it was last used, to the minute.
    pub last_used_at: Option<UnixMs>,
    /// When it was revoked.
    pub revoked_at: Option<UnixMs>,
}

/// The fields by which tokens are sorted, and their columns.
pub const SORTS: &[(&str, &str)] = &[("name", "name"), ("createdAt", "created_at")];

/// Whose tokens are listed.
#[derive(Debug, Clone, Copy)]
pub struct TokenVisibility {
    /// Those that this user made for themselves.
    pub created_by: Option<UserId>,
    /// And all of this organization's.
    pub organization: Option<OrganizationId>,
}

/// Adds a token.
pub async fn insert(
    connection: &mut SqliteConnection,
    token: &AdminToken,
    secret_hash: &[u8; 32],
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO admin_tokens (id, name, kind, organization_id, scopes, secret_hash, last4,
            expires_at, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(uuid(token.id.0))
    .bind(&token.name)
    .bind(&token.kind)
    .bind(token.organization.map(|id| uuid(id.0)))
    .bind(json(&token.scopes))
    .bind(&secret_hash[..])
    .bind(&token.last4)
    .bind(token.expires_at.map(|at| at.0))
    .bind(uuid(token.created_by.0))
    .bind(token.created_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// The token with that secret.
pub async fn find(
    pool: &SqlitePool,
    secret_hash: &[u8; 32],
) -> Result<Option<AdminToken>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM admin_tokens WHERE secret_hash = $1")
        .bind(&secret_hash[..])
        .fetch_optional(pool)
        .await?;
    Ok(row.as_ref().map(token).transpose()?)
}

/// A page of tokens, and how many there are.
pub async fn list(
    pool: &SqlitePool,
    visible: TokenVisibility,
    page: Page,
    sort: Sort,
) -> Result<(Vec<AdminToken>, i64), DatabaseError> {
    let shown = ListQuery {
        columns: "*",
        from: "FROM admin_tokens
            WHERE ((created_by = $3 AND kind <> 'Organization')
                OR (kind = 'Organization' AND organization_id = $4))",
    };
    let (rows, total) = paging::read(pool, shown, page, sort, |query| {
        query
            .bind(visible.created_by.map(|id| uuid(id.0)))
            .bind(visible.organization.map(|id| uuid(id.0)))
    })
    .await?;
    Ok((rows.iter().map(token).collect::<Result<_, _>>()?, total))
}

/// The token with that id.
pub async fn by_id(
    connection: &mut SqliteConnection,
    which: AdminTokenId,
) -> Result<Option<AdminToken>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM admin_tokens WHERE id = $1")
        .bind(uuid(which.0))
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(token).transpose()?)
}

/// Ends it for good.
pub async fn revoke(
    connection: &mut SqliteConnection,
    which: AdminTokenId,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE admin_tokens SET revoked_at = $2 WHERE id = $1")
        .bind(uuid(which.0))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that it was used.
pub async fn record_use(
    connection: &mut SqliteConnection,
    which: AdminTokenId,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE admin_tokens SET last_used_at = $2 WHERE id = $1")
        .bind(uuid(which.0))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

fn token(row: &SqliteRow) -> Result<AdminToken, sqlx::Error> {
    Ok(AdminToken {
        id: AdminTokenId(id(row, "id")?),
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
        organization: id_or_null(row, "organization_id")?.map(OrganizationId),
        scopes: texts(row, "scopes")?.unwrap_or_default(),
        last4: row.try_get("last4")?,
        expires_at: at_or_null(row, "expires_at")?,
        created_by: UserId(id(row, "created_by")?),
        created_at: at(row, "created_at")?,
        last_used_at: at_or_null(row, "last_used_at")?,
        revoked_at: at_or_null(row, "revoked_at")?,
    })
}
