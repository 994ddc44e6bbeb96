//! Metadata of this node: its id and the number of its run.

use uuid::Uuid;

use crate::domain::ids::NodeId;
use crate::store::database::{Database, DatabaseError};

/// Returns the id of the node. The first call creates it.
pub async fn node_id(database: &Database) -> Result<NodeId, DatabaseError> {
    let new_id = NodeId(Uuid::now_v7().as_u128()).to_string();
    let mut tx = database.begin().await?;
    let id: String = sqlx::query_scalar(
        "INSERT INTO node_metadata (name, value) VALUES ('node_id', $1)
         ON CONFLICT (name) DO UPDATE SET value = node_metadata.value RETURNING value",
    )
    .bind(new_id)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    NodeId::parse(&id)
        .map_err(|_| sqlx::Error::Decode("node_id is not a valid node id".into()).into())
}

/// Returns the number of the run that starts now. It is higher than all earlier numbers and than
/// `latest`, so that a checkpoint can never be mistaken for that of another chain.
pub async fn next_run(database: &Database, latest: u32) -> Result<u32, DatabaseError> {
    let mut tx = database.begin().await?;
    let stored: Option<String> =
        sqlx::query_scalar("SELECT value FROM node_metadata WHERE name = 'run'")
            .fetch_optional(&mut *tx)
            .await?;
    let stored = stored
        .map(|run| run.parse::<u32>())
        .transpose()
        .map_err(|_| sqlx::Error::Decode("run is not a number".into()))?;
    let next = 1 + latest.max(stored.unwrap_or_default());
    sqlx::query(
        "INSERT INTO node_metadata (name, value) VALUES ('run', $1)
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
    async fn run_numbers_are_unique_even_after_segments_are_removed() {
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
