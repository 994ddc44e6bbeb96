//! Opens the SQLite database and runs transactions on it.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Sqlite, SqlitePool, Transaction};

/// A SQLite database in WAL mode: one writer connection, several reader connections.
#[derive(Debug, Clone)]
pub struct Database {
    writer: SqlitePool,
    reader: SqlitePool,
}

/// An error of the database.
#[derive(Debug, thiserror::Error)]
#[error("database: {0}")]
pub struct DatabaseError(#[from] pub sqlx::Error);

/// The migrations up to the schema of this version.
pub static SCHEMA: Migrator = sqlx::migrate!("migrations/sqlite");

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

impl Database {
    /// Opens or creates the file and applies missing migrations.
    pub async fn open(file: &Path) -> Result<Self, DatabaseError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .statement_cache_capacity(256);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .after_release(|connection, _| {
                Box::pin(async move {
                    // A failed commit ends the transaction in SQLite, but sqlx counts it as open
                    // and would not begin another. Replace such a connection.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options.clone())
            .await?;
        SCHEMA.run(&writer).await.map_err(sqlx::Error::from)?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, reader })
    }

    /// Returns the pool for reads. A read sees what was committed before it began.
    pub const fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Begins a read transaction: all its reads see the same snapshot.
    pub async fn begin_snapshot(&self) -> Result<Transaction<'static, Sqlite>, DatabaseError> {
        Ok(self.reader.begin().await?)
    }

    /// Begins a write transaction. There is one at a time.
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>, DatabaseError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Waits for open transactions and closes the connections.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row;
    use uuid::Uuid;

    use super::*;

    /// Rows in the first schema: one organization with two projects and a key that made calls.
    const BEFORE: &[&str] = &[
        "INSERT INTO organizations VALUES
            (x'0000000000000000000000000000000A', 'O', NULL, 'Active', 1, 'cancel', NULL, 0, 0, 1)",
        "INSERT INTO projects VALUES
            (x'0000000000000000000000000000000B', x'0000000000000000000000000000000A', 'P', NULL,
             'Active', NULL, NULL, NULL, x'00', 0, 0, NULL, 1),
            (x'0000000000000000000000000000000C', x'0000000000000000000000000000000A', 'Q', NULL,
             'Archived', NULL, NULL, NULL, x'00', 0, 0, 0, 1)",
        "INSERT INTO project_quotas VALUES
            (x'0000000000000000000000000000000B', '{\"dailyRequestLimit\":7}', 0, 28, 3, 4, 5)",
        "INSERT INTO usage_days VALUES
            (x'0000000000000000000000000000000B', 1, 2, 30, 4, 500),
            (x'0000000000000000000000000000000B', 2, 1, 10, 1, 100),
            (x'0000000000000000000000000000000C', 2, 5, 50, 5, 900)",
        "INSERT INTO usage_minutes VALUES
            (x'0000000000000000000000000000000B', 2890, 1, 11, 100),
            (x'0000000000000000000000000000000C', 2891, 3, 33, 300)",
        "INSERT INTO request_logs VALUES
            (x'0B', x'01', x'0A', x'0000000000000000000000000000000D', 86400000, 'Completed', 200,
             NULL, 'm', 'u', 0, 300, '{\"attempts\":1,\"usage\":{\"inputTokens\":20,\"outputTokens\":4}}'),
            (x'0B', x'02', x'0A', x'0000000000000000000000000000000D', 172799999, 'Cancelled', 0,
             NULL, 'm', 'u', 1, 200, '{\"attempts\":2,\"usage\":{\"inputTokens\":10}}'),
            (x'0B', x'03', x'0A', x'0000000000000000000000000000000D', 172800000, 'Cancelled', 0,
             NULL, 'm', NULL, 1, 0, '{\"attempts\":0}'),
            (x'0B', x'04', x'0A', x'0000000000000000000000000000000D', 172800001, 'Refused', 429,
             'x', 'm', NULL, 1, 0, '{\"attempts\":0,\"count\":9}')",
    ];

    #[tokio::test]
    async fn migrations_keep_usage_and_quotas_of_the_first_schema() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("gateway.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let old = SqlitePool::connect_with(options).await.expect("a database");
        sqlx::migrate!("migrations/sqlite").run_to(1, &old).await.expect("the first schema");
        for query in BEFORE {
            sqlx::query(*query).execute(&old).await.expect(query);
        }
        old.close().await;

        let database = Database::open(&file).await.expect("migrated");
        let rows = async |query: &'static str| {
            sqlx::query(query).fetch_all(database.reader()).await.expect(query)
        };
        let numbers = |row: &sqlx::sqlite::SqliteRow| -> Vec<i64> {
            (1..row.len()).map(|column| row.get(column)).collect()
        };
        let days: Vec<(u128, Vec<i64>)> = rows("SELECT * FROM usage_days ORDER BY subject_id, day")
            .await
            .iter()
            .map(|row| (row.get::<Uuid, _>(0).as_u128(), numbers(row)))
            .collect();
        let expected = [
            (0xA, vec![1, 2, 30, 4, 500]),
            (0xA, vec![2, 6, 60, 6, 1_000]),
            (0xB, vec![1, 2, 30, 4, 500]),
            (0xB, vec![2, 1, 10, 1, 100]),
            (0xC, vec![2, 5, 50, 5, 900]),
            (0xD, vec![1, 2, 30, 4, 500]),
            (0xD, vec![2, 0, 0, 0, 0]),
        ];
        assert_eq!(days, expected);
        let minutes = rows("SELECT * FROM usage_minutes ORDER BY subject_id").await;
        let minutes: Vec<_> = minutes.iter().map(numbers).collect();
        assert_eq!(minutes[0], [2_891, 3, 33, 300], "only the latest minute of the organization");
        assert_eq!(minutes[1..], [[2_890, 1, 11, 100], [2_891, 3, 33, 300]]);
        let quota = rows(
            "SELECT limits, enforce_quota, custom_reset_day, created_at, updated_at, version
             FROM quotas WHERE subject_id = x'0000000000000000000000000000000B'",
        )
        .await;
        assert_eq!(quota[0].get::<String, _>(0), r#"{"dailyRequestLimit":7}"#);
        assert_eq!(numbers(&quota[0]), [0, 28, 3, 4, 5]);
        let clamp = &rows("SELECT output_clamp FROM organizations").await[0];
        assert!(clamp.get::<bool, _>(0), "the default of new organizations");
    }

    #[tokio::test]
    async fn a_transaction_can_begin_after_a_failed_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("gateway.db")).await.expect("opened");
        let add = "INSERT INTO node_metadata (name, value) VALUES ('a', 'b')";
        let mut tx = database.begin().await.expect("a transaction");
        tx.lock_handle().await.expect("the connection").set_commit_hook(|| false);
        sqlx::query(add).execute(&mut *tx).await.expect("a row");
        tx.commit().await.expect_err("SQLite rolls back on its own, as with a full disk");
        let mut tx = database.begin().await.expect("another");
        tx.lock_handle().await.expect("the connection").remove_commit_hook();
        sqlx::query(add).execute(&mut *tx).await.expect("a row: the first was rolled back");
        tx.commit().await.expect("committed");
    }
}
