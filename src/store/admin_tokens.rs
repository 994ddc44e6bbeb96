//! Admin tokens, with which programs use the admin API. Only hashes of their secrets are stored.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use crate::domain::ids::{AdminTokenId, OrganizationId, UserId};
use crate::domain::roles::{Scope, TokenKind};
use crate::domain::time::UnixMs;
use crate::store::columns::{at, at_or_null, id, id_or_null, json, named, named_list, uuid};
use crate::store::database::DatabaseError;
use crate::store::paging::{self, ListQuery, Page, Sort};

/// A token, without its secret.
#[derive(Debug, Clone)]
pub struct AdminToken {
    pub id: AdminTokenId,
    pub name: String,
    pub kind: TokenKind,
    /// The organization that it belongs to or acts in by default.
    pub organization: Option<OrganizationId>,
    pub scopes: Vec<Scope>,
    /// The last four characters of its secret.
    pub last4: String,
    /// `None`: the token does not expire.
    pub expires_at: Option<UnixMs>,
    pub created_by: UserId,
    pub created_at: UnixMs,
    /// To the minute.
    pub last_used_at: Option<UnixMs>,
    pub revoked_at: Option<UnixMs>,
}

/// The sort fields of the API and their columns.
pub const SORTS: &[(&str, &str)] = &[("name", "name"), ("createdAt", "created_at")];

/// Which tokens a list shows.
#[derive(Debug, Clone, Copy)]
pub struct TokenVisibility {
    /// `Personal` and `Platform` tokens that this user created.
    pub created_by: Option<UserId>,
    /// Also all tokens of this organization.
    pub organization: Option<OrganizationId>,
}

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
    .bind(token.kind.name())
    .bind(token.organization.map(|id| uuid(id.0)))
    .bind(json(&scope_names(token)))
    .bind(&secret_hash[..])
    .bind(&token.last4)
    .bind(token.expires_at.map(|at| at.0))
    .bind(uuid(token.created_by.0))
    .bind(token.created_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the token with this secret hash.
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

/// Returns one page of the visible tokens, and the total count.
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

pub async fn by_id(
    connection: &mut SqliteConnection,
    token_id: AdminTokenId,
) -> Result<Option<AdminToken>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM admin_tokens WHERE id = $1")
        .bind(uuid(token_id.0))
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(token).transpose()?)
}

pub async fn revoke(
    connection: &mut SqliteConnection,
    token_id: AdminTokenId,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE admin_tokens SET revoked_at = $2 WHERE id = $1")
        .bind(uuid(token_id.0))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

pub async fn record_use(
    connection: &mut SqliteConnection,
    token_id: AdminTokenId,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE admin_tokens SET last_used_at = $2 WHERE id = $1")
        .bind(uuid(token_id.0))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

fn scope_names(token: &AdminToken) -> Vec<&'static str> {
    token.scopes.iter().map(|scope| scope.name()).collect()
}

fn token(row: &SqliteRow) -> Result<AdminToken, sqlx::Error> {
    Ok(AdminToken {
        id: AdminTokenId(id(row, "id")?),
        name: row.try_get("name")?,
        kind: named(row, "admin_tokens.kind", TokenKind::parse)?,
        organization: id_or_null(row, "organization_id")?.map(OrganizationId),
        scopes: named_list(row, "admin_tokens.scopes", Scope::parse)?,
        last4: row.try_get("last4")?,
        expires_at: at_or_null(row, "expires_at")?,
        created_by: UserId(id(row, "created_by")?),
        created_at: at(row, "created_at")?,
        last_used_at: at_or_null(row, "last_used_at")?,
        revoked_at: at_or_null(row, "revoked_at")?,
    })
}
