//! Many rows in one statement: the projector's inserts.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection, query::Query};

/// A query whose values are still being bound.
pub type InsertQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// An insert of one table, as text for a few row counts: each text is prepared once.
#[derive(Debug)]
pub struct BulkInsert {
    statements: Vec<(usize, &'static str)>,
}

/// Row counts that a statement is prepared for. Every number of rows is a sum of few of them.
const BATCH_SIZES: [usize; 4] = [512, 64, 8, 1];

impl BulkInsert {
    /// `head VALUES (?, …), … tail` with so many columns. Made once a process: the texts stay.
    pub fn new(head: &str, columns: usize, tail: &str) -> Self {
        // Bare question marks: SQLite looks a named parameter up in a list, at each bind.
        let row = format!("({})", vec!["?"; columns].join(", "));
        let text = |rows: usize| {
            let text = format!("{head} VALUES {} {tail}", vec![row.as_str(); rows].join(", "));
            (rows, &*text.leak())
        };
        Self { statements: BATCH_SIZES.into_iter().map(text).collect() }
    }

    /// Inserts all `rows`, in order; `bind` binds the values of one.
    pub async fn run<'q, R>(
        &self,
        connection: &mut SqliteConnection,
        mut rows: &'q [R],
        bind: impl Fn(InsertQuery<'q>, &'q R) -> InsertQuery<'q>,
    ) -> Result<(), sqlx::Error> {
        for (count, text) in &self.statements {
            while *count <= rows.len() {
                let (these, rest) = rows.split_at(*count);
                let query = these.iter().fold(sqlx::query(*text), &bind);
                query.execute(&mut *connection).await?;
                rows = rest;
            }
        }
        Ok(())
    }
}
