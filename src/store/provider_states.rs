//! Ids of objects that providers store for projects, and which upstream created each.

use sha2::{Digest as _, Sha256};
use sqlx::Row;
use uuid::Uuid;

use crate::domain::ids::ProjectId;
use crate::domain::time::UnixMs;
use crate::store::database::{Database, DatabaseError};

/// The first half of the SHA-256 of an id.
pub type StateKey = [u8; 16];

/// How long an id is kept: as long as providers keep the object.
pub const STATE_RETENTION_MS: i64 = 30 * 86_400_000;

/// The most ids that are loaded per project; older ones are ignored.
pub const STATES_PER_PROJECT_MAX: usize = 100_000;

pub fn state_key(id: &str) -> StateKey {
    let mut key = StateKey::default();
    key.copy_from_slice(&Sha256::digest(id.as_bytes())[..16]);
    key
}

/// An object that a provider stores for a project.
#[derive(Debug, PartialEq, Eq)]
pub struct ProviderState {
    pub project: ProjectId,
    pub key: StateKey,
    /// The upstream that stores the object.
    pub upstream: String,
    /// When the call that created the object arrived.
    pub at: UnixMs,
}

/// Returns the ids that have not expired at `now`, ordered by project and age, oldest first.
/// Returns up to `per_project_max` per project, plus those of the same age as the oldest of them.
pub async fn read(
    database: &Database,
    now: UnixMs,
    per_project_max: usize,
) -> Result<Vec<ProviderState>, DatabaseError> {
    // CROSS JOIN makes SQLite scan the projects and search the index by age.
    let rows = sqlx::query(
        "SELECT s.project_id, s.id_hash, s.upstream, s.created_at
         FROM projects p CROSS JOIN provider_states s
            ON s.project_id = p.id AND s.created_at >= max($1, coalesce(
                (SELECT created_at FROM provider_states WHERE project_id = p.id
                 ORDER BY created_at DESC LIMIT 1 OFFSET $2), 0))
         ORDER BY p.id, s.created_at",
    )
    .bind(now.0 - STATE_RETENTION_MS)
    .bind(i64::try_from(per_project_max).unwrap_or(i64::MAX) - 1)
    .fetch_all(database.reader())
    .await?;
    let state = |row: &sqlx::sqlite::SqliteRow| -> Result<ProviderState, sqlx::Error> {
        Ok(ProviderState {
            project: ProjectId(row.try_get::<Uuid, _>(0)?.as_u128()),
            key: row.try_get::<&[u8], _>(1)?.try_into().unwrap_or_default(),
            upstream: row.try_get(2)?,
            at: UnixMs(row.try_get(3)?),
        })
    };
    Ok(rows.iter().map(state).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_project_are_read_oldest_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("gateway.db")).await.expect("a database");
        let mut tx = database.begin().await.expect("a transaction");
        sqlx::query(
            "INSERT INTO organizations (id, name, status, self_funding, on_disconnect, output_clamp,
                created_at, updated_at, version) VALUES ($1, '', 'Active', 1, 'drain', 0, 0, 0, 1)",
        )
        .bind(Uuid::from_u128(9))
        .execute(&mut *tx)
        .await
        .expect("an organization");
        for project in [1, 2] {
            sqlx::query(
                "INSERT INTO projects (id, organization_id, name, status, created_by, created_at,
                    updated_at, version) VALUES ($1, $2, '', 'Active', $1, 0, 0, 1)",
            )
            .bind(Uuid::from_u128(project))
            .bind(Uuid::from_u128(9))
            .execute(&mut *tx)
            .await
            .expect("a project");
        }
        for (project, id, at) in [(1, "c", 30), (1, "a", 10), (1, "b", 20), (2, "a", 5)] {
            sqlx::query("INSERT INTO provider_states VALUES ($1, $2, 'u', $3)")
                .bind(Uuid::from_u128(project))
                .bind(&state_key(id)[..])
                .bind(at)
                .execute(&mut *tx)
                .await
                .expect("a state");
        }
        tx.commit().await.expect("committed");
        let state = |project, id, at| ProviderState {
            project: ProjectId(project),
            key: state_key(id),
            upstream: "u".to_owned(),
            at: UnixMs(at),
        };
        let all =
            [state(1, "a", 10), state(1, "b", 20), state(1, "c", 30), state(2, "a", 5)].map(Some);
        for (now, per_project_max, skipped) in
            [(0, 4, &[][..]), (0, 2, &[0]), (STATE_RETENTION_MS + 11, 4, &[0, 3])]
        {
            let read = read(&database, UnixMs(now), per_project_max).await.expect("states");
            let expected = all.iter().enumerate().filter(|(at, _)| !skipped.contains(at));
            assert!(read.iter().eq(expected.filter_map(|(_, state)| state.as_ref())), "{read:?}");
        }
    }
}
