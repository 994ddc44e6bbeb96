//! Stored usage of projects, keys and organizations: per UTC day, and in the latest minute.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState as FastHash;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor};
use uuid::Uuid;

use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::time::{Day, Minute};
use crate::store::columns::{Subject, uuid};
use crate::store::database::DatabaseError;

/// The usage of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredUsage {
    /// In the latest minute.
    pub minute: (Minute, Amounts),
    /// Per day.
    pub days: Vec<(Day, Amounts)>,
}

/// A set of subjects.
pub type Subjects = HashSet<Subject, FastHash>;

/// The usage of several subjects.
#[derive(Debug, Default)]
pub struct UsageBySubject(HashMap<Subject, StoredUsage, FastHash>);

impl UsageBySubject {
    /// Returns the usage of a subject; zero if there is none.
    pub fn of(&self, subject: Subject) -> StoredUsage {
        self.0.get(&subject).cloned().unwrap_or_default()
    }

    /// Adds the usage of other subjects.
    pub fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }
}

/// Returns usage in the latest minute and on the days from `since` on. `subjects` is a query for
/// subject ids, with `id` as `$1`.
pub async fn windows(
    connection: &mut SqliteConnection,
    subjects: &str,
    id: Option<Uuid>,
    since: Day,
) -> Result<UsageBySubject, DatabaseError> {
    // CROSS JOIN makes SQLite search the usage of each subject instead of scanning all usage.
    let minutes = format!(
        "SELECT u.subject_id, u.requests, u.tokens, u.spend_nano, u.minute
         FROM ({subjects}) s CROSS JOIN usage_minutes u ON u.subject_id = s.id"
    );
    let days = format!(
        "SELECT u.subject_id, u.requests, u.input_tokens + u.output_tokens, u.spend_nano, u.day
         FROM ({subjects}) s CROSS JOIN usage_days u ON u.subject_id = s.id AND $2 <= u.day"
    );
    let minutes = sqlx::query(sqlx::AssertSqlSafe(minutes)).bind(id).fetch_all(&mut *connection);
    let mut windows = UsageBySubject::default();
    for row in minutes.await? {
        let used = windows.0.entry(row.try_get::<Uuid, _>(0)?.as_u128()).or_default();
        used.minute = (Minute(row.try_get(4)?), amounts(&row, 1)?);
    }
    let days = sqlx::query(sqlx::AssertSqlSafe(days)).bind(id).bind(since.0).fetch_all(connection);
    for row in days.await? {
        let used = windows.0.entry(row.try_get::<Uuid, _>(0)?.as_u128()).or_default();
        used.days.push((Day(row.try_get(4)?), amounts(&row, 1)?));
    }
    Ok(windows)
}

/// Like [`windows`], without the `live` subjects. Searches the others one by one, because they are
/// few.
pub async fn windows_excluding(
    connection: &mut SqliteConnection,
    subjects: String,
    id: Option<Uuid>,
    since: Day,
    live: &Subjects,
) -> Result<UsageBySubject, DatabaseError> {
    let ids = sqlx::query_scalar::<_, Uuid>(sqlx::AssertSqlSafe(subjects)).bind(id);
    let ids = ids.fetch_all(&mut *connection).await?;
    let mut all = UsageBySubject::default();
    for id in ids.into_iter().filter(|id| !live.contains(&id.as_u128())) {
        all.0.extend(windows(connection, "SELECT $1 AS id", Some(id), since).await?.0);
    }
    Ok(all)
}

/// Returns the sum of the days from `first` up to, but not including, `end`.
pub async fn sum(
    executor: impl SqliteExecutor<'_>,
    subject: Subject,
    first: Day,
    end: Day,
) -> Result<Amounts, DatabaseError> {
    let row = sqlx::query(
        "SELECT coalesce(sum(requests), 0), coalesce(sum(input_tokens + output_tokens), 0),
            coalesce(sum(spend_nano), 0)
         FROM usage_days WHERE subject_id = $1 AND $2 <= day AND day < $3",
    )
    .bind(uuid(subject))
    .bind(first.0)
    .bind(end.0)
    .fetch_one(executor)
    .await?;
    Ok(amounts(&row, 0)?)
}

/// Reads amounts from three columns.
fn amounts(row: &SqliteRow, first: usize) -> Result<Amounts, sqlx::Error> {
    Ok(Amounts {
        requests: row.try_get(first)?,
        tokens: row.try_get(first + 1)?,
        spend: Nano(row.try_get(first + 2)?),
    })
}
