//! The platform: what every use case works on.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

use crate::accounting::directory::Directory;
use crate::domain::catalog::Model;
use crate::domain::tariff::Tariff;
use crate::domain::time::UnixMs;
use crate::ledger::freshness::Freshness;
use crate::ledger::watch::ChainWatch;
use crate::organization::passwords::Passwords;
use crate::organization::throttle::Throttle;
use crate::store::database::Database;

/// What is the same for the whole deployment.
#[derive(Debug, Clone)]
pub struct PlatformSettings {
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
pub struct Enforce(pub Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Enforce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enforce")
    }
}

/// A catalog that was read and is not in force yet.
#[derive(Debug)]
pub struct Prepared {
    /// What is in it.
    pub reloaded: Reloaded,
    /// All its prices: to be kept before a record names one of them.
    pub tariffs: Vec<Arc<Tariff>>,
    /// Puts it in force.
    pub enforce: Enforce,
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

type Read = dyn Fn() -> Result<Prepared, String> + Send + Sync;
type Models = dyn Fn() -> Vec<Arc<Model>> + Send + Sync;
type Upstreams = dyn Fn() -> Vec<UpstreamState> + Send + Sync;

/// Shows the catalog in force, and reads its file again; says every fault of it.
#[derive(Clone)]
pub struct Reload {
    read: Arc<Read>,
    models: Arc<Models>,
    upstreams: Arc<Upstreams>,
}

impl Reload {
    /// So it is read, and so its models and upstreams are shown.
    pub fn new(
        read: impl Fn() -> Result<Prepared, String> + Send + Sync + 'static,
        models: impl Fn() -> Vec<Arc<Model>> + Send + Sync + 'static,
        upstreams: impl Fn() -> Vec<UpstreamState> + Send + Sync + 'static,
    ) -> Self {
        Self { read: Arc::new(read), models: Arc::new(models), upstreams: Arc::new(upstreams) }
    }

    /// The listed models in force, in the order of their names.
    pub fn models(&self) -> Vec<Arc<Model>> {
        (self.models)()
    }

    /// What the file says now, all of it or nothing.
    pub fn read(&self) -> Result<Prepared, String> {
        (self.read)()
    }

    /// The upstreams in use, in the order of the file.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        (self.upstreams)()
    }
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reload")
    }
}

/// The deployment, as seen by this node.
#[derive(Debug)]
pub struct Platform {
    /// Where everything is kept.
    pub database: Database,
    /// What calls see of it.
    pub directory: Arc<Directory>,
    /// How far the database is behind the journal.
    pub freshness: Arc<Freshness>,
    /// What is the same everywhere.
    pub settings: PlatformSettings,
    /// How the catalog is read again.
    pub reload: Reload,
    /// Where passwords are hashed.
    pub passwords: Passwords,
    /// How often one address may try to sign in.
    pub throttle: Throttle,
    /// What is known of each ledger.
    pub chains: ChainWatch,
    /// Held from a commit until the directory has seen it: edits arrive in the order of commits.
    pub landing: Mutex<()>,
    /// One note of use is written at a time; those that would queue are dropped.
    pub notes: Arc<Semaphore>,
}

impl Platform {
    /// Puts the parts together.
    pub fn new(
        database: Database,
        directory: Arc<Directory>,
        freshness: Arc<Freshness>,
        settings: PlatformSettings,
        reload: Reload,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            directory,
            freshness,
            settings,
            reload,
            passwords: Passwords::default(),
            throttle: Throttle::default(),
            chains: ChainWatch::default(),
            landing: Mutex::new(()),
            notes: Arc::new(Semaphore::new(1)),
        })
    }

    /// Waits until reads see every call that has ended by now, a second at most.
    ///
    /// `None` when they do; else the moment up to which they may be behind.
    pub async fn fresh(&self) -> Option<UnixMs> {
        self.freshness.wait().await
    }
}
