//! The directory: which key opens which project. One immutable snapshot, read once a call.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState as FastHash;

use crate::accounting::books::{Books, OrganizationBook, ProjectBook};
use crate::domain::access::{Cidr, glob_matches};
use crate::domain::counter::Counters;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::time::UnixMs;
use crate::domain::wallet::Wallet;
use crate::store::callers::{self, CallerRows, Scope};
use crate::store::database::{Database, DatabaseError};

/// SHA-256 of a key's secret: what is stored, and what is looked up.
pub type SecretHash = [u8; 32];

/// Everything that a call needs to know of who calls.
#[derive(Debug)]
pub struct Caller {
    /// The key.
    pub key: ApiKeyId,
    /// The project it opens.
    pub project: Arc<ProjectBook>,
    /// Who pays.
    pub organization: Arc<OrganizationBook>,
    /// Whether the key is switched on and not revoked.
    pub enabled: bool,
    /// When it ends.
    pub expires_at: Option<UnixMs>,
    /// Whether its project is active.
    pub project_active: bool,
    /// Whether its organization is active.
    pub organization_active: bool,
    /// Globs, one list each of key, project and organization; a model must match one of each.
    pub allowed_models: Vec<Vec<String>>,
    /// Where it may be used from; `None` is anywhere.
    pub allowed_cidrs: Option<Vec<Cidr>>,
}

impl Caller {
    /// Whether the key, its project and its organization all allow this model.
    pub fn may_use_model(&self, model: &str) -> bool {
        self.allowed_models.iter().all(|globs| globs.iter().any(|glob| glob_matches(glob, model)))
    }

    /// Whether the key may be used from there.
    pub fn may_call_from(&self, address: IpAddr) -> bool {
        let blocks = self.allowed_cidrs.as_ref();
        blocks.is_none_or(|blocks| blocks.iter().any(|block| block.holds(address)))
    }
}

/// The keys of one moment.
#[derive(Debug, Default, Clone)]
pub struct Keys(HashMap<SecretHash, Arc<Caller>, FastHash>);

impl Keys {
    /// Who calls with that secret.
    pub fn find(&self, secret: &SecretHash) -> Option<&Arc<Caller>> {
        self.0.get(secret)
    }
}

/// The directory and the books that it opens.
#[derive(Debug)]
pub struct Directory {
    keys: ArcSwap<Keys>,
    /// Held while a snapshot is built, so that none is lost between two edits.
    building: Mutex<()>,
    books: Books,
}

impl Directory {
    /// Opens every book and reads every key.
    pub async fn load(database: &Database, now: UnixMs) -> Result<Self, DatabaseError> {
        let directory =
            Self { keys: ArcSwap::default(), building: Mutex::new(()), books: Books::default() };
        let rows = callers::read(database, Scope::Everything, now).await?;
        directory.keys.store(Arc::new(Keys(directory.callers(&rows, now))));
        Ok(directory)
    }

    /// The keys as they are now.
    pub fn keys(&self) -> arc_swap::Guard<Arc<Keys>> {
        self.keys.load()
    }

    /// The books in motion.
    pub const fn books(&self) -> &Books {
        &self.books
    }

    /// Reads one project again, after an edit of it, its quota or its keys was committed.
    pub async fn refresh_project(
        &self,
        database: &Database,
        project: ProjectId,
        now: UnixMs,
    ) -> Result<(), DatabaseError> {
        let rows = callers::read(database, Scope::Project(project), now).await?;
        self.replace(&rows, now, |caller| caller.project.id == project);
        Ok(())
    }

    /// Reads one organization and all its projects again, after an edit was committed.
    pub async fn refresh_organization(
        &self,
        database: &Database,
        organization: OrganizationId,
        now: UnixMs,
    ) -> Result<(), DatabaseError> {
        let rows = callers::read(database, Scope::Organization(organization), now).await?;
        self.replace(&rows, now, |caller| caller.organization.id == organization);
        Ok(())
    }

    /// Swaps the callers that `replaced` names for those of `rows`.
    fn replace(&self, rows: &CallerRows, now: UnixMs, replaced: impl Fn(&Caller) -> bool) {
        let fresh = self.callers(rows, now);
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Keys::clone(&self.keys.load());
        keys.0.retain(|_, caller| !replaced(caller));
        keys.0.extend(fresh);
        self.keys.store(Arc::new(keys));
    }

    /// Opens the books that `rows` name, puts their limits in force, and joins keys to them.
    fn callers(
        &self,
        rows: &CallerRows,
        now: UnixMs,
    ) -> HashMap<SecretHash, Arc<Caller>, FastHash> {
        let mut organizations = HashMap::new();
        for row in &rows.organizations {
            let open = || Wallet::restore(row.balance, row.wallet_active);
            let book = self.books.open_organization(row.id, open);
            book.set_active(row.wallet_active);
            organizations.insert(row.id, (row, book));
        }
        let mut projects = HashMap::new();
        for row in &rows.projects {
            let open = || {
                let (quota, days) = (row.quota, row.days.iter().copied());
                (quota, Counters::restore(quota.reset_day, now, row.minute, days))
            };
            let book = self.books.open_project(row.id, open);
            book.set_quota(row.quota);
            projects.insert(row.id, (row, book));
        }
        let mut callers = HashMap::default();
        for key in &rows.keys {
            let Some((project, project_book)) = projects.get(&key.project) else { continue };
            let Some((organization, organization_book)) = organizations.get(&project.organization)
            else {
                continue;
            };
            let lists =
                [&key.allowed_models, &project.allowed_models, &organization.allowed_models];
            let caller = Arc::new(Caller {
                key: key.id,
                project: Arc::clone(project_book),
                organization: Arc::clone(organization_book),
                enabled: key.enabled,
                expires_at: key.expires_at,
                project_active: project.active,
                organization_active: organization.active,
                allowed_models: lists.into_iter().flatten().cloned().collect(),
                allowed_cidrs: key.allowed_cidrs.clone(),
            });
            callers.insert(key.secret_hash, caller);
        }
        callers
    }
}
