//! Reads what the directory is made of: organizations, projects and keys, each with its limits and
//! its usage.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::domain::access::Cidr;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::limit::{Amounts, Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::store::database::{Database, DatabaseError};
use crate::store::quotas;
use crate::store::usage::{self, StoredUsage, Subjects, UsageBySubject};

/// Which part of the directory to read.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// All of it.
    Everything,
    /// One organization and all its projects.
    Organization(OrganizationId),
    /// One project, its keys and its organization.
    Project(ProjectId),
}

/// What was read.
#[derive(Debug, Default)]
pub struct DirectoryRows {
    /// Organizations with wallet, quota and usage.
    pub organizations: Vec<OrganizationRow>,
    /// Projects with quota and usage.
    pub projects: Vec<ProjectRow>,
    /// Keys with limits and usage; one whose rotation's grace runs appears twice, once a secret.
    pub keys: Vec<KeyRow>,
}

/// An organization as admission needs it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own column")]
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
    /// Whether a call whose client leaves is read to its end.
    pub on_disconnect_drain: bool,
    /// Whether the output of its calls is cut to what limits and wallet leave.
    pub output_clamp: bool,
    /// The limits of all its projects together.
    pub quota: Quota,
    /// What was used in the latest minute known.
    pub minute: (Minute, Amounts),
    /// What was used a day, the last two months.
    pub days: Vec<(Day, Amounts)>,
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
    /// Its own limits; its month begins on the first.
    pub limits: Limits,
    /// What was used in the latest minute known.
    pub minute: (Minute, Amounts),
    /// What was used a day, the last two months.
    pub days: Vec<(Day, Amounts)>,
}

/// How far back daily sums are read: two months, the longest that a month can need.
const USAGE_DAYS_READ: i64 = 62;

/// A scope as what stands after FROM, for each kind of subject.
struct ScopeSql {
    organizations: String,
    projects: String,
    keys: String,
    /// What their $1 is.
    id: Option<Uuid>,
}

impl ScopeSql {
    fn of(scope: Scope) -> Self {
        let (organization, project, id) = match scope {
            Scope::Everything => ("$1 IS NULL", "$1 IS NULL", None),
            Scope::Organization(id) => ("o.id = $1", "p.organization_id = $1", Some(id.0)),
            Scope::Project(id) => {
                let own = "o.id = (SELECT organization_id FROM projects WHERE id = $1)";
                (own, "p.id = $1", Some(id.0))
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

/// Reads that part as one consistent picture; after an edit, without the usage of those whose books
/// are `open`: what these hold is newer, and they are nearly all.
pub async fn read(
    database: &Database,
    scope: Scope,
    now: UnixMs,
    open: Option<&Subjects>,
) -> Result<DirectoryRows, DatabaseError> {
    let part = ScopeSql::of(scope);
    let mut tx = database.begin_snapshot().await?;
    let subjects = format!(
        "SELECT o.id FROM {} UNION ALL SELECT p.id FROM {} UNION ALL SELECT k.id FROM {}",
        part.organizations, part.projects, part.keys
    );
    let since = Day(now.day().0 - USAGE_DAYS_READ);
    let used = match open {
        Some(open) => usage::windows_excluding(&mut tx, (subjects, part.id), since, open).await?,
        None => usage::windows(&mut tx, &subjects, part.id, since).await?,
    };
    let organizations = format!(
        "SELECT o.id, o.status, o.allowed_models, w.balance_nano, w.is_active, o.on_disconnect,
            o.output_clamp, q.limits, q.enforce_quota, q.custom_reset_day
         FROM (SELECT * FROM {}) o
         JOIN wallets w ON w.organization_id = o.id
         LEFT JOIN quotas q ON q.subject_id = o.id",
        part.organizations
    );
    let organizations = part.rows(&mut tx, organizations).await?;
    let projects = format!(
        "SELECT p.id, p.organization_id, p.status, p.allowed_models,
            q.limits, q.enforce_quota, q.custom_reset_day
         FROM (SELECT * FROM {}) p LEFT JOIN quotas q ON q.subject_id = p.id",
        part.projects
    );
    let projects = part.rows(&mut tx, projects).await?;
    let keys = part.rows(&mut tx, format!("SELECT k.* FROM {}", part.keys)).await?;
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
        active: row.try_get::<&str, _>(1)? == "Active",
        allowed_models: list(row, 2)?,
        balance: Nano(row.try_get(3)?),
        wallet_active: row.try_get(4)?,
        on_disconnect_drain: row.try_get::<&str, _>(5)? == "drain",
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
        active: row.try_get::<&str, _>(2)? == "Active",
        allowed_models: list(row, 3)?,
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
    let cidrs: Option<Vec<String>> = list(row, "allowed_cidrs")?;
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
            allowed_models: list(row, "allowed_models")?,
            // A block that cannot be read matches nothing: a key is never opened by a fault.
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

/// A JSON array of texts in a column, `None` where it is NULL.
fn list<I: sqlx::ColumnIndex<SqliteRow>>(
    row: &SqliteRow,
    column: I,
) -> Result<Option<Vec<String>>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(serde_json::from_str).transpose().map_err(|fault| sqlx::Error::Decode(Box::new(fault)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(100 * 86_400_000);

    /// Two organizations (1, 2); projects 11 and 12 of the first, 21 of the second; a key each,
    /// that of project 11 rotated. All of them used something, long ago too.
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

    /// What was read of everyone's usage.
    fn windows(rows: &DirectoryRows) -> Vec<(u128, StoredUsage)> {
        let organizations = rows.organizations.iter().map(|row| (row.id.0, row.minute, &row.days));
        let projects = rows.projects.iter().map(|row| (row.id.0, row.minute, &row.days));
        let keys = rows.keys.iter().map(|row| (row.id.0, row.minute, &row.days));
        let all = organizations.chain(projects).chain(keys);
        all.map(|(id, minute, days)| (id, StoredUsage { minute, days: days.clone() })).collect()
    }

    #[tokio::test]
    async fn a_part_comes_with_the_limits_and_windows_of_all_that_stands_in_it() {
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
            let open = Subjects::from_iter([2, 12, 111]);
            let again = read(&database, scope, NOW, Some(&open)).await.expect("rows");
            for (id, used) in windows(&again) {
                assert_eq!(used == StoredUsage::default(), open.contains(&id), "{id} of {scope:?}");
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
