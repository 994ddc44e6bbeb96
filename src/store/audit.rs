//! The audit log: who changed or tried to change what, with the state before and after.

use std::net::IpAddr;

use sqlx::SqliteConnection;

use crate::domain::ids::OrganizationId;
use crate::domain::time::UnixMs;
use crate::store::columns::{new_id, uuid};
use crate::store::database::DatabaseError;

/// One line of the audit log.
#[derive(Debug)]
pub struct AuditEntry<'a> {
    pub at: UnixMs,
    /// `None` for a change of the platform.
    pub organization: Option<OrganizationId>,
    /// A JSON object.
    pub actor: String,
    /// The name of the change, such as `project.update`.
    pub action: &'a str,
    /// A JSON object.
    pub target: String,
    /// The changed fields before the change, as a JSON object.
    pub before: Option<String>,
    /// The changed fields after the change, as a JSON object.
    pub after: Option<String>,
    /// False if the change was denied.
    pub allowed: bool,
    pub client_address: Option<IpAddr>,
    pub request_id: String,
}

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
    .bind(if entry.allowed { "Done" } else { "Denied" })
    .bind(entry.client_address.map(|address| address.to_string()))
    .bind(&entry.request_id)
    .execute(connection)
    .await?;
    Ok(())
}
