//! The node under test: the real components without sockets, threads and clocks.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use meteor::accounting::key_directory::{Caller, Directory};
use meteor::accounting::permit::AdmissionContext;
use meteor::counters::memory::LocalLender;
use meteor::domain::time::UnixMs;
use meteor::journal::chains::{Durability, Journal, JournalSettings};
use meteor::journal::segment;
use meteor::journal::writer::Writer;
use meteor::ledger::projector::Projector;
use meteor::ledger::read_barrier::ReadBarrier;
use meteor::ledger::recovery::recover;
use meteor::settings::admission::AdmissionSettings;
use meteor::store::database::Database;
use meteor::telemetry::call_log::CallLog;
use tempfile::TempDir;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::model::{Owner, Subject};

/// Number of workers, which is also the number of journal chains.
pub const WORKERS: u16 = 2;

/// Small, so that chains have many segments: about twenty entries each.
pub const SEGMENT_BYTES: u64 = 4 * 1024;

/// All API keys and their owners.
pub const KEYS: [Owner; 4] = [
    Owner { organization: 1, project: 11, key: 111 },
    Owner { organization: 1, project: 11, key: 112 },
    Owner { organization: 1, project: 12, key: 121 },
    Owner { organization: 2, project: 21, key: 211 },
];

/// A node: its process, and what survives the process.
pub struct Node {
    folder: TempDir,
    pub database: Database,
    pub backlog_bytes_max: u64,
    commits: CommitBudget,
    process: Option<Process>,
}

/// The state that is lost with the process.
pub struct Process {
    pub journal: Arc<Journal>,
    pub directory: Directory,
    pub contexts: Vec<Rc<AdmissionContext>>,
    projector: Projector,
}

/// The number of transactions that still commit. The next commit is refused and counts as the death
/// of the process.
#[derive(Clone)]
struct CommitBudget {
    remaining: Arc<AtomicI64>,
    refused: Arc<Notify>,
}

/// The process died before it finished.
#[derive(Debug)]
pub struct ProcessDied;

/// A database with all owners, copied for each node.
static POPULATED: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = folder();
    let file = folder.path().join("populated.db");
    let populating = file.clone();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let populate = move || runtime().expect("a runtime").block_on(populate(&populating));
    std::thread::spawn(populate).join().expect("populated");
    (folder, file)
});

/// A temporary folder in memory if possible, because these tests are not about disks.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

async fn populate(file: &Path) {
    let database = Database::open(file).await.expect("a database");
    let mut tx = database.begin().await.expect("a transaction");
    let mut run = async |query: &'static str, ids: &[Subject]| {
        let ids = ids.iter().map(|id| Uuid::from_u128(u128::from(*id)));
        let query = ids.fold(sqlx::query(query), sqlx::query::Query::bind);
        query.execute(&mut *tx).await.expect("a row");
    };
    for Owner { organization, project, key } in KEYS {
        run(
            "INSERT OR IGNORE INTO organizations (id, name, status, self_funding, on_disconnect,
                output_clamp, created_at, updated_at, version)
             VALUES ($1, '', 'Active', 1, 'drain', 0, 0, 0, 1)",
            &[organization],
        )
        .await;
        run("INSERT OR IGNORE INTO wallets VALUES ($1, 0, 0, 1, 0, 0)", &[organization]).await;
        run(
            "INSERT OR IGNORE INTO projects (id, organization_id, name, status, created_by,
                created_at, updated_at, version) VALUES ($1, $2, '', 'Active', $1, 0, 0, 1)",
            &[project, organization],
        )
        .await;
        run(
            "INSERT INTO api_keys (id, project_id, name, secret_hash, last4, enabled, metadata,
                created_by, created_at, updated_at, version)
             VALUES ($1, $2, '', CAST($1 || $1 AS BLOB), '', 1, '{}', $1, 0, 0, 1)",
            &[key, project],
        )
        .await;
    }
    tx.commit().await.expect("committed");
    database.close().await;
}

impl Node {
    /// Creates a node without a running process.
    pub async fn new(backlog_bytes_max: u64) -> Self {
        let folder = folder();
        std::fs::copy(&POPULATED.1, folder.path().join("gateway.db")).expect("a copy");
        std::fs::create_dir(folder.path().join("journal")).expect("a folder");
        let (database, commits) = open(folder.path()).await;
        Self { folder, database, backlog_bytes_max, commits, process: None }
    }

    pub fn journal_folder(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the process runs")
    }

    /// Starts the process like the real one; it dies after `commits` commits.
    pub async fn start(&mut self, now: i64, commits: i64) -> Result<(), ProcessDied> {
        let now = UnixMs(now);
        self.commits.remaining.store(commits, Ordering::Relaxed);
        let recovered = recover(&self.database, &self.journal_folder(), "node_1", now).await;
        let Ok(recovered) = recovered else {
            self.reopen().await;
            return Err(ProcessDied);
        };
        self.commits.remaining.store(i64::MAX, Ordering::Relaxed);
        let admission =
            AdmissionSettings { hold_wait: Duration::ZERO, ..AdmissionSettings::default() };
        let directory = Directory::load(&self.database, admission, now).await.expect("loaded");
        let settings = JournalSettings {
            folder: self.journal_folder(),
            durability: Durability::Process,
            segment_bytes: SEGMENT_BYTES,
            retention: Duration::ZERO,
            backlog_bytes_max: self.backlog_bytes_max,
        };
        let journal = Journal::open(settings, recovered.next_run, WORKERS).expect("a journal");
        let journal = Arc::new(journal);
        let context = |chain| {
            let writer = Writer::new(Arc::clone(chain)).expect("a segment");
            let inputs = Arc::clone(directory.live_state().input_cache());
            Rc::new(AdmissionContext {
                writer,
                lender: LocalLender,
                settings: admission,
                input_cache: inputs,
            })
        };
        let contexts = journal.chains().iter().map(context).collect();
        journal.create_next_segments();
        let freshness = Arc::new(ReadBarrier::new(Arc::clone(&journal)));
        let database = self.database.clone();
        let log = CallLog::default();
        let projector = Projector::new(Arc::clone(&journal), freshness, database, "node_1", log);
        self.process = Some(Process { journal, directory, contexts, projector });
        Ok(())
    }

    /// Projects about `entries_max` entries per chain; the process dies after `commits` commits.
    pub async fn project(&mut self, entries_max: usize, commits: i64) -> Result<(), ProcessDied> {
        self.commits.remaining.store(commits, Ordering::Relaxed);
        let process = self.process.as_mut().expect("the process runs");
        let projected = tokio::select! {
            biased;
            () = process.projector.project(entries_max) => Ok(()),
            () = self.commits.refused.notified() => Err(ProcessDied),
        };
        self.commits.remaining.store(i64::MAX, Ordering::Relaxed);
        projected
    }

    /// Kills the process: its memory and unwritten entries are lost.
    pub async fn kill(&mut self) {
        self.process = None;
        self.reopen().await;
    }

    /// The process has exited by itself.
    pub fn exited(&mut self) {
        self.process = None;
    }

    async fn reopen(&mut self) {
        self.database.close().await;
        (self.database, self.commits) = open(self.folder.path()).await;
    }

    /// Writes the buffered entries of a worker, but only the first bytes, like an interrupted
    /// write. Returns the number of whole entries written.
    pub fn write_torn(&self, worker: usize, bytes: impl FnOnce(usize) -> usize) -> usize {
        let process = self.process();
        let chain = process.journal.chains()[worker].name;
        let folder = self.journal_folder();
        let segments = segment::list(&folder).expect("a folder");
        let chain_segments = segments.into_iter().filter(|name| name.chain() == chain);
        let files: Vec<PathBuf> = chain_segments.map(|name| name.path(&folder)).collect();
        let read = |file: &PathBuf| std::fs::read(file).expect("a segment");
        let ends: Vec<usize> = files.iter().map(|file| whole_entries(&read(file), 0).1).collect();
        process.contexts[worker].writer.commit();
        let length: usize =
            files.iter().zip(&ends).map(|(file, end)| whole_entries(&read(file), 0).1 - end).sum();
        let (mut bytes_left, mut entry_count) = (bytes(length), 0);
        for (file, end) in files.iter().zip(ends) {
            let complete = read(file);
            let mut torn = complete.clone();
            let kept_bytes = (whole_entries(&complete, end).1 - end).min(bytes_left);
            bytes_left -= kept_bytes;
            torn[end + kept_bytes..].fill(0);
            // Cutting off trailing zeros leaves an entry whole.
            let same = torn.iter().zip(&complete).take_while(|(torn, whole)| torn == whole).count();
            entry_count += whole_entries(&complete[..same.max(end)], end).0;
            std::fs::write(file, &torn).expect("a segment");
        }
        entry_count
    }
}

impl Process {
    /// The caller with this key.
    pub fn caller(&self, key: Subject) -> Arc<Caller> {
        let mut secret = [0; 32];
        let id = Uuid::from_u128(u128::from(key)).into_bytes();
        secret[..16].copy_from_slice(&id);
        secret[16..].copy_from_slice(&id);
        Arc::clone(self.directory.keys().find(&secret).expect("a key"))
    }
}

/// Number of whole entries from `start` on, and their end. Each has an 8-byte header that begins
/// with its length.
fn whole_entries(segment: &[u8], start: usize) -> (usize, usize) {
    let (mut count, mut at) = (0, start);
    while let Some(header) = segment.get(at..at + 8) {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length == 0 || segment.len() < at + 8 + length {
            break;
        }
        at += 8 + length;
        count += 1;
    }
    (count, at)
}

async fn open(folder: &Path) -> (Database, CommitBudget) {
    let commits =
        CommitBudget { remaining: Arc::new(AtomicI64::new(i64::MAX)), refused: Arc::default() };
    let database = Database::open(&folder.join("gateway.db")).await.expect("a database");
    let mut tx = database.begin().await.expect("a transaction");
    let CommitBudget { remaining, refused } = commits.clone();
    tx.lock_handle().await.expect("the connection").set_commit_hook(move || {
        let is_permitted = 0 < remaining.fetch_sub(1, Ordering::Relaxed);
        if !is_permitted {
            refused.notify_one();
        }
        is_permitted
    });
    tx.rollback().await.expect("nothing was done");
    (database, commits)
}
