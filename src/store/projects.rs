//! Projects: the units that are metered and limited.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor, SqlitePool};

use crate::domain::ids::{OrganizationId, ProjectId, UserId};
use crate::domain::limit::Limits;
use crate::domain::status::ProjectStatus;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, at_or_null, id, json_or_null, named, texts, uuid};
use crate::store::database::DatabaseError;
use crate::store::paging::{self, ListQuery, Page, Sort};
use crate::store::quotas;

#[derive(Debug, Clone)]
pub struct Project {
    pub id: ProjectId,
    pub organization: OrganizationId,
    pub name: String,
    pub description: Option<String>,
    pub status: ProjectStatus,
    /// The template from which it was created.
    pub template_id: Option<String>,
    /// Glob patterns of the models it may use; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    /// The highest limits that its Owners may set.
    pub ceiling: Option<Limits>,
    /// True if no member has the role `Owner`.
    pub ownerless: bool,
    pub created_by: UserId,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    pub archived_at: Option<UnixMs>,
    /// Incremented by each change.
    pub version: i64,
}

/// The sort fields of the API and their columns.
pub const SORTS: &[(&str, &str)] =
    &[("name", "name"), ("createdAt", "created_at"), ("updatedAt", "updated_at")];

const COLUMNS: &str = "*, NOT EXISTS (SELECT 1 FROM project_members m
    WHERE m.project_id = projects.id AND m.role = 'Owner') AS ownerless";

pub async fn insert(
    connection: &mut SqliteConnection,
    project: &Project,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO projects (id, organization_id, name, description, status, template_id,
            allowed_models, ceiling, created_by, created_at, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(uuid(project.id.0))
    .bind(uuid(project.organization.0))
    .bind(&project.name)
    .bind(&project.description)
    .bind(project.status.name())
    .bind(&project.template_id)
    .bind(json_or_null(project.allowed_models.as_ref()))
    .bind(project.ceiling.as_ref().map(quotas::limits_json))
    .bind(uuid(project.created_by.0))
    .bind(project.created_at.0)
    .bind(project.updated_at.0)
    .bind(project.version)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes all columns that can change.
pub async fn update(
    connection: &mut SqliteConnection,
    project: &Project,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "UPDATE projects SET name = $2, description = $3, status = $4, allowed_models = $5,
            ceiling = $6, updated_at = $7, archived_at = $8, version = $9
         WHERE id = $1",
    )
    .bind(uuid(project.id.0))
    .bind(&project.name)
    .bind(&project.description)
    .bind(project.status.name())
    .bind(json_or_null(project.allowed_models.as_ref()))
    .bind(project.ceiling.as_ref().map(quotas::limits_json))
    .bind(project.updated_at.0)
    .bind(project.archived_at.map(|at| at.0))
    .bind(project.version)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the project, if it belongs to the organization.
pub async fn by_id(
    executor: impl SqliteExecutor<'_>,
    organization: OrganizationId,
    project_id: ProjectId,
) -> Result<Option<Project>, DatabaseError> {
    let query = format!("SELECT {COLUMNS} FROM projects WHERE id = $1 AND organization_id = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(uuid(project_id.0))
        .bind(uuid(organization.0))
        .fetch_optional(executor)
        .await?;
    Ok(row.as_ref().map(project).transpose()?)
}

/// Conditions that projects must meet; `None` is no condition.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProjectFilter<'a> {
    /// A part of the name; letter case is ignored.
    pub name_contains: Option<&'a str>,
    pub status: Option<ProjectStatus>,
}

/// Returns one page of the projects of an organization that match, and the total count.
pub async fn list(
    pool: &SqlitePool,
    organization: OrganizationId,
    filter: ProjectFilter<'_>,
    page: Page,
    sort: Sort,
) -> Result<(Vec<Project>, i64), DatabaseError> {
    let shown = ListQuery {
        columns: COLUMNS,
        from: "FROM projects WHERE organization_id = $3
            AND ($4 IS NULL OR name LIKE $4 ESCAPE '\\') AND ($5 IS NULL OR status = $5)",
    };
    let pattern = filter.name_contains.map(paging::pattern);
    let status = filter.status.map(ProjectStatus::name);
    let (rows, total) = paging::read(pool, shown, page, sort, |query| {
        query.bind(uuid(organization.0)).bind(pattern.clone()).bind(status)
    })
    .await?;
    Ok((rows.iter().map(project).collect::<Result<_, _>>()?, total))
}

fn project(row: &SqliteRow) -> Result<Project, sqlx::Error> {
    let ceiling: Option<&str> = row.try_get("ceiling")?;
    Ok(Project {
        id: ProjectId(id(row, "id")?),
        organization: OrganizationId(id(row, "organization_id")?),
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        status: named(row, "projects.status", ProjectStatus::parse)?,
        template_id: row.try_get("template_id")?,
        allowed_models: texts(row, "allowed_models")?,
        ceiling: ceiling.map(quotas::parse_limits).transpose()?,
        ownerless: row.try_get("ownerless")?,
        created_by: UserId(id(row, "created_by")?),
        created_at: at(row, "created_at")?,
        updated_at: at(row, "updated_at")?,
        archived_at: at_or_null(row, "archived_at")?,
        version: row.try_get("version")?,
    })
}
