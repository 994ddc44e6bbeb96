//! A node: the data plane with its database, journal, workers and projector. It stops in the
//! reverse order of its start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::accounting::idempotency::IdempotencyKeys;
use crate::accounting::key_directory::Directory;
use crate::app::consistency_monitor::ConsistencyMonitor;
use crate::app::data_folder::{DataFolder, DataFolderError};
use crate::app::health::{self, Health};
use crate::app::reload::{self, FileCatalog, catalog};
use crate::app::thread::{WorkerSetup, start_projector, start_worker};
use crate::clock;
use crate::config::check::Settings;
use crate::domain::ids::NodeId;
use crate::domain::time::UnixMs;
use crate::journal::chains::{ChainState, Journal, JournalSettings};
use crate::ledger::projector::Projector;
use crate::ledger::read_barrier::ReadBarrier;
use crate::ledger::recovery::{RecoveryError, recover};
use crate::organization::services::{CatalogSource, Services};
use crate::proxy::catalog::Catalog;
use crate::proxy::server::listener;
use crate::proxy::server::worker::SharedState;
use crate::proxy::upstreams::connect;
use crate::store::database::{Database, DatabaseError};
use crate::store::{node_metadata, price_lists, prices};
use crate::telemetry::call_log::CallLog;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    #[error("cannot use the database {0}: {1}; check permissions and free disk space")]
    Database(PathBuf, DatabaseError),
    #[error("cannot recover the last run in {0}: {1}")]
    Recovery(PathBuf, RecoveryError),
    #[error("cannot create the journal in {0}: {1}; check permissions and free disk space")]
    Journal(PathBuf, io::Error),
    /// A socket or a thread could not be created.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// How long a shutdown waits for the database to close. A failing database may never close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    pub proxy_address: SocketAddr,
    pub database: Database,
    pub directory: Arc<Directory>,
    pub read_barrier: Arc<ReadBarrier>,
    pub id: NodeId,
    shared: Arc<SharedState>,
    journal: Arc<Journal>,
    started: Arc<AtomicBool>,
    settings: Settings,
    workers: Vec<JoinHandle<()>>,
    projector: JoinHandle<()>,
    drain: watch::Sender<bool>,
    abort: watch::Sender<bool>,
    stop_projector: watch::Sender<bool>,
    _folder: DataFolder,
}

impl Node {
    /// Recovers the last run, loads the live state, and then accepts calls.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let io = |what| move |fault| StartError::Io(what, fault);
        let folder = DataFolder::open(&settings.data)?;
        let db_error = |fault| StartError::Database(settings.database.clone(), fault);
        let database = Database::open(&settings.database).await.map_err(db_error)?;
        let now = clock::wall_now();
        let priced = apply_stored_overrides(&database, &settings, now).await.map_err(db_error)?;
        let id = node_metadata::node_id(&database).await.map_err(db_error)?;
        let recovered = recover(&database, &folder.journal(), &id.to_string(), now)
            .await
            .map_err(|fault| StartError::Recovery(folder.path().to_owned(), fault))?;
        tracing::info!(?recovered, node = %id, "recovered");
        let directory =
            Directory::load(&database, settings.admission, now).await.map_err(db_error)?;
        let directory = Arc::new(directory);

        let journal = start_journal(&settings, &folder, recovered.next_run)
            .map_err(|fault| StartError::Journal(folder.journal(), fault))?;

        let call_log = if settings.log.calls {
            CallLog::stdout().map_err(io("cannot start the call log thread"))?
        } else {
            CallLog::default()
        };
        let read_barrier = Arc::new(ReadBarrier::new(Arc::clone(&journal)));
        let projector = Projector::new(
            Arc::clone(&journal),
            Arc::clone(&read_barrier),
            database.clone(),
            &id.to_string(),
            call_log,
        );
        let (stop_projector, stopped) = watch::channel(false);
        let projector =
            start_projector(projector, stopped).map_err(io("cannot start the projector thread"))?;

        let shared = Arc::new(SharedState {
            directory: Arc::clone(&directory),
            idempotency_keys: IdempotencyKeys::new(database.clone()),
            catalog: ArcSwap::from_pointee(catalog(&priced, &Catalog::default())),
            settings: settings.proxy.clone(),
            draining: AtomicBool::new(false),
        });
        let tls = connect::tls(settings.roots)?;
        let (drain, draining) = watch::channel(false);
        let (abort, aborting) = watch::channel(false);
        let setup = |chain: &Arc<ChainState>| WorkerSetup {
            shared: Arc::clone(&shared),
            chain: Arc::clone(chain),
            tls: tls.clone(),
            drain: draining.clone(),
            abort: aborting.clone(),
        };
        let setups = journal.chains().iter().map(setup).collect();
        let (proxy_address, workers) = start_workers(settings.proxy_listen, setups)?;
        Ok(Self {
            proxy_address,
            database,
            directory,
            read_barrier,
            id,
            shared,
            journal,
            started: Arc::new(AtomicBool::new(true)),
            settings,
            workers,
            projector,
            drain,
            abort,
            stop_projector,
            _folder: folder,
        })
    }

    /// Returns the health and metrics routes.
    pub fn health(&self, metrics: PrometheusHandle, platform: Arc<Services>) -> Router {
        health::routes(Health {
            platform,
            shared: Arc::clone(&self.shared),
            directory: Arc::clone(&self.directory),
            journal: Arc::clone(&self.journal),
            read_barrier: Arc::clone(&self.read_barrier),
            started: Arc::clone(&self.started),
            metrics,
        })
    }

    /// Returns the catalog as a reloadable source. `file` is read again at a reload.
    pub fn catalog_source(&self, file: Option<PathBuf>) -> CatalogSource {
        let loaded = Arc::new(ArcSwap::from_pointee(self.settings.clone()));
        FileCatalog { file, loaded, shared: Arc::clone(&self.shared) }.source()
    }

    /// Returns the monitor that compares live state, journal and database.
    pub fn consistency_monitor(&self, platform: Arc<Services>) -> ConsistencyMonitor {
        ConsistencyMonitor::new(platform, Arc::clone(&self.journal))
    }

    /// Stops accepting calls, waits for open calls, and commits all of them to the database.
    pub async fn stop(self) {
        self.shared.draining.store(true, Ordering::Release);
        tokio::time::sleep(self.settings.drain_delay).await;
        self.drain.send_replace(true);
        let workers = self.workers;
        let mut joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                // A panic was logged already; recovery settles the worker's calls at the next
                // start.
                let _ = worker.join();
            }
        });
        if tokio::time::timeout(self.settings.drain_timeout, &mut joined).await.is_err() {
            tracing::warn!("drain timed out; ending open calls");
            self.abort.send_replace(true);
            let _ = joined.await;
        }
        self.stop_projector.send_replace(true);
        let projector = self.projector;
        let _ = tokio::task::spawn_blocking(move || projector.join()).await;
        if tokio::time::timeout(CLOSE_TIMEOUT, self.database.close()).await.is_err() {
            tracing::error!("database close timed out; the next start recovers from the journal");
        }
        tracing::info!("stopped");
    }
}

/// Returns the settings with the price overrides of the admin API applied. Stores every price
/// version before the first call, because records refer to it.
async fn apply_stored_overrides(
    database: &Database,
    settings: &Settings,
    now: UnixMs,
) -> Result<Settings, DatabaseError> {
    let priced =
        reload::apply_overrides(settings, &prices::active_overrides(database.reader(), now).await?);
    let tariffs = reload::tariffs(&priced);
    let mut tx = database.begin().await?;
    price_lists::insert_missing(&mut tx, tariffs.iter().map(|tariff| &**tariff), now).await?;
    tx.commit().await?;
    Ok(priced)
}

/// Opens a journal with one chain per worker, and starts its maintenance thread.
fn start_journal(settings: &Settings, folder: &DataFolder, run: u32) -> io::Result<Arc<Journal>> {
    let journal_settings = JournalSettings {
        folder: folder.journal(),
        durability: settings.durability,
        segment_bytes: settings.segment_bytes,
        retention: settings.journal_retention,
        backlog_bytes_max: settings.backlog_bytes_max,
    };
    let journal = Arc::new(Journal::open(journal_settings, run, settings.workers)?);
    journal.start_maintenance()?;
    Ok(journal)
}

/// Starts one worker per setup. If the port is 0, the first socket selects a free port and the
/// others share it.
fn start_workers(
    mut address: SocketAddr,
    setups: Vec<WorkerSetup>,
) -> Result<(SocketAddr, Vec<JoinHandle<()>>), StartError> {
    let io = |what| move |fault| StartError::Io(what, fault);
    let mut workers = Vec::new();
    for setup in setups {
        let socket = listener::bind(address).map_err(io("cannot listen on the proxy address"))?;
        address = socket.local_addr().map_err(io("cannot listen on the proxy address"))?;
        workers.push(start_worker(setup, socket).map_err(io("cannot start a worker thread"))?);
    }
    Ok((address, workers))
}
