//! The services that every use case uses.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

use crate::accounting::key_directory::Directory;
use crate::domain::catalog::Model;
use crate::domain::price_override::PriceOverride;
use crate::domain::status::CircuitState;
use crate::domain::tariff::Tariff;
use crate::domain::time::UnixMs;
use crate::ledger::chain_auditor::ChainAuditor;
use crate::ledger::read_barrier::ReadBarrier;
use crate::organization::passwords::Passwords;
use crate::organization::throttle::Throttle;
use crate::store::database::Database;

/// Settings of the deployment that use cases need.
#[derive(Debug, Clone)]
pub struct DeploymentSettings {
    /// The currency of all amounts.
    pub currency: String,
    /// The id of this node.
    pub node: String,
}

/// The size of a catalog that was put in force.
#[derive(Debug, Clone, Copy)]
pub struct Reloaded {
    /// The number of listed models.
    pub models: usize,
    /// The number of upstreams.
    pub upstreams: usize,
}

/// A function to run after a commit. It cannot fail.
pub struct CommitHook(pub Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for CommitHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommitHook")
    }
}

/// A validated catalog that is not in force yet.
#[derive(Debug)]
pub struct StagedCatalog {
    pub reloaded: Reloaded,
    /// All its tariffs. They must be stored before a record can refer to one of them.
    pub tariffs: Vec<Arc<Tariff>>,
    /// Puts the catalog in force.
    pub activate: CommitHook,
}

/// An upstream and its current health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamState {
    pub name: String,
    pub dialects: Vec<&'static str>,
    pub base_url: String,
    pub circuit: CircuitState,
    /// Attempts in the current window of the breaker.
    pub attempts: u32,
    /// How many of them failed.
    pub failures: u32,
    /// How the last failed attempt failed.
    pub last_error: Option<&'static str>,
    /// When the upstream last responded.
    pub last_ok_at: Option<UnixMs>,
}

/// The catalog of this node. The functions are provided by `app`, because they use the
/// configuration and the proxy, which use cases cannot name.
pub struct CatalogSource {
    /// Returns the listed models in force, sorted by name.
    pub models: Box<dyn Fn() -> Vec<Arc<Model>> + Send + Sync>,
    /// Returns the listed models of the configuration in force, without price overrides, sorted by
    /// name.
    pub configured_models: Box<dyn Fn() -> Vec<Model> + Send + Sync>,
    /// Returns the upstreams in use, in the order of the configuration.
    pub upstreams: Box<dyn Fn() -> Vec<UpstreamState> + Send + Sync>,
    /// Builds a catalog with the given price overrides. The error text lists all faults of the
    /// configuration.
    pub prepare: Box<PrepareFn>,
}

type PrepareFn =
    dyn Fn(CatalogInput, &[PriceOverride]) -> Result<StagedCatalog, String> + Send + Sync;

/// The configuration from which a catalog is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogInput {
    /// The configuration file as it is now.
    File,
    /// The configuration in force. Never fails.
    Current,
}

impl std::fmt::Debug for CatalogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogSource")
    }
}

/// What all use cases share on this node.
#[derive(Debug)]
pub struct Services {
    pub database: Database,
    /// The keys, projects and organizations that calls are checked against.
    pub directory: Arc<Directory>,
    /// Waits until the database has caught up with the journal.
    pub read_barrier: Arc<ReadBarrier>,
    pub settings: DeploymentSettings,
    pub catalog: CatalogSource,
    /// Held from the preparation of a catalog to its activation, because each catalog is derived
    /// from the one before.
    pub catalog_lock: Arc<Mutex<()>>,
    pub passwords: Passwords,
    /// Limits sign-in attempts by client address.
    pub throttle: Throttle,
    /// The verification state of each ledger.
    pub chain_auditor: ChainAuditor,
    /// Held from a commit until the directory is updated, so that updates arrive in commit order.
    pub commit_order: Mutex<()>,
    /// Allows one write of a last use at a time; further ones are dropped, not queued.
    pub last_use_permits: Arc<Semaphore>,
}

impl Services {
    pub fn new(
        database: Database,
        directory: Arc<Directory>,
        read_barrier: Arc<ReadBarrier>,
        settings: DeploymentSettings,
        catalog: CatalogSource,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            directory,
            read_barrier,
            settings,
            catalog,
            catalog_lock: Arc::default(),
            passwords: Passwords::default(),
            throttle: Throttle::default(),
            chain_auditor: ChainAuditor::default(),
            commit_order: Mutex::new(()),
            last_use_permits: Arc::new(Semaphore::new(1)),
        })
    }

    /// Waits, one second at most, until the database has every call that has ended by now.
    ///
    /// Returns `None` if it has; else the instant up to which it is complete.
    pub async fn wait_caught_up(&self) -> Option<UnixMs> {
        self.read_barrier.wait_caught_up().await
    }
}
