//! Durable usage: what a project used on each UTC day.

use sqlx::{Row, SqliteExecutor};

use crate::domain::ids::ProjectId;
use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::time::Day;
use crate::store::columns::uuid;
use crate::store::database::DatabaseError;

/// The sum of the days from `first` up to, and without, `end`.
pub async fn sum(
    executor: impl SqliteExecutor<'_>,
    project: ProjectId,
    first: Day,
    end: Day,
) -> Result<Amounts, DatabaseError> {
    let row = sqlx::query(
        "SELECT coalesce(sum(requests), 0), coalesce(sum(input_tokens + output_tokens), 0),
            coalesce(sum(spend_nano), 0)
         FROM usage_days WHERE project_id = $1 AND $2 <= day AND day < $3",
    )
    .bind(uuid(project.0))
    .bind(first.0)
    .bind(end.0)
    .fetch_one(executor)
    .await?;
    Ok(Amounts { requests: row.try_get(0)?, tokens: row.try_get(1)?, spend: Nano(row.try_get(2)?) })
}
