//! Reads the rows of the directory: organizations, projects and keys, with limits and usage.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::domain::access::Cidr;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::limit::{Amounts, Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::status::{OnDisconnect, OrganizationStatus, ProjectStatus};
use crate::domain::time::{Day, Minute, UnixMs};
use crate::store::columns::{named, texts};
use crate::store::database::{Database, DatabaseError};
use crate::store::quotas;
use crate::store::usage::{self, StoredUsage, Subjects, UsageBySubject};

/// Which part of the directory to read.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    Everything,
    /// One organization and all its projects.
    Organization(OrganizationId),
    /// One project, its keys and its organization.
    Project(ProjectId),
}

/// The rows of a scope.
#[derive(Debug, Default)]
pub struct DirectoryRows {
    pub organizations: Vec<OrganizationRow>,
    pub projects: Vec<ProjectRow>,
    /// During the grace period of a rotation a key appears twice, once per secret.
    pub keys: Vec<KeyRow>,
}

/// An organization with its wallet, quota and usage.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own column")]
pub struct OrganizationRow {
    pub id: OrganizationId,
    /// Whether calls are admitted.
    pub active: bool,
    /// Globs of the allowed models; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    /// The balance in the ledger.
    pub balance: Nano,
    /// Whether the wallet is active.
    pub wallet_active: bool,
    /// Whether a response is read to its end after the client disconnected.
    pub on_disconnect_drain: bool,
    /// Whether the gateway may lower the output limit of a call to fit limits and wallet.
    pub output_clamp: bool,
    /// Limits of all projects together.
    pub quota: Quota,
    /// Usage in the latest minute.
    pub minute: (Minute, Amounts),
    /// Usage per day, for the last two months.
    pub days: Vec<(Day, Amounts)>,
}

/// A project with its quota and usage.
#[derive(Debug)]
pub struct ProjectRow {
    pub id: ProjectId,
    /// The organization that pays.
    pub organization: OrganizationId,
    /// False if archived.
    pub active: bool,
    /// Globs of the allowed models; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    pub quota: Quota,
    /// Usage in the latest minute.
    pub minute: (Minute, Amounts),
    /// Usage per day, for the last two months.
    pub days: Vec<(Day, Amounts)>,
}

/// A secret and its key.
#[derive(Debug)]
pub struct KeyRow {
    pub id: ApiKeyId,
    pub project: ProjectId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// Whether the key is enabled and not revoked.
    pub enabled: bool,
    /// When the secret expires; for a rotated secret, the end of its grace period.
    pub expires_at: Option<UnixMs>,
    /// Globs of the allowed models; `None` allows all.
    pub allowed_models: Option<Vec<String>>,
    /// The addresses from which the key may be used; `None` allows all.
    pub allowed_cidrs: Option<Vec<Cidr>>,
    /// The key's own limits. Its month begins on the first.
    pub limits: Limits,
    /// Usage in the latest minute.
    pub minute: (Minute, Amounts),
    /// Usage per day, for the last two months.
    pub days: Vec<(Day, Amounts)>,
}

/// How many days of usage are read: two months, because a quota month may begin on any day.
const USAGE_DAYS_READ: i64 = 62;

/// The tables and conditions of a scope, as written after FROM.
struct ScopeSql {
    organizations: String,
    projects: String,
    keys: String,
    /// The value of `$1` in these conditions.
    id: Option<Uuid>,
}

impl ScopeSql {
    fn of(scope: Scope) -> Self {
        let (organization, project, id) = match scope {
            Scope::Everything => ("$1 IS NULL", "$1 IS NULL", None),
            Scope::Organization(id) => ("o.id = $1", "p.organization_id = $1", Some(id.0)),
            Scope::Project(id) => {
                let organization_of_project =
                    "o.id = (SELECT organization_id FROM projects WHERE id = $1)";
                (organization_of_project, "p.id = $1", Some(id.0))
            }
        };
        Self {
            organizations: format!("organizations o WHERE {organization}"),
            projects: format!("projects p WHERE {project}"),
            keys: format!("projects p JOIN api_keys k ON k.project_id = p.id WHERE {project}"),
            id: id.map(Uuid::from_u128),
        }
    }

    async fn rows(
        &self,
        connection: &mut SqliteConnection,
        query: String,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        sqlx::query(sqlx::AssertSqlSafe(query)).bind(self.id).fetch_all(connection).await
    }
}

/// Reads the rows of a scope from one snapshot. After an edit the usage of the `live` subjects is
/// left out, because their live state is newer; these are nearly all.
pub async fn read(
    database: &Database,
    scope: Scope,
    now: UnixMs,
    live: Option<&Subjects>,
) -> Result<DirectoryRows, DatabaseError> {
    let scope_sql = ScopeSql::of(scope);
    let mut tx = database.begin_snapshot().await?;
    let subjects = format!(
        "SELECT o.id FROM {} UNION ALL SELECT p.id FROM {} UNION ALL SELECT k.id FROM {}",
        scope_sql.organizations, scope_sql.projects, scope_sql.keys
    );
    let since = Day(now.day().0 - USAGE_DAYS_READ);
    let used = match live {
        Some(live) => {
            usage::windows_excluding(&mut tx, subjects, scope_sql.id, since, live).await?
        }
        None => usage::windows(&mut tx, &subjects, scope_sql.id, since).await?,
    };
    let organizations = format!(
        "SELECT o.id, o.status, o.allowed_models, w.balance_nano, w.is_active, o.on_disconnect,
            o.output_clamp, q.limits, q.enforce_quota, q.custom_reset_day
         FROM (SELECT * FROM {}) o
         JOIN wallets w ON w.organization_id = o.id
         LEFT JOIN quotas q ON q.subject_id = o.id",
        scope_sql.organizations
    );
    let organizations = scope_sql.rows(&mut tx, organizations).await?;
    let projects = format!(
        "SELECT p.id, p.organization_id, p.status, p.allowed_models,
            q.limits, q.enforce_quota, q.custom_reset_day
         FROM (SELECT * FROM {}) p LEFT JOIN quotas q ON q.subject_id = p.id",
        scope_sql.projects
    );
    let projects = scope_sql.rows(&mut tx, projects).await?;
    let keys = scope_sql.rows(&mut tx, format!("SELECT k.* FROM {}", scope_sql.keys)).await?;
    tx.commit().await?;

    let mut read = DirectoryRows::default();
    for row in &organizations {
        read.organizations.push(organization_row(row, &used)?);
    }
    for row in &projects {
        read.projects.push(project_row(row, &used)?);
    }
    for row in &keys {
        key_rows(row, &used, &mut read.keys)?;
    }
    Ok(read)
}

fn organization_row(
    row: &SqliteRow,
    used: &UsageBySubject,
) -> Result<OrganizationRow, sqlx::Error> {
    let id = row.try_get::<Uuid, _>(0)?.as_u128();
    let StoredUsage { minute, days } = used.of(id);
    Ok(OrganizationRow {
        id: OrganizationId(id),
        active: named(row, "organizations.status", OrganizationStatus::parse)?
            == OrganizationStatus::Active,
        allowed_models: texts(row, "allowed_models")?,
        balance: Nano(row.try_get(3)?),
        wallet_active: row.try_get(4)?,
        on_disconnect_drain: named(row, "organizations.on_disconnect", OnDisconnect::parse)?
            == OnDisconnect::Drain,
        output_clamp: row.try_get(6)?,
        quota: quotas::parse_quota(row.try_get(7)?, row.try_get(8)?, row.try_get(9)?)?,
        minute,
        days,
    })
}

fn project_row(row: &SqliteRow, used: &UsageBySubject) -> Result<ProjectRow, sqlx::Error> {
    let id = row.try_get::<Uuid, _>(0)?.as_u128();
    let StoredUsage { minute, days } = used.of(id);
    Ok(ProjectRow {
        id: ProjectId(id),
        organization: OrganizationId(row.try_get::<Uuid, _>(1)?.as_u128()),
        active: named(row, "projects.status", ProjectStatus::parse)? == ProjectStatus::Active,
        allowed_models: texts(row, "allowed_models")?,
        quota: quotas::parse_quota(row.try_get(4)?, row.try_get(5)?, row.try_get(6)?)?,
        minute,
        days,
    })
}

fn key_rows(
    row: &SqliteRow,
    used: &UsageBySubject,
    rows: &mut Vec<KeyRow>,
) -> Result<(), sqlx::Error> {
    let id = row.try_get::<Uuid, _>("id")?.as_u128();
    let revoked: Option<i64> = row.try_get("revoked_at")?;
    let cidrs: Option<Vec<String>> = texts(row, "allowed_cidrs")?;
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    let secret = |column| -> Result<Option<[u8; 32]>, sqlx::Error> {
        let hash: Option<Vec<u8>> = row.try_get(column)?;
        Ok(hash.and_then(|hash| hash.try_into().ok()))
    };
    let limits = Limits::default()
        .with(Limit::RequestsPerMinute, row.try_get("requests_per_minute_limit")?)
        .with(Limit::MonthlySpend, row.try_get("monthly_spend_limit_nano")?);
    let key = |secret_hash, ends: Option<i64>| -> Result<KeyRow, sqlx::Error> {
        let StoredUsage { minute, days } = used.of(id);
        Ok(KeyRow {
            id: ApiKeyId(id),
            project: ProjectId(row.try_get::<Uuid, _>("project_id")?.as_u128()),
            secret_hash,
            enabled: row.try_get::<bool, _>("enabled")? && revoked.is_none(),
            expires_at: ends.map(UnixMs),
            allowed_models: texts(row, "allowed_models")?,
            // An invalid block matches no address, so that corrupt data cannot open a key.
            allowed_cidrs: cidrs
                .as_ref()
                .map(|blocks| blocks.iter().filter_map(|block| Cidr::parse(block)).collect()),
            limits,
            minute,
            days,
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(100 * 86_400_000);

    /// Two organizations (1, 2) with the projects 11, 12 and 21 and one key each. The key of
    /// project 11 is rotated. All of them have recent and old usage.
    async fn with_callers(file: &std::path::Path) -> Database {
        let database = Database::open(file).await.expect("a database");
        let mut tx = database.begin().await.expect("a transaction");
        let mut run = async |query: &'static str, ids: &[u128]| {
            let ids = ids.iter().map(|id| Uuid::from_u128(*id));
            let query = ids.fold(sqlx::query(query), sqlx::query::Query::bind);
            query.execute(&mut *tx).await.expect("a row");
        };
        for id in [1, 2] {
            run(
                "INSERT INTO organizations (id, name, status, self_funding, on_disconnect,
                    output_clamp, created_at, updated_at, version)
                 VALUES ($1, '', 'Active', 1, 'drain', 0, 0, 0, 1)",
                &[id],
            )
            .await;
            run("INSERT INTO wallets VALUES ($1, 5, 0, 1, 0, 0)", &[id]).await;
        }
        for id in [11, 12, 21] {
            run(
                "INSERT INTO projects (id, organization_id, name, status, created_by, created_at,
                    updated_at, version) VALUES ($1, $2, '', 'Active', $1, 0, 0, 1)",
                &[id, id / 10],
            )
            .await;
            run(
                "INSERT INTO api_keys (id, project_id, name, secret_hash, last4, enabled,
                    requests_per_minute_limit, monthly_spend_limit_nano, metadata, created_by,
                    created_at, updated_at, version)
                 VALUES ($1, $2, '', CAST($1 || $1 AS BLOB), '', 1, 60, NULL, '{}', $1, 0, 0, 1)",
                &[10 * id + 1, id],
            )
            .await;
        }
        run(
            "UPDATE api_keys SET previous_secret_hash = CAST($1 || $2 AS BLOB), previous_expires_at = 9,
                monthly_spend_limit_nano = 700 WHERE id = $1",
            &[111, 1],
        )
        .await;
        run(r#"INSERT INTO quotas VALUES ($1, '{"monthlySpendLimit":9}', 0, 2, 0, 0, 1)"#, &[1])
            .await;
        for id in [1, 2, 11, 12, 21, 111, 121, 211] {
            run("INSERT INTO usage_minutes VALUES ($1, 7, 1, 2, 3)", &[id]).await;
            for query in [
                "INSERT INTO usage_days VALUES ($1, 37, 9, 9, 9, 9)",
                "INSERT INTO usage_days VALUES ($1, 99, 1, 2, 3, 4)",
                "INSERT INTO usage_days VALUES ($1, 100, 5, 6, 7, 8)",
            ] {
                run(query, &[id]).await;
            }
        }
        tx.commit().await.expect("committed");
        database
    }

    /// The usage of every row.
    fn windows(rows: &DirectoryRows) -> Vec<(u128, StoredUsage)> {
        let organizations = rows.organizations.iter().map(|row| (row.id.0, row.minute, &row.days));
        let projects = rows.projects.iter().map(|row| (row.id.0, row.minute, &row.days));
        let keys = rows.keys.iter().map(|row| (row.id.0, row.minute, &row.days));
        let all = organizations.chain(projects).chain(keys);
        all.map(|(id, minute, days)| (id, StoredUsage { minute, days: days.clone() })).collect()
    }

    #[tokio::test]
    async fn a_scope_is_read_with_all_its_limits_and_usage() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_callers(&folder.path().join("gateway.db")).await;
        let minute = (Minute(7), Amounts { requests: 1, tokens: 2, spend: Nano(3) });
        let days = [
            (Day(99), Amounts { requests: 1, tokens: 5, spend: Nano(4) }),
            (Day(100), Amounts { requests: 5, tokens: 13, spend: Nano(8) }),
        ];
        for (scope, organizations, projects, keys) in [
            (Scope::Everything, &[1, 2][..], &[11, 12, 21][..], &[111, 111, 121, 211][..]),
            (Scope::Organization(OrganizationId(1)), &[1], &[11, 12], &[111, 111, 121]),
            (Scope::Project(ProjectId(11)), &[1], &[11], &[111, 111]),
            (Scope::Project(ProjectId(21)), &[2], &[21], &[211]),
        ] {
            let live = Subjects::from_iter([2, 12, 111]);
            let again = read(&database, scope, NOW, Some(&live)).await.expect("rows");
            for (id, used) in windows(&again) {
                assert_eq!(used == StoredUsage::default(), live.contains(&id), "{id} of {scope:?}");
            }
            let rows = read(&database, scope, NOW, None).await.expect("rows");
            let read: Vec<u128> = rows.organizations.iter().map(|row| row.id.0).collect();
            assert_eq!(read, organizations, "{scope:?}");
            let read: Vec<u128> = rows.projects.iter().map(|row| row.id.0).collect();
            assert_eq!(read, projects, "{scope:?}");
            let read: Vec<u128> = rows.keys.iter().map(|row| row.id.0).collect();
            assert_eq!(read, keys, "{scope:?}");
            for (_, used) in windows(&rows) {
                assert_eq!(used, StoredUsage { minute, days: days.to_vec() }, "{scope:?}");
            }
            for row in &rows.organizations {
                let limit = (row.id.0 == 1).then_some(9);
                assert_eq!(row.quota.limits.get(Limit::MonthlySpend), limit);
                assert_eq!(row.quota.enforce, row.id.0 != 1);
                assert!(row.on_disconnect_drain && !row.output_clamp);
            }
            for row in &rows.keys {
                let limit = (row.id.0 == 111).then_some(700);
                assert_eq!(row.limits.get(Limit::MonthlySpend), limit);
                assert_eq!(row.limits.get(Limit::RequestsPerMinute), Some(60));
            }
        }
    }
}
