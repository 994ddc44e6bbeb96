//! Reads the rows of a large result one at a time, with only a few in memory.

use std::future::poll_fn;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

/// Passes each row of `query` to `on_row`.
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
