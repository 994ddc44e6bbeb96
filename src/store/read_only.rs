//! A bystander: reads a database that may belong to another process, and leaves no trace there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::store::database::{DatabaseError, SCHEMA};

/// Why a database cannot be read beside its owner.
#[derive(Debug, thiserror::Error)]
pub enum ReadOnlyError {
    /// There is no such file.
    #[error("{0} is not there; name the gateway's own data folder or configuration")]
    NotFound(PathBuf),
    /// It is something else.
    #[error("{0} is no database of a gateway: {1}; name the gateway's own data folder")]
    NotADatabase(PathBuf, String),
    /// Another version of the gateway wrote it.
    #[error("{file} has schema {found}, this program reads {supported}; {advice}")]
    Schema {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// That of this program.
        supported: i64,
        /// What to do.
        advice: &'static str,
    },
    /// It cannot be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for ReadOnlyError {
    fn from(fault: sqlx::Error) -> Self {
        Self::Database(fault.into())
    }
}

/// A connection that only reads.
#[derive(Debug)]
pub struct ReadOnlyDatabase {
    file: PathBuf,
    connection: SqliteConnection,
    is_in_use: bool,
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows that are fetched ahead.
const ROW_BUFFER_SIZE: usize = 1_024;

impl ReadOnlyDatabase {
    /// Opens the file as it is: nothing is made, migrated or locked.
    ///
    /// A file without a write-ahead log was closed well, and is read as if nobody could write to
    /// it: SQLite would otherwise make files beside it. Whether that held is told by
    /// [`was_undisturbed`](Self::was_undisturbed).
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

    /// Begins a stretch of reads that see one picture, however much is written meanwhile.
    pub async fn begin_snapshot(
        &mut self,
    ) -> Result<sqlx::Transaction<'_, sqlx::Sqlite>, DatabaseError> {
        Ok(self.connection.begin().await?)
    }

    /// Whether nobody began to write to a file that was read as if nobody could: if somebody did,
    /// what was read is void.
    pub fn is_unchanged(&self) -> bool {
        self.is_in_use || !wal_path(&self.file).exists()
    }
}

/// SQLite's write-ahead log: there for as long as the database is in use, and after a crash.
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
    let own = SCHEMA.iter().map(|step| step.version).max().unwrap_or_default();
    let found = found.unwrap_or_default();
    let file = file.to_owned();
    let advice = match found.cmp(&own) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "start the gateway on it once, which brings it up to date",
        std::cmp::Ordering::Greater => "use the gateway's own version of this program",
    };
    Err(ReadOnlyError::Schema { file, found, supported: own, advice })
}
