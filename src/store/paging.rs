//! Which part of a list is asked for, and in which order.

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row, Sqlite, SqlitePool};

/// A page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub page: u32,
    /// Rows a page.
    pub size: u32,
}

impl Page {
    /// As SQL counts: how many rows.
    pub fn limit(self) -> i64 {
        i64::from(self.size)
    }

    /// As SQL counts: after how many rows.
    pub fn offset(self) -> i64 {
        (i64::from(self.page) - 1) * i64::from(self.size)
    }

    /// Its rows of a list that is whole in memory.
    pub fn cut<T>(self, rows: Vec<T>) -> impl Iterator<Item = T> {
        let (skip, take) = (usize::try_from(self.offset()), usize::try_from(self.limit()));
        rows.into_iter().skip(skip.unwrap_or(usize::MAX)).take(take.unwrap_or(0))
    }
}

/// The order of a list: one of the columns that its `SORTS` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// The column; never a text of the client's.
    pub column: &'static str,
    /// Largest first.
    pub descending: bool,
}

impl Sort {
    /// Newest first.
    pub const NEWEST: Self = Self { column: "created_at", descending: true };

    /// The end of a query, ties broken by id.
    pub fn order_by(self) -> String {
        let direction = if self.descending { "DESC" } else { "ASC" };
        format!("ORDER BY {} {direction}, id {direction} LIMIT $1 OFFSET $2", self.column)
    }
}

/// A pattern for `LIKE … ESCAPE '\'` that finds `part` anywhere.
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

/// A query whose values are still being bound.
pub type PageQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// What a list shows, as the two halves of a query: `SELECT …` and `FROM … WHERE …`, in which
/// values begin at `$3`.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery {
    /// The columns.
    pub columns: &'static str,
    /// Tables and conditions.
    pub from: &'static str,
}

/// The rows of a page, and how many there are on all pages.
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
