//! Many rows in one statement: the projector's inserts.

use std::fmt::Write;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection, query::Query};

/// A query whose values are still being bound.
pub type Binding<'q> = Query<'q, Sqlite, SqliteArguments>;

/// An insert of one table, as text for a few row counts: each text is prepared once.
#[derive(Debug)]
pub struct Insert {
    texts: Vec<(usize, &'static str)>,
}

/// Row counts that a statement is prepared for. Every number of rows is a sum of few of them.
const ROWS: [usize; 3] = [64, 8, 1];

impl Insert {
    /// `head VALUES ($1, …), … tail` with so many columns. Made once a process: the texts stay.
    pub fn new(head: &str, columns: usize, tail: &str) -> Self {
        let text = |rows: usize| {
            let mut text = format!("{head} VALUES ");
            for row in 0..rows {
                let separator = if row == 0 { "(" } else { ", (" };
                text.push_str(separator);
                for column in 0..columns {
                    let comma = if column == 0 { "" } else { ", " };
                    let _ = write!(text, "{comma}${}", row * columns + column + 1);
                }
                text.push(')');
            }
            text.push(' ');
            text.push_str(tail);
            (rows, &*text.leak())
        };
        Self { texts: ROWS.into_iter().map(text).collect() }
    }

    /// Inserts all `rows`, in order; `bind` binds the values of one.
    pub async fn run<'q, R>(
        &self,
        connection: &mut SqliteConnection,
        mut rows: &'q [R],
        bind: impl Fn(Binding<'q>, &'q R) -> Binding<'q>,
    ) -> Result<(), sqlx::Error> {
        for (count, text) in &self.texts {
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
