//! The audit log: who changed what, and what it was before.

use std::net::IpAddr;

use sqlx::SqliteConnection;

use crate::domain::ids::OrganizationId;
use crate::domain::time::UnixMs;
use crate::store::columns::{new_id, uuid};
use crate::store::database::DatabaseError;

/// One line of it.
#[derive(Debug)]
pub struct AuditEntry<'a> {
    /// When.
    pub at: UnixMs,
    /// In which organization; `None`: on the platform.
    pub organization: Option<OrganizationId>,
    /// Who, as a JSON object.
    pub actor: String,
    /// What was done, such as `project.update`.
    pub action: &'a str,
    /// To what, as a JSON object.
    pub target: String,
    /// What it was, as a JSON object.
    pub before: Option<String>,
    /// What it became.
    pub after: Option<String>,
    /// Whether it was done or denied.
    pub done: bool,
    /// Where it was asked from.
    pub client_address: Option<IpAddr>,
    /// The id of the request.
    pub request_id: String,
}

/// Adds a line.
pub async fn insert(
    connection: &mut SqliteConnection,
    entry: &AuditEntry<'_>,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO audit_log (id, created_at, organization_id, actor, action, target, before,
            after, outcome, client_address, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(uuid(new_id(entry.at)))
    .bind(entry.at.0)
    .bind(entry.organization.map(|id| uuid(id.0)))
    .bind(&entry.actor)
    .bind(entry.action)
    .bind(&entry.target)
    .bind(&entry.before)
    .bind(&entry.after)
    .bind(if entry.done { "Done" } else { "Denied" })
    .bind(entry.client_address.map(|address| address.to_string()))
    .bind(&entry.request_id)
    .execute(connection)
    .await?;
    Ok(())
}
