//! The keeper: makes segments before they are needed, syncs them where power loss must not matter,
//! and removes them once they are projected and old.
//!
//! It runs on a thread of its own; workers and projector share one [`ChainState`] a chain with it.

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

/// What an entry that was waited for survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process, however it comes.
    Process,
    /// The loss of power, too.
    Power,
}

/// How a journal is kept.
#[derive(Debug, Clone)]
pub struct JournalSettings {
    /// Where the segments lie.
    pub folder: PathBuf,
    /// What an entry survives.
    pub durability: Durability,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// How long a segment stays after it was projected.
    pub retention: Duration,
    /// How far the projector may fall behind, a chain, before calls are refused.
    pub backlog_bytes_max: u64,
}

/// How often the keeper looks for segments to make or to remove, besides being asked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the threads that touch a chain tell each other.
#[derive(Debug)]
pub struct ChainState {
    /// Which chain.
    pub name: ChainName,
    settings: JournalSettings,
    next_segment: Mutex<Option<(File, u64)>>,
    has_next_segment: AtomicBool,
    next_number: AtomicU32,
    /// The segment that is written, for the keeper's syncs.
    current_segment: Mutex<Option<Arc<File>>>,
    appended: AtomicU64,
    published: AtomicU64,
    synced: watch::Sender<u64>,
    projected: AtomicU64,
    projected_segment: AtomicU32,
    wakeups: Arc<Wakeups>,
}

/// How sleepers are woken.
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
    /// What an entry survives.
    pub const fn durability(&self) -> Durability {
        self.settings.durability
    }

    /// Whether the next segment is ready.
    pub fn has_next_segment(&self) -> bool {
        self.has_next_segment.load(Ordering::Relaxed)
    }

    /// Whether the projector is near enough for a new call to be admitted.
    pub fn projector_keeps_up(&self) -> bool {
        self.backlog_bytes() < self.settings.backlog_bytes_max
    }

    /// How many bytes of entries are not projected yet.
    pub fn backlog_bytes(&self) -> u64 {
        self.published().saturating_sub(self.projected.load(Ordering::Acquire))
    }

    /// The spare segment and its size; the keeper makes another.
    pub fn take_next_segment(&self) -> Option<(File, u64)> {
        let (file, bytes) = lock(&self.next_segment).take()?;
        self.has_next_segment.store(false, Ordering::Relaxed);
        if self.durability() == Durability::Power {
            *lock(&self.current_segment) = Some(Arc::new(file.try_clone().ok()?));
        }
        self.wakeups.wake_maintenance();
        Some((file, bytes))
    }

    /// The writer's word that everything before `position` waits to be written.
    pub fn report_appended(&self, position: u64) {
        self.appended.store(position, Ordering::Release);
    }

    /// How many bytes of entries there are, written or not.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// The writer's word that everything before `position` is written.
    pub fn publish(&self, position: u64) {
        // In one order with the sleeper's own store and load: a wake-up is never lost.
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

    /// How many bytes of entries are written.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::SeqCst)
    }

    /// Whether everything before `position` is as durable as the journal promises.
    pub fn is_durable(&self, position: u64) -> bool {
        let reached = match self.durability() {
            Durability::Process => self.published(),
            Durability::Power => *self.synced.borrow(),
        };
        position <= reached
    }

    /// The writer's word that it cannot write any more. What it could not write is in memory only:
    /// the process ends, and the next one recovers what was written.
    pub fn report_write_failure(&self, fault: &io::Error) -> ! {
        tracing::error!(chain = ?self.name, %fault, "the journal cannot be written");
        tasks::stop_process("the journal cannot be written")
    }

    /// The projector's word that everything before `position` is in the database, and which
    /// segment it reads.
    pub fn report_projected(&self, position: u64, segment: u32) {
        self.projected.store(position, Ordering::Release);
        self.projected_segment.store(segment, Ordering::Release);
    }

    /// How many bytes of entries are in the database.
    pub fn projected(&self) -> u64 {
        self.projected.load(Ordering::Acquire)
    }

    /// Resolves when everything before `position` survives the loss of power.
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
        // Its name is sure to stay, whatever becomes of what is in it: a segment that is missing
        // was removed.
        File::open(&self.settings.folder)?.sync_all()?;
        // Only now: a number that was left out would be the chain's end for whoever reads it.
        self.next_number.store(number + 1, Ordering::Relaxed);
        *lock(&self.next_segment) = Some((file, bytes));
        self.has_next_segment.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Syncs what is published. A failed sync ends the process: what it was about may be gone.
    fn sync(&self) {
        let target = self.published();
        if *self.synced.borrow() == target {
            return;
        }
        let current = lock(&self.current_segment).clone();
        if let Some(Err(fault)) = current.map(|file| file.sync_data()) {
            tracing::error!(chain = ?self.name, %fault, "the journal cannot be synced");
            tasks::stop_process("a sync of the journal failed");
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
    /// Begins a chain for each of `workers`, each with its first segment ready.
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

    /// The chains, one a worker.
    pub fn chains(&self) -> &[Arc<ChainState>] {
        &self.chains
    }

    /// Where the segments lie.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// What an entry survives.
    pub const fn durability(&self) -> Durability {
        self.settings.durability
    }

    /// Whether every chain can be written.
    pub fn is_writable(&self) -> bool {
        self.chains.iter().all(|chain| chain.projector_keeps_up() && chain.has_next_segment())
    }

    /// How many bytes of entries are not projected yet, over all chains.
    pub fn backlog_bytes(&self) -> u64 {
        self.chains.iter().map(|chain| chain.backlog_bytes()).sum()
    }

    /// Waits until some chain has more than is projected. The projector alone waits here.
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

    /// Starts the thread that makes, syncs and removes segments; it ends with the process.
    pub fn start_maintenance(self: &Arc<Self>) -> io::Result<()> {
        let journal = Arc::clone(self);
        let thread = thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || journal.run_maintenance()).map(drop)
    }

    fn run_maintenance(&self) {
        let mut removed_at = clock::monotonic_now();
        let mut failed_at = None;
        loop {
            // Syncs ask for the keeper often; a disk that said no is asked again in a while.
            if failed_at.is_none_or(|at| CHECK_INTERVAL <= clock::elapsed_since(at)) {
                failed_at = (!self.create_next_segments()).then(clock::monotonic_now);
            }
            if self.durability() == Durability::Power {
                self.chains.iter().for_each(|chain| chain.sync());
            }
            if CHECK_INTERVAL < clock::elapsed_since(removed_at) {
                removed_at = clock::monotonic_now();
                if let Err(fault) = self.remove_old() {
                    tracing::warn!(%fault, "old journal segments could not be removed");
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

    /// Makes the segments that are missing; false when there is no room for one.
    pub fn create_next_segments(&self) -> bool {
        let mut all_created = true;
        for chain in &self.chains {
            if let Err(fault) = chain.create_next_segment() {
                all_created = false;
                tracing::error!(
                    folder = %self.folder().display(), %fault,
                    "no room for the next journal segment: make room; until then calls are refused"
                );
            }
        }
        all_created
    }

    /// Removes segments that are projected whole and have not been written for `keep`.
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
