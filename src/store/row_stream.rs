//! Row after row of a long answer, of which only a few are in memory at a time.

use std::future::poll_fn;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

/// Hands each row of that query to `take`.
pub async fn for_each_row(
    connection: &mut SqliteConnection,
    query: &'static str,
    mut take: impl FnMut(&SqliteRow) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query(query).fetch(connection);
    while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
        take(&row?)?;
    }
    Ok(())
}
