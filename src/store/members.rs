//! Members of organizations and projects, with their roles.

use sqlx::{Row, SqliteConnection, SqliteExecutor, SqlitePool};

use crate::domain::ids::{OrganizationId, ProjectId, UserId};
use crate::domain::roles::{Permission, ProjectRole, Role};
use crate::domain::time::UnixMs;
use crate::store::columns::{id, json, named, named_list, uuid};
use crate::store::database::DatabaseError;

/// The membership of a user in an organization.
#[derive(Debug, Clone)]
pub struct Membership {
    pub organization: OrganizationId,
    pub organization_name: String,
    pub role: Role,
    /// The permissions granted in addition to the role.
    pub permissions: Vec<Permission>,
    /// The roles of the user in projects of the organization.
    pub projects: Vec<(ProjectId, ProjectRole)>,
}

/// A member to add to an organization.
#[derive(Debug, Clone, Copy)]
pub struct NewMember<'a> {
    pub user: UserId,
    pub role: Role,
    /// The permissions granted in addition to the role.
    pub permissions: &'a [Permission],
}

/// A member to add to a project.
#[derive(Debug, Clone, Copy)]
pub struct NewProjectMember {
    pub user: UserId,
    pub role: ProjectRole,
    pub added_by: UserId,
}

/// Returns the active memberships of a user, sorted by name of the organization.
pub async fn of_user(pool: &SqlitePool, user: UserId) -> Result<Vec<Membership>, DatabaseError> {
    let rows = sqlx::query(
        "SELECT m.organization_id, o.name, m.role, m.permissions
         FROM organization_members m JOIN organizations o ON o.id = m.organization_id
         WHERE m.user_id = $1 AND m.status = 'Active' ORDER BY o.name, o.id",
    )
    .bind(uuid(user.0))
    .fetch_all(pool)
    .await?;
    let projects = sqlx::query(
        "SELECT p.organization_id, m.project_id, m.role
         FROM project_members m JOIN projects p ON p.id = m.project_id
         WHERE m.user_id = $1 ORDER BY p.id",
    )
    .bind(uuid(user.0))
    .fetch_all(pool)
    .await?;
    let mut memberships = Vec::with_capacity(rows.len());
    for row in &rows {
        let organization = OrganizationId(id(row, "organization_id")?);
        let mut roles = Vec::new();
        for project in &projects {
            if OrganizationId(id(project, "organization_id")?) == organization {
                let role = named(project, "project_members.role", ProjectRole::parse)?;
                roles.push((ProjectId(id(project, "project_id")?), role));
            }
        }
        memberships.push(Membership {
            organization,
            organization_name: row.try_get("name")?,
            role: named(row, "organization_members.role", Role::parse)?,
            permissions: named_list(row, "organization_members.permissions", Permission::parse)?,
            projects: roles,
        });
    }
    Ok(memberships)
}

/// Returns whether the user is an active member with a role other than `None`.
pub async fn is_member(
    executor: impl SqliteExecutor<'_>,
    organization: OrganizationId,
    user: UserId,
) -> Result<bool, DatabaseError> {
    let found = sqlx::query(
        "SELECT 1 FROM organization_members
         WHERE organization_id = $1 AND user_id = $2 AND status = 'Active' AND role <> 'None'",
    )
    .bind(uuid(organization.0))
    .bind(uuid(user.0))
    .fetch_optional(executor)
    .await?;
    Ok(found.is_some())
}

/// Adds a member to an organization.
pub async fn insert(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    new: NewMember<'_>,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    let permissions: Vec<_> = new.permissions.iter().map(|permission| permission.name()).collect();
    sqlx::query(
        "INSERT INTO organization_members
            (organization_id, user_id, role, permissions, status, joined_at)
         VALUES ($1, $2, $3, $4, 'Active', $5)",
    )
    .bind(uuid(organization.0))
    .bind(uuid(new.user.0))
    .bind(new.role.name())
    .bind(json(&permissions))
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a member to a project.
pub async fn insert_in_project(
    connection: &mut SqliteConnection,
    project: ProjectId,
    new: NewProjectMember,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO project_members (project_id, user_id, role, added_by, added_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(uuid(project.0))
    .bind(uuid(new.user.0))
    .bind(new.role.name())
    .bind(uuid(new.added_by.0))
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(())
}
