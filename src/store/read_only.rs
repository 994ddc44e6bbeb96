//! Read-only access to a database that another process may be using. It leaves no trace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::store::database::{DatabaseError, SCHEMA};

/// Why a database cannot be opened for reading.
#[derive(Debug, thiserror::Error)]
pub enum ReadOnlyError {
    #[error("{0} does not exist; pass the data folder or the configuration of the gateway")]
    NotFound(PathBuf),
    #[error("{0} is not a gateway database: {1}; pass the data folder of the gateway")]
    NotADatabase(PathBuf, String),
    #[error("{file} has schema version {found}, this program supports {supported}; {advice}")]
    Schema {
        file: PathBuf,
        found: i64,
        /// The schema version of this program.
        supported: i64,
        advice: &'static str,
    },
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for ReadOnlyError {
    fn from(fault: sqlx::Error) -> Self {
        Self::Database(fault.into())
    }
}

/// A read-only connection.
#[derive(Debug)]
pub struct ReadOnlyDatabase {
    file: PathBuf,
    connection: SqliteConnection,
    is_in_use: bool,
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many rows are fetched ahead.
const ROW_BUFFER_SIZE: usize = 1_024;

impl ReadOnlyDatabase {
    /// Opens the file without creating, migrating or locking anything.
    ///
    /// A file without a write-ahead log was closed cleanly. It is opened as immutable, because
    /// SQLite would otherwise create files next to it. [`is_unchanged`](Self::is_unchanged) returns
    /// whether that assumption held.
    pub async fn open(file: &Path) -> Result<Self, ReadOnlyError> {
        if !file.is_file() {
            return Err(ReadOnlyError::NotFound(file.to_owned()));
        }
        let is_in_use = wal_path(file).exists();
        let options = SqliteConnectOptions::new()
            .filename(file)
            .read_only(true)
            .immutable(!is_in_use)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROW_BUFFER_SIZE);
        let mut connection = options.connect().await?;
        check_schema(file, &mut connection).await?;
        Ok(Self { file: file.to_owned(), connection, is_in_use })
    }

    /// Begins a read transaction: all its reads see the same snapshot.
    pub async fn begin_snapshot(
        &mut self,
    ) -> Result<sqlx::Transaction<'_, sqlx::Sqlite>, DatabaseError> {
        Ok(self.connection.begin().await?)
    }

    /// Returns false if another process started to write to a file that was opened as immutable.
    /// Then everything that was read is invalid.
    pub fn is_unchanged(&self) -> bool {
        self.is_in_use || !wal_path(&self.file).exists()
    }
}

/// Returns the path of SQLite's write-ahead log. It exists while the database is in use, and after
/// a crash.
fn wal_path(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push("-wal");
    PathBuf::from(name)
}

async fn check_schema(file: &Path, connection: &mut SqliteConnection) -> Result<(), ReadOnlyError> {
    let found = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await;
    let found: Option<i64> = match found {
        Err(sqlx::Error::Database(fault)) => {
            return Err(ReadOnlyError::NotADatabase(file.to_owned(), fault.message().to_owned()));
        }
        read => read?,
    };
    let supported = SCHEMA.iter().map(|step| step.version).max().unwrap_or_default();
    let found = found.unwrap_or_default();
    let file = file.to_owned();
    let advice = match found.cmp(&supported) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "start this version of the gateway with it to migrate it",
        std::cmp::Ordering::Greater => "use the version of this program that created it",
    };
    Err(ReadOnlyError::Schema { file, found, supported, advice })
}
