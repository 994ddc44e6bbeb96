//! Reads what the directory is made of: organizations, projects with quota and usage, keys.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::domain::access::Cidr;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::store::database::{Database, DatabaseError};
use crate::store::quotas;

/// Which part of the directory to read.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// All of it.
    Everything,
    /// One organization and all its projects.
    Organization(OrganizationId),
    /// One project and its organization.
    Project(ProjectId),
}

/// What was read.
#[derive(Debug, Default)]
pub struct CallerRows {
    /// Organizations with their wallets.
    pub organizations: Vec<OrganizationRow>,
    /// Projects with quota and usage.
    pub projects: Vec<ProjectRow>,
    /// Keys; one whose rotation's grace runs appears twice, once a secret.
    pub keys: Vec<KeyRow>,
}

/// An organization as admission needs it.
#[derive(Debug)]
pub struct OrganizationRow {
    /// Its id.
    pub id: OrganizationId,
    /// Whether its calls are admitted.
    pub active: bool,
    /// Globs of the models it may use; `None` is all.
    pub allowed_models: Option<Vec<String>>,
    /// The ledger balance.
    pub balance: Nano,
    /// Whether its wallet is switched on.
    pub wallet_active: bool,
}

/// A project as admission needs it.
#[derive(Debug)]
pub struct ProjectRow {
    /// Its id.
    pub id: ProjectId,
    /// Who pays.
    pub organization: OrganizationId,
    /// Whether it is not archived.
    pub active: bool,
    /// Globs of the models it may use; `None` is all.
    pub allowed_models: Option<Vec<String>>,
    /// Its limits.
    pub quota: Quota,
    /// What was used in the latest minute known.
    pub minute: (Minute, Amounts),
    /// What was used a day, the last two months.
    pub days: Vec<(Day, Amounts)>,
}

/// A secret and the key it belongs to.
#[derive(Debug)]
pub struct KeyRow {
    /// The key.
    pub id: ApiKeyId,
    /// The project it opens.
    pub project: ProjectId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// Whether it is switched on and not revoked.
    pub enabled: bool,
    /// When it (or, for a rotated secret, its grace) ends.
    pub expires_at: Option<UnixMs>,
    /// Globs of the models it may use; `None` is all.
    pub allowed_models: Option<Vec<String>>,
    /// Where it may be used from; `None` is anywhere.
    pub allowed_cidrs: Option<Vec<Cidr>>,
}

/// How far back daily sums are read: two months, the longest that a month can need.
const DAYS_READ: i64 = 62;

/// Reads that part as one consistent picture.
pub async fn read(
    database: &Database,
    scope: Scope,
    now: UnixMs,
) -> Result<CallerRows, DatabaseError> {
    let (organization, project) = match scope {
        Scope::Everything => (None, None),
        Scope::Organization(id) => (Some(Uuid::from_u128(id.0)), None),
        Scope::Project(id) => (None, Some(Uuid::from_u128(id.0))),
    };
    let mut tx = database.reader().begin().await?;
    let organizations = sqlx::query(
        "SELECT o.id, o.status, o.allowed_models, w.balance_nano, w.is_active
         FROM organizations o JOIN wallets w ON w.organization_id = o.id
         WHERE ($1 IS NULL OR o.id = $1)
           AND ($2 IS NULL OR o.id = (SELECT organization_id FROM projects WHERE id = $2))",
    )
    .bind(organization)
    .bind(project)
    .fetch_all(&mut *tx)
    .await?;
    let projects = sqlx::query(
        "SELECT p.id, p.organization_id, p.status, p.allowed_models,
                q.limits, q.enforce_quota, q.custom_reset_day,
                m.minute, m.requests, m.tokens, m.spend_nano
         FROM projects p
         LEFT JOIN project_quotas q ON q.project_id = p.id
         LEFT JOIN usage_minutes m ON m.project_id = p.id
         WHERE ($1 IS NULL OR p.organization_id = $1) AND ($2 IS NULL OR p.id = $2)",
    )
    .bind(organization)
    .bind(project)
    .fetch_all(&mut *tx)
    .await?;
    let keys = sqlx::query(
        "SELECT k.* FROM api_keys k JOIN projects p ON p.id = k.project_id
         WHERE ($1 IS NULL OR p.organization_id = $1) AND ($2 IS NULL OR p.id = $2)",
    )
    .bind(organization)
    .bind(project)
    .fetch_all(&mut *tx)
    .await?;
    let days = sqlx::query(
        "SELECT u.project_id, u.day, u.requests, u.input_tokens + u.output_tokens, u.spend_nano
         FROM usage_days u JOIN projects p ON p.id = u.project_id
         WHERE $3 <= u.day AND ($1 IS NULL OR p.organization_id = $1) AND ($2 IS NULL OR p.id = $2)",
    )
    .bind(organization)
    .bind(project)
    .bind(now.day().0 - DAYS_READ)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;

    let mut rows = CallerRows {
        organizations: organizations.iter().map(organization_row).collect::<Result<_, _>>()?,
        projects: projects.iter().map(project_row).collect::<Result<_, _>>()?,
        keys: Vec::with_capacity(keys.len()),
    };
    for key in &keys {
        key_rows(key, &mut rows.keys)?;
    }
    add_days(&mut rows.projects, &days)?;
    Ok(rows)
}

fn organization_row(row: &SqliteRow) -> Result<OrganizationRow, sqlx::Error> {
    Ok(OrganizationRow {
        id: OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128()),
        active: row.try_get::<&str, _>(1)? == "Active",
        allowed_models: list(row, 2)?,
        balance: Nano(row.try_get(3)?),
        wallet_active: row.try_get(4)?,
    })
}

fn project_row(row: &SqliteRow) -> Result<ProjectRow, sqlx::Error> {
    let minute: Option<i64> = row.try_get(7)?;
    let used = match minute {
        Some(_) => Amounts {
            requests: row.try_get(8)?,
            tokens: row.try_get(9)?,
            spend: Nano(row.try_get(10)?),
        },
        None => Amounts::default(),
    };
    Ok(ProjectRow {
        id: ProjectId(row.try_get::<Uuid, _>(0)?.as_u128()),
        organization: OrganizationId(row.try_get::<Uuid, _>(1)?.as_u128()),
        active: row.try_get::<&str, _>(2)? == "Active",
        allowed_models: list(row, 3)?,
        quota: quotas::quota_of(row.try_get(4)?, row.try_get(5)?, row.try_get(6)?)?,
        minute: (Minute(minute.unwrap_or_default()), used),
        days: Vec::new(),
    })
}

fn key_rows(row: &SqliteRow, rows: &mut Vec<KeyRow>) -> Result<(), sqlx::Error> {
    let revoked: Option<i64> = row.try_get("revoked_at")?;
    let cidrs: Option<Vec<String>> = list(row, "allowed_cidrs")?;
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    let secret = |column| -> Result<Option<[u8; 32]>, sqlx::Error> {
        let hash: Option<Vec<u8>> = row.try_get(column)?;
        Ok(hash.and_then(|hash| hash.try_into().ok()))
    };
    let key = |secret_hash, ends: Option<i64>| -> Result<KeyRow, sqlx::Error> {
        Ok(KeyRow {
            id: ApiKeyId(row.try_get::<Uuid, _>("id")?.as_u128()),
            project: ProjectId(row.try_get::<Uuid, _>("project_id")?.as_u128()),
            secret_hash,
            enabled: row.try_get::<bool, _>("enabled")? && revoked.is_none(),
            expires_at: ends.map(UnixMs),
            allowed_models: list(row, "allowed_models")?,
            // A block that cannot be read matches nothing: a key is never opened by a fault.
            allowed_cidrs: cidrs
                .as_ref()
                .map(|blocks| blocks.iter().filter_map(|block| Cidr::parse(block)).collect()),
        })
    };
    if let Some(hash) = secret("secret_hash")? {
        rows.push(key(hash, expires_at)?);
    }
    if let (Some(hash), Some(grace)) =
        (secret("previous_secret_hash")?, row.try_get::<Option<i64>, _>("previous_expires_at")?)
    {
        rows.push(key(hash, Some(expires_at.map_or(grace, |ends| ends.min(grace))))?);
    }
    Ok(())
}

fn add_days(projects: &mut [ProjectRow], days: &[SqliteRow]) -> Result<(), sqlx::Error> {
    let places: std::collections::HashMap<ProjectId, usize> =
        projects.iter().enumerate().map(|(at, project)| (project.id, at)).collect();
    for row in days {
        let id = ProjectId(row.try_get::<Uuid, _>(0)?.as_u128());
        if let Some(at) = places.get(&id) {
            let used = Amounts {
                requests: row.try_get(2)?,
                tokens: row.try_get(3)?,
                spend: Nano(row.try_get(4)?),
            };
            projects[*at].days.push((Day(row.try_get(1)?), used));
        }
    }
    Ok(())
}

/// A JSON array of texts in a column, `None` where it is NULL.
fn list<I: sqlx::ColumnIndex<SqliteRow>>(
    row: &SqliteRow,
    column: I,
) -> Result<Option<Vec<String>>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(serde_json::from_str).transpose().map_err(|fault| sqlx::Error::Decode(Box::new(fault)))
}
