//! Facts of this node, by name.

use uuid::Uuid;

use crate::domain::ids::NodeId;
use crate::store::database::{Database, DatabaseError};

/// The node's id, made when it is first asked for.
pub async fn node_id(database: &Database) -> Result<NodeId, DatabaseError> {
    let fresh = NodeId(Uuid::now_v7().as_u128()).to_string();
    let mut tx = database.begin().await?;
    let id: String = sqlx::query_scalar(
        "INSERT INTO facts (name, value) VALUES ('node_id', $1)
         ON CONFLICT (name) DO UPDATE SET value = facts.value RETURNING value",
    )
    .bind(fresh)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    NodeId::parse(&id)
        .map_err(|_| sqlx::Error::Decode("the fact node_id is no node id".into()).into())
}

/// The number of the run that begins now: higher than any before, and than `latest`. It names the
/// journal's chains, so that a checkpoint is never taken for that of another chain.
pub async fn next_run(database: &Database, latest: u32) -> Result<u32, DatabaseError> {
    let mut tx = database.begin().await?;
    let known: Option<String> = sqlx::query_scalar("SELECT value FROM facts WHERE name = 'run'")
        .fetch_optional(&mut *tx)
        .await?;
    let known = known
        .map(|run| run.parse::<u32>())
        .transpose()
        .map_err(|_| sqlx::Error::Decode("the fact run is no number".into()))?;
    let next = 1 + latest.max(known.unwrap_or_default());
    sqlx::query(
        "INSERT INTO facts (name, value) VALUES ('run', $1)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(next.to_string())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_two_runs_have_one_number_though_their_segments_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("db")).await.expect("a database");
        assert_eq!(next_run(&database, 0).await.expect("a number"), 1);
        assert_eq!(next_run(&database, 0).await.expect("a number"), 2);
        assert_eq!(next_run(&database, 7).await.expect("a number"), 8);
        assert_eq!(next_run(&database, 0).await.expect("a number"), 9);
        let node = node_id(&database).await.expect("an id");
        assert_eq!(node_id(&database).await.expect("an id"), node);
    }
}
