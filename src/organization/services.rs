//! The platform: what every use case works on.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

use crate::accounting::directory::Directory;
use crate::domain::catalog::Model;
use crate::domain::price_override::PriceOverride;
use crate::domain::tariff::Tariff;
use crate::domain::time::UnixMs;
use crate::ledger::chain_auditor::ChainAuditor;
use crate::ledger::read_barrier::ReadBarrier;
use crate::organization::passwords::Passwords;
use crate::organization::throttle::Throttle;
use crate::store::database::Database;

/// What is the same for the whole deployment.
#[derive(Debug, Clone)]
pub struct DeploymentSettings {
    /// The one currency.
    pub currency: String,
    /// The name of this node.
    pub node: String,
}

/// What a reload has put in force.
#[derive(Debug, Clone, Copy)]
pub struct Reloaded {
    /// How many models have a name.
    pub models: usize,
    /// How many upstreams serve them.
    pub upstreams: usize,
}

/// Puts something in force that has no fault any more.
pub struct CommitHook(pub Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for CommitHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enforce")
    }
}

/// A catalog that was read and is not in force yet.
#[derive(Debug)]
pub struct StagedCatalog {
    /// What is in it.
    pub reloaded: Reloaded,
    /// All its prices: to be kept before a record names one of them.
    pub tariffs: Vec<Arc<Tariff>>,
    /// Puts it in force.
    pub activate: CommitHook,
}

/// An upstream, and how it has been lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamState {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub dialects: Vec<&'static str>,
    /// Where it is.
    pub base_url: String,
    /// `Closed`, `HalfOpen` or `Open`.
    pub circuit: &'static str,
    /// Tries and failures of the window until now.
    pub window: (u32, u32),
    /// How the last try came out that was not answered.
    pub last_error: Option<&'static str>,
    /// When it last answered.
    pub last_ok_at: Option<UnixMs>,
}

/// The catalog of this node: what the file says, and the prices that are laid over it.
pub trait CatalogSource: std::fmt::Debug + Send + Sync {
    /// The listed models in force, in the order of their names.
    fn models(&self) -> Vec<Arc<Model>>;

    /// The listed models as the file in force has them, at its own prices.
    fn configured_models(&self) -> Vec<Model>;

    /// The upstreams in use, in the order of the file.
    fn upstreams(&self) -> Vec<UpstreamState>;

    /// What the file says now, all of it or nothing, under those prices.
    fn stage_file(&self, laid: &[PriceOverride]) -> Result<StagedCatalog, String>;

    /// What the file in force says, under those prices.
    fn with_overrides(&self, laid: &[PriceOverride]) -> StagedCatalog;
}

/// The deployment, as seen by this node.
#[derive(Debug)]
pub struct Services {
    /// Where everything is kept.
    pub database: Database,
    /// What calls see of it.
    pub directory: Arc<Directory>,
    /// How far the database is behind the journal.
    pub read_barrier: Arc<ReadBarrier>,
    /// What is the same everywhere.
    pub settings: DeploymentSettings,
    /// The catalog, and how it is read again.
    pub catalog: Arc<dyn CatalogSource>,
    /// Held from when a catalog is prepared until it is in force: each is made of the one before.
    pub catalog_lock: Arc<Mutex<()>>,
    /// Where passwords are hashed.
    pub passwords: Passwords,
    /// How often one address may try to sign in.
    pub throttle: Throttle,
    /// What is known of each ledger.
    pub chain_auditor: ChainAuditor,
    /// Held from a commit until the directory has seen it: edits arrive in the order of commits.
    pub commit_order: Mutex<()>,
    /// One note of use is written at a time; those that would queue are dropped.
    pub last_use_permits: Arc<Semaphore>,
}

impl Services {
    /// Puts the parts together.
    pub fn new(
        database: Database,
        directory: Arc<Directory>,
        freshness: Arc<ReadBarrier>,
        settings: DeploymentSettings,
        reload: Arc<dyn CatalogSource>,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            directory,
            read_barrier: freshness,
            settings,
            catalog: reload,
            catalog_lock: Arc::default(),
            passwords: Passwords::default(),
            throttle: Throttle::default(),
            chain_auditor: ChainAuditor::default(),
            commit_order: Mutex::new(()),
            last_use_permits: Arc::new(Semaphore::new(1)),
        })
    }

    /// Waits until reads see every call that has ended by now, a second at most.
    ///
    /// `None` when they do; else the moment up to which they may be behind.
    pub async fn wait_caught_up(&self) -> Option<UnixMs> {
        self.read_barrier.wait_caught_up().await
    }
}
