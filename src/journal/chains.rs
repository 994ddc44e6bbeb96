//! The journal of this run: its chains, and the thread that creates, syncs and removes segments.
//!
//! Workers, the projector and the maintenance thread share one [`ChainState`] per chain.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock;
use crate::journal::segment::{self, ChainName};
use crate::tasks;

/// What an entry survives once its writer has waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process, including a crash.
    Process,
    /// A power loss as well.
    Power,
}

#[derive(Debug, Clone)]
pub struct JournalSettings {
    pub folder: PathBuf,
    pub durability: Durability,
    pub segment_bytes: u64,
    /// How long a segment is kept after it was projected.
    pub retention: Duration,
    /// How many bytes the projector may lag behind on one chain before calls are refused.
    pub backlog_bytes_max: u64,
}

/// How often segments are created or removed, even if no thread requests it.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The state of one chain, shared by its writer, the projector and the maintenance thread.
#[derive(Debug)]
pub struct ChainState {
    pub name: ChainName,
    settings: JournalSettings,
    next_segment: Mutex<Option<(File, u64)>>,
    has_next_segment: AtomicBool,
    next_number: AtomicU32,
    /// The segment being written; the maintenance thread syncs it.
    current_segment: Mutex<Option<Arc<File>>>,
    appended: AtomicU64,
    published: AtomicU64,
    synced: watch::Sender<u64>,
    projected: AtomicU64,
    projected_segment: AtomicU32,
    wakeups: Arc<Wakeups>,
}

/// How the projector and the maintenance thread are woken.
#[derive(Debug, Default)]
struct Wakeups {
    projector_sleeps: AtomicBool,
    projector: Notify,
    maintenance_requested: Mutex<bool>,
    maintenance: Condvar,
}

impl Wakeups {
    fn wake_maintenance(&self) {
        *lock(&self.maintenance_requested) = true;
        self.maintenance.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChainState {
    pub const fn durability(&self) -> Durability {
        self.settings.durability
    }

    /// Returns true if the next segment has been created.
    pub fn has_next_segment(&self) -> bool {
        self.has_next_segment.load(Ordering::Relaxed)
    }

    /// Returns true if the projector's backlog is small enough to admit calls.
    pub fn projector_keeps_up(&self) -> bool {
        self.backlog_bytes() < self.settings.backlog_bytes_max
    }

    /// Returns the size of the entries that are not projected yet.
    pub fn backlog_bytes(&self) -> u64 {
        self.published().saturating_sub(self.projected.load(Ordering::Acquire))
    }

    /// Takes the next segment and its size, and wakes the maintenance thread to create another.
    pub fn take_next_segment(&self) -> Option<(File, u64)> {
        let (file, bytes) = lock(&self.next_segment).take()?;
        self.has_next_segment.store(false, Ordering::Relaxed);
        if self.durability() == Durability::Power {
            *lock(&self.current_segment) = Some(Arc::new(file.try_clone().ok()?));
        }
        self.wakeups.wake_maintenance();
        Some((file, bytes))
    }

    /// Records that entries up to `position` were appended; they are not written yet.
    pub fn report_appended(&self, position: u64) {
        self.appended.store(position, Ordering::Release);
    }

    /// Returns the total size of the entries, written or not.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// Records that everything before `position` is written, and wakes the projector.
    pub fn publish(&self, position: u64) {
        // Sequentially consistent with the store and load in `wait_for_entries`, so that no wake-up
        // is lost.
        self.published.store(position, Ordering::SeqCst);
        if self.durability() == Durability::Power {
            self.wakeups.wake_maintenance();
        }
        if self.wakeups.projector_sleeps.load(Ordering::SeqCst)
            && self.wakeups.projector_sleeps.swap(false, Ordering::SeqCst)
        {
            self.wakeups.projector.notify_one();
        }
    }

    /// Returns the size of the written entries.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::SeqCst)
    }

    /// Returns true if everything before `position` is as durable as the settings require.
    pub fn is_durable(&self, position: u64) -> bool {
        let reached = match self.durability() {
            Durability::Process => self.published(),
            Durability::Power => *self.synced.borrow(),
        };
        position <= reached
    }

    /// Ends the process after a failed write. The unwritten entries exist in memory only; the next
    /// run recovers what was written.
    pub fn report_write_failure(&self, fault: &io::Error) -> ! {
        tracing::error!(chain = ?self.name, %fault, "journal write failed");
        tasks::stop_process("journal write failed")
    }

    /// Records that everything before `position` is in the database, and which segment the
    /// projector reads.
    pub fn report_projected(&self, position: u64, segment: u32) {
        self.projected.store(position, Ordering::Release);
        self.projected_segment.store(segment, Ordering::Release);
    }

    /// Returns the size of the entries that are in the database.
    pub fn projected(&self) -> u64 {
        self.projected.load(Ordering::Acquire)
    }

    /// Waits until everything before `position` survives a power loss.
    pub async fn synced(&self, position: u64) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| position <= *synced).await;
    }

    fn create_next_segment(&self) -> io::Result<()> {
        if self.has_next_segment.load(Ordering::Relaxed) {
            return Ok(());
        }
        let number = self.next_number.load(Ordering::Relaxed);
        let bytes = self.settings.segment_bytes;
        let file = self.name.segment(number).create(&self.settings.folder, bytes)?;
        if self.durability() == Durability::Power {
            file.sync_all()?;
        }
        // Sync the directory entry as well, because a missing segment counts as removed.
        File::open(&self.settings.folder)?.sync_all()?;
        // Advance the number last: a gap in the numbers would end the chain for its readers.
        self.next_number.store(number + 1, Ordering::Relaxed);
        *lock(&self.next_segment) = Some((file, bytes));
        self.has_next_segment.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Syncs the published entries. A failed sync ends the process, because the kernel may have
    /// dropped the unsynced data.
    fn sync(&self) {
        let target = self.published();
        if *self.synced.borrow() == target {
            return;
        }
        let current = lock(&self.current_segment).clone();
        if let Some(Err(fault)) = current.map(|file| file.sync_data()) {
            tracing::error!(chain = ?self.name, %fault, "journal sync failed");
            tasks::stop_process("journal sync failed");
        }
        self.synced.send_replace(target);
    }
}

/// All chains of this run of the process.
#[derive(Debug)]
pub struct Journal {
    settings: JournalSettings,
    run: u32,
    chains: Vec<Arc<ChainState>>,
    wakeups: Arc<Wakeups>,
}

impl Journal {
    /// Opens one chain per worker, each with its first segment created.
    pub fn open(settings: JournalSettings, run: u32, workers: u16) -> io::Result<Self> {
        let wakeups = Arc::new(Wakeups::default());
        let chain = |worker| {
            let chain = ChainState {
                name: ChainName { run, worker },
                settings: settings.clone(),
                next_segment: Mutex::new(None),
                has_next_segment: AtomicBool::new(false),
                next_number: AtomicU32::new(0),
                current_segment: Mutex::new(None),
                appended: AtomicU64::new(0),
                published: AtomicU64::new(0),
                synced: watch::Sender::new(0),
                projected: AtomicU64::new(0),
                projected_segment: AtomicU32::new(0),
                wakeups: Arc::clone(&wakeups),
            };
            chain.create_next_segment()?;
            Ok(Arc::new(chain))
        };
        let chains = (0..workers).map(chain).collect::<io::Result<_>>()?;
        Ok(Self { settings, run, chains, wakeups })
    }

    /// Returns the chains, one per worker.
    pub fn chains(&self) -> &[Arc<ChainState>] {
        &self.chains
    }

    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    pub const fn durability(&self) -> Durability {
        self.settings.durability
    }

    /// Returns true if calls can be admitted on every chain.
    pub fn is_writable(&self) -> bool {
        self.chains.iter().all(|chain| chain.projector_keeps_up() && chain.has_next_segment())
    }

    /// Returns the size of the entries that are not projected yet, over all chains.
    pub fn backlog_bytes(&self) -> u64 {
        self.chains.iter().map(|chain| chain.backlog_bytes()).sum()
    }

    /// Waits until some chain has unprojected entries. Only the projector may wait here.
    pub async fn wait_for_entries(&self) {
        let has_entries = || self.chains.iter().any(|chain| 0 < chain.backlog_bytes());
        while !has_entries() {
            self.wakeups.projector_sleeps.store(true, Ordering::SeqCst);
            if has_entries() {
                break;
            }
            self.wakeups.projector.notified().await;
        }
        self.wakeups.projector_sleeps.store(false, Ordering::SeqCst);
    }

    /// Starts the maintenance thread. It runs until the process ends.
    pub fn start_maintenance(self: &Arc<Self>) -> io::Result<()> {
        let journal = Arc::clone(self);
        let thread = thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || journal.run_maintenance()).map(drop)
    }

    fn run_maintenance(&self) {
        let mut removed_at = clock::monotonic_now();
        let mut failed_at = None;
        loop {
            // Syncs wake this thread often; after a failure, retry only after `CHECK_INTERVAL`.
            if failed_at.is_none_or(|at| CHECK_INTERVAL <= clock::elapsed_since(at)) {
                failed_at = (!self.create_next_segments()).then(clock::monotonic_now);
            }
            if self.durability() == Durability::Power {
                self.chains.iter().for_each(|chain| chain.sync());
            }
            if CHECK_INTERVAL < clock::elapsed_since(removed_at) {
                removed_at = clock::monotonic_now();
                if let Err(fault) = self.remove_old() {
                    tracing::warn!(%fault, "failed to remove old journal segments");
                }
            }
            let mut requested = lock(&self.wakeups.maintenance_requested);
            while !*requested {
                let (guard, wait) = self
                    .wakeups
                    .maintenance
                    .wait_timeout(requested, CHECK_INTERVAL)
                    .unwrap_or_else(PoisonError::into_inner);
                requested = guard;
                if wait.timed_out() {
                    break;
                }
            }
            *requested = false;
        }
    }

    /// Creates the missing next segments. Returns false if one could not be created.
    pub fn create_next_segments(&self) -> bool {
        let mut all_created = true;
        for chain in &self.chains {
            if let Err(fault) = chain.create_next_segment() {
                all_created = false;
                tracing::error!(
                    folder = %self.folder().display(), %fault,
                    "no space for the next journal segment: free disk space; calls are refused until then"
                );
            }
        }
        all_created
    }

    /// Removes segments that are completely projected and were not written for `retention`.
    pub fn remove_old(&self) -> io::Result<()> {
        for name in segment::list(self.folder())? {
            let projected = name.run != self.run
                || self.chains.iter().any(|chain| {
                    chain.name == name.chain()
                        && name.number < chain.projected_segment.load(Ordering::Acquire)
                });
            let path = name.path(self.folder());
            if projected
                && path
                    .metadata()?
                    .modified()?
                    .elapsed()
                    .is_ok_and(|age| self.settings.retention < age)
            {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}
