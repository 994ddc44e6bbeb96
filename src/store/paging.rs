//! Pages and sort orders of lists.

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row, Sqlite, SqlitePool};

/// A page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The number of the page, from 1.
    pub page: u32,
    /// Rows per page.
    pub size: u32,
}

impl Page {
    /// The value for LIMIT.
    pub fn limit(self) -> i64 {
        i64::from(self.size)
    }

    /// The value for OFFSET.
    pub fn offset(self) -> i64 {
        (i64::from(self.page) - 1) * i64::from(self.size)
    }

    /// Returns the rows of this page from a complete list.
    pub fn cut<T>(self, rows: Vec<T>) -> impl Iterator<Item = T> {
        let (skip, take) = (usize::try_from(self.offset()), usize::try_from(self.limit()));
        rows.into_iter().skip(skip.unwrap_or(usize::MAX)).take(take.unwrap_or(0))
    }
}

/// The order of a list, by one of the columns in its `SORTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// The column; never text from the client, as it becomes part of the SQL.
    pub column: &'static str,
    pub descending: bool,
}

impl Sort {
    pub const NEWEST: Self = Self { column: "created_at", descending: true };

    /// Returns the ORDER BY and LIMIT clauses. Rows that compare equal are ordered by id.
    pub fn order_by(self) -> String {
        let direction = if self.descending { "DESC" } else { "ASC" };
        format!("ORDER BY {} {direction}, id {direction} LIMIT $1 OFFSET $2", self.column)
    }
}

/// Returns a pattern for `LIKE … ESCAPE '\'` that matches texts which contain `part`.
pub fn pattern(part: &str) -> String {
    let mut pattern = String::from("%");
    for letter in part.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

/// A query whose values are not all bound yet.
pub type PageQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// The query of a list. `$1` and `$2` are LIMIT and OFFSET; its own values begin at `$3`.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery {
    /// The expressions after SELECT.
    pub columns: &'static str,
    /// The FROM and WHERE clauses.
    pub from: &'static str,
}

/// Reads the rows of a page, and the number of rows on all pages, in one transaction.
pub async fn read<'q>(
    pool: &SqlitePool,
    shown: ListQuery,
    page: Page,
    sort: Sort,
    bind: impl Fn(PageQuery<'q>) -> PageQuery<'q>,
) -> Result<(Vec<SqliteRow>, i64), sqlx::Error> {
    let limits = |query: PageQuery<'q>| bind(query.bind(page.limit()).bind(page.offset()));
    let rows = format!("SELECT {} {} {}", shown.columns, shown.from, sort.order_by());
    let count = format!("SELECT count(*) {}", shown.from);
    let mut tx = pool.begin().await?;
    let rows = limits(sqlx::query(AssertSqlSafe(rows))).fetch_all(&mut *tx).await?;
    let total = limits(sqlx::query(AssertSqlSafe(count))).fetch_one(&mut *tx).await?.try_get(0)?;
    tx.commit().await?;
    Ok((rows, total))
}
