//! Late results: results whose hold is unknown, because its journal entry was damaged or because
//! the call was already ended by recovery.

use sqlx::SqlitePool;

use crate::journal::entry::CallResult;
use crate::ledger::batch::Batch;
use crate::store::columns::uuid;
use crate::store::database::DatabaseError;

/// Posts the late results of a batch. A result is dropped if its call has ended before.
pub async fn resolve(pool: &SqlitePool, batch: &mut Batch) -> Result<(), DatabaseError> {
    while let Some((result, charged)) = batch.next_late() {
        let (result, charged) = (result.clone(), *charged);
        let is_new = !batch.has_ended(result.id) && is_open(pool, &result).await?;
        batch.resolve_late(is_new);
        if is_new {
            tracing::warn!(call = %result.id, charged, "settled a call whose hold is unknown");
        } else {
            tracing::error!(call = %result.id, "dropped a second result of a call");
        }
    }
    Ok(())
}

/// Returns true if the result can be posted: the organization exists, and the call has no result
/// yet.
async fn is_open(pool: &SqlitePool, result: &CallResult<String>) -> Result<bool, DatabaseError> {
    let is_open = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM wallets WHERE organization_id = $1)
            AND NOT EXISTS (SELECT 1 FROM request_logs WHERE project_id = $2 AND id = $3)
            AND NOT EXISTS (
                SELECT 1 FROM wallet_records WHERE request_log_id = $3 AND kind = 'Consume')",
    )
    .bind(uuid(result.owner.organization.0))
    .bind(uuid(result.owner.project.0))
    .bind(uuid(result.id.0))
    .fetch_one(pool)
    .await?;
    Ok(is_open)
}
