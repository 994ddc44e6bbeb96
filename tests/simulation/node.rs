//! The node under test: everything of the real one but sockets, threads and clocks.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use meteor::accounting::directory::{Caller, Directory};
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

/// How many chains the journal has.
pub const WORKERS: u16 = 2;

/// Small, so that chains have many of them: about twenty entries each.
pub const SEGMENT_BYTES: u64 = 4 * 1024;

/// Owner there is.
pub const KEYS: [Owner; 4] = [
    Owner { organization: 1, project: 11, key: 111 },
    Owner { organization: 1, project: 11, key: 112 },
    Owner { organization: 1, project: 12, key: 121 },
    Owner { organization: 2, project: 21, key: 211 },
];

/// A node, and what outlives its process.
pub struct Node {
    folder: TempDir,
    pub database: Database,
    pub backlog_bytes_max: u64,
    commits: CommitBudget,
    process: Option<Process>,
}

/// What is gone when the process is.
pub struct Process {
    pub journal: Arc<Journal>,
    pub directory: Directory,
    pub contexts: Vec<Rc<AdmissionContext>>,
    projector: Projector,
}

/// How many more transactions are committed; then the process is taken to have died before one.
#[derive(Clone)]
struct CommitBudget {
    left: Arc<AtomicI64>,
    refused: Arc<Notify>,
}

/// The process died on its way.
#[derive(Debug)]
pub struct ProcessDied;

/// A database in which everybody is, to be copied.
static POPULATED: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = folder();
    let file = folder.path().join("populated.db");
    let populating = file.clone();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let populate = move || runtime().expect("a runtime").block_on(populate(&populating));
    std::thread::spawn(populate).join().expect("populated");
    (folder, file)
});

/// In memory, where there is such a place: nothing here is about disks.
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
    /// A node whose process does not run yet.
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
        self.process.as_ref().expect("it runs")
    }

    /// Starts as the real one does; dies when it has committed so often.
    pub async fn start(&mut self, now: i64, commits: i64) -> Result<(), ProcessDied> {
        let now = UnixMs(now);
        self.commits.left.store(commits, Ordering::Relaxed);
        let recovered = recover(&self.database, &self.journal_folder(), "node_1", now).await;
        let Ok(recovered) = recovered else {
            self.reopen().await;
            return Err(ProcessDied);
        };
        self.commits.left.store(i64::MAX, Ordering::Relaxed);
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
        let desk = |chain| {
            let writer = Writer::new(Arc::clone(chain)).expect("a segment");
            let inputs = Arc::clone(directory.live_state().input_cache());
            Rc::new(AdmissionContext {
                writer,
                lender: LocalLender,
                settings: admission,
                input_cache: inputs,
            })
        };
        let desks = journal.chains().iter().map(desk).collect();
        journal.create_next_segments();
        let freshness = Arc::new(ReadBarrier::new(Arc::clone(&journal)));
        let database = self.database.clone();
        let log = CallLog::default();
        let projector = Projector::new(Arc::clone(&journal), freshness, database, "node_1", log);
        self.process = Some(Process { journal, directory, contexts: desks, projector });
        Ok(())
    }

    /// Brings about so many entries a chain into the database; dies when it has committed so often.
    pub async fn project(&mut self, most: usize, commits: i64) -> Result<(), ProcessDied> {
        self.commits.left.store(commits, Ordering::Relaxed);
        let process = self.process.as_mut().expect("it runs");
        let projected = tokio::select! {
            biased;
            () = process.projector.project(most) => Ok(()),
            () = self.commits.refused.notified() => Err(ProcessDied),
        };
        self.commits.left.store(i64::MAX, Ordering::Relaxed);
        projected
    }

    /// The process is gone: its memory, and what it had not written.
    pub async fn kill(&mut self) {
        self.process = None;
        self.reopen().await;
    }

    /// The process has ended by itself.
    pub fn exited(&mut self) {
        self.process = None;
    }

    async fn reopen(&mut self) {
        self.database.close().await;
        (self.database, self.commits) = open(self.folder.path()).await;
    }

    /// Writes what a worker has not written yet, but only the first bytes of it, as a write that was
    /// cut. How many entries came through whole.
    pub fn write_torn(&self, worker: usize, bytes: impl FnOnce(usize) -> usize) -> usize {
        let process = self.process();
        let chain = process.journal.chains()[worker].name;
        let folder = self.journal_folder();
        let segments = segment::list(&folder).expect("a folder");
        let own = segments.into_iter().filter(|name| name.chain() == chain);
        let files: Vec<PathBuf> = own.map(|name| name.path(&folder)).collect();
        let read = |file: &PathBuf| std::fs::read(file).expect("a segment");
        let ends: Vec<usize> = files.iter().map(|file| whole_entries(&read(file), 0).1).collect();
        process.contexts[worker].writer.commit();
        let length: usize =
            files.iter().zip(&ends).map(|(file, end)| whole_entries(&read(file), 0).1 - end).sum();
        let (mut left, mut whole) = (bytes(length), 0);
        for (file, end) in files.iter().zip(ends) {
            let complete = read(file);
            let mut torn = complete.clone();
            let kept = (whole_entries(&complete, end).1 - end).min(left);
            left -= kept;
            torn[end + kept..].fill(0);
            // An entry that ends with zeros bears the loss of them.
            let same = torn.iter().zip(&complete).take_while(|(torn, whole)| torn == whole).count();
            whole += whole_entries(&complete[..same.max(end)], end).0;
            std::fs::write(file, &torn).expect("a segment");
        }
        whole
    }
}

impl Process {
    /// Owner calls with that key.
    pub fn caller(&self, key: Subject) -> Arc<Caller> {
        let mut secret = [0; 32];
        let id = Uuid::from_u128(u128::from(key)).into_bytes();
        secret[..16].copy_from_slice(&id);
        secret[16..].copy_from_slice(&id);
        Arc::clone(self.directory.keys().find(&secret).expect("a key"))
    }
}

/// Whole entries from `start` on: how many, and where they end. Each begins with its length, and
/// 8 bytes before its body.
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
        CommitBudget { left: Arc::new(AtomicI64::new(i64::MAX)), refused: Arc::default() };
    let database = Database::open(&folder.join("gateway.db")).await.expect("a database");
    let mut tx = database.begin().await.expect("a transaction");
    let CommitBudget { left, refused } = commits.clone();
    tx.lock_handle().await.expect("the connection").set_commit_hook(move || {
        let may = 0 < left.fetch_sub(1, Ordering::Relaxed);
        if !may {
            refused.notify_one();
        }
        may
    });
    tx.rollback().await.expect("nothing was done");
    (database, commits)
}
