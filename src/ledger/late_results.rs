//! Late ends: those whose hold is unknown, because the journal that held it was damaged, or because
//! somebody else ended the call meanwhile.

use sqlx::SqlitePool;

use crate::journal::entry::CallResult;
use crate::ledger::batch::Batch;
use crate::store::columns::uuid;
use crate::store::database::DatabaseError;

/// Posts the late ends of a batch: each once, and only if its call has not ended before.
pub async fn resolve(pool: &SqlitePool, batch: &mut Batch) -> Result<(), DatabaseError> {
    while let Some((ended, charged)) = batch.next_late() {
        let (ended, charged) = (ended.clone(), *charged);
        let is_new = !batch.has_ended(ended.id) && is_open(pool, &ended).await?;
        batch.resolve_late(is_new);
        if is_new {
            tracing::warn!(call = %ended.id, charged, "an end without a hold is posted late");
        } else {
            tracing::error!(call = %ended.id, "a second end of a call is left out of the ledger");
        }
    }
    Ok(())
}

/// Whether the call may be posted: its organization is known, and its end is not.
async fn is_open(pool: &SqlitePool, ended: &CallResult<String>) -> Result<bool, DatabaseError> {
    let is_open = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM wallets WHERE organization_id = $1)
            AND NOT EXISTS (SELECT 1 FROM request_logs WHERE project_id = $2 AND id = $3)
            AND NOT EXISTS (
                SELECT 1 FROM wallet_records WHERE request_log_id = $3 AND kind = 'Consume')",
    )
    .bind(uuid(ended.owner.organization.0))
    .bind(uuid(ended.owner.project.0))
    .bind(uuid(ended.id.0))
    .fetch_one(pool)
    .await?;
    Ok(is_open)
}
