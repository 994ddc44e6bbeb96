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
