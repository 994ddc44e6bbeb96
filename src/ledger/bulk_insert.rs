//! Bulk inserts of the projector: many rows per statement.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection, query::Query};

/// An insert whose values are still being bound.
pub type InsertQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// The insert statements for one table, for a few row counts. Each statement is prepared once.
#[derive(Debug)]
pub struct BulkInsert {
    statements: Vec<(usize, &'static str)>,
}

/// Row counts with a statement of their own. Every row count is a sum of few of them.
const BATCH_SIZES: [usize; 4] = [512, 64, 8, 1];

impl BulkInsert {
    /// Builds `head VALUES (?, …), … tail` with `columns` columns. Leaks the texts: create once per
    /// process.
    pub fn new(head: &str, columns: usize, tail: &str) -> Self {
        // Positional parameters, because SQLite searches a list for each named parameter that is
        // bound.
        let row = format!("({})", vec!["?"; columns].join(", "));
        let text = |rows: usize| {
            let text = format!("{head} VALUES {} {tail}", vec![row.as_str(); rows].join(", "));
            (rows, &*text.leak())
        };
        Self { statements: BATCH_SIZES.into_iter().map(text).collect() }
    }

    /// Inserts all `rows` in order; `bind` binds the values of one row.
    pub async fn run<'q, R>(
        &self,
        connection: &mut SqliteConnection,
        mut rows: &'q [R],
        bind: impl Fn(InsertQuery<'q>, &'q R) -> InsertQuery<'q>,
    ) -> Result<(), sqlx::Error> {
        for (count, text) in &self.statements {
            while *count <= rows.len() {
                let (chunk, remaining) = rows.split_at(*count);
                let query = chunk.iter().fold(sqlx::query(*text), &bind);
                query.execute(&mut *connection).await?;
                rows = remaining;
            }
        }
        Ok(())
    }
}
