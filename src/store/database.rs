//! The database: where it is, how it is opened, and how a unit of work runs on it.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

/// A SQLite database: one writer, several readers, in WAL mode.
#[derive(Debug, Clone)]
pub struct Database {
    writer: SqlitePool,
    reader: SqlitePool,
}

/// Why the database could not be opened or asked.
#[derive(Debug, thiserror::Error)]
#[error("database: {0}")]
pub struct DatabaseError(#[from] pub sqlx::Error);

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

impl Database {
    /// Opens or creates the file and brings its schema up to date.
    pub async fn open(file: &Path) -> Result<Self, DatabaseError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .statement_cache_capacity(256);
        let writer =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!("migrations/sqlite").run(&writer).await.map_err(sqlx::Error::from)?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, reader })
    }

    /// Where reads go. They see what was committed before they began.
    pub const fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Begins a stretch of reads that see one picture, however much is written meanwhile.
    pub async fn picture(&self) -> Result<Transaction<'static, Sqlite>, DatabaseError> {
        Ok(self.reader.begin().await?)
    }

    /// Begins a unit of work that writes. There is one at a time.
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>, DatabaseError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Waits for open work to end and closes the files.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}
