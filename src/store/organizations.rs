//! Organizations: the tenants that pay, isolated from each other.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor, SqlitePool};

use crate::domain::ids::OrganizationId;
use crate::domain::status::{OnDisconnect, OrganizationStatus};
use crate::domain::time::UnixMs;
use crate::store::columns::{at, id, json_or_null, named, texts, uuid};
use crate::store::database::DatabaseError;
use crate::store::paging::{self, ListQuery, Page, Sort};

#[derive(Debug, Clone)]
pub struct Organization {
    pub id: OrganizationId,
    pub name: String,
    pub description: Option<String>,
    pub status: OrganizationStatus,
    /// Whether its own members may recharge its wallet.
    pub self_funding: bool,
    /// What happens to a call whose client disconnects.
    pub on_disconnect: OnDisconnect,
    /// Whether the output bound of its calls is lowered to the headroom of limits and wallet.
    pub output_clamp: bool,
    /// Glob patterns of the models it may use; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    /// Active members only.
    pub member_count: i64,
    /// Includes archived projects.
    pub project_count: i64,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    /// Incremented by each change.
    pub version: i64,
}

/// The sort fields of the API and their columns.
pub const SORTS: &[(&str, &str)] = &[("name", "name"), ("createdAt", "created_at")];

const COLUMNS: &str = "*,
    (SELECT count(*) FROM organization_members m
        WHERE m.organization_id = organizations.id AND m.status = 'Active') AS member_count,
    (SELECT count(*) FROM projects p WHERE p.organization_id = organizations.id) AS project_count";

/// Adds an organization with an empty, active wallet.
pub async fn insert(
    connection: &mut SqliteConnection,
    organization: &Organization,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO organizations (id, name, description, status, self_funding, on_disconnect,
            output_clamp, allowed_models, created_at, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(uuid(organization.id.0))
    .bind(&organization.name)
    .bind(&organization.description)
    .bind(organization.status.name())
    .bind(organization.self_funding)
    .bind(organization.on_disconnect.name())
    .bind(organization.output_clamp)
    .bind(json_or_null(organization.allowed_models.as_ref()))
    .bind(organization.created_at.0)
    .bind(organization.updated_at.0)
    .bind(organization.version)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO wallets (organization_id, balance_nano, last_seq, is_active,
            deactivated_by_operator, updated_at)
         VALUES ($1, 0, 0, 1, 0, $2)",
    )
    .bind(uuid(organization.id.0))
    .bind(organization.created_at.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes all columns that can change.
pub async fn update(
    connection: &mut SqliteConnection,
    organization: &Organization,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "UPDATE organizations SET name = $2, description = $3, status = $4, self_funding = $5,
            on_disconnect = $6, output_clamp = $7, allowed_models = $8, updated_at = $9,
            version = $10
         WHERE id = $1",
    )
    .bind(uuid(organization.id.0))
    .bind(&organization.name)
    .bind(&organization.description)
    .bind(organization.status.name())
    .bind(organization.self_funding)
    .bind(organization.on_disconnect.name())
    .bind(organization.output_clamp)
    .bind(json_or_null(organization.allowed_models.as_ref()))
    .bind(organization.updated_at.0)
    .bind(organization.version)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn by_id(
    executor: impl SqliteExecutor<'_>,
    organization_id: OrganizationId,
) -> Result<Option<Organization>, DatabaseError> {
    let query = format!("SELECT {COLUMNS} FROM organizations WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(uuid(organization_id.0))
        .fetch_optional(executor)
        .await?;
    Ok(row.as_ref().map(organization).transpose()?)
}

/// Conditions that organizations must meet; `None` is no condition.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrganizationFilter<'a> {
    /// A part of the name; letter case is ignored.
    pub name_contains: Option<&'a str>,
    pub status: Option<OrganizationStatus>,
}

/// Returns one page of the organizations that match, and the total count.
pub async fn list(
    pool: &SqlitePool,
    filter: OrganizationFilter<'_>,
    page: Page,
    sort: Sort,
) -> Result<(Vec<Organization>, i64), DatabaseError> {
    let shown = ListQuery {
        columns: COLUMNS,
        from: "FROM organizations
            WHERE ($3 IS NULL OR name LIKE $3 ESCAPE '\\') AND ($4 IS NULL OR status = $4)",
    };
    let pattern = filter.name_contains.map(paging::pattern);
    let status = filter.status.map(OrganizationStatus::name);
    let (rows, total) =
        paging::read(pool, shown, page, sort, |query| query.bind(pattern.clone()).bind(status))
            .await?;
    Ok((rows.iter().map(organization).collect::<Result<_, _>>()?, total))
}

fn organization(row: &SqliteRow) -> Result<Organization, sqlx::Error> {
    Ok(Organization {
        id: OrganizationId(id(row, "id")?),
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        status: named(row, "organizations.status", OrganizationStatus::parse)?,
        self_funding: row.try_get("self_funding")?,
        on_disconnect: named(row, "organizations.on_disconnect", OnDisconnect::parse)?,
        output_clamp: row.try_get("output_clamp")?,
        allowed_models: texts(row, "allowed_models")?,
        member_count: row.try_get("member_count")?,
        project_count: row.try_get("project_count")?,
        created_at: at(row, "created_at")?,
        updated_at: at(row, "updated_at")?,
        version: row.try_get("version")?,
    })
}
