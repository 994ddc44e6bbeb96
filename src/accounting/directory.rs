//! The directory: which key opens which project. One immutable snapshot, read once a call.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState as FastHash;

use crate::accounting::account::{Account, Standing};
use crate::accounting::books::{
    Books, KeySlot, OrganizationBook, OrganizationPage, ProjectBook, ProjectPage, Rooms,
};
use crate::accounting::queue::Queue;
use crate::domain::access::{Cidr, glob_matches};
use crate::domain::counter::{Counters, Windows};
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::limit::{Amounts, Level, Measure};
use crate::domain::quota::Quota;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::domain::wallet::Wallet;
use crate::settings::admission::AdmissionSettings;
use crate::store::callers::{self, CallerRows, Scope};
use crate::store::database::{Database, DatabaseError};
use crate::store::provider_states;
use crate::store::usage::Subjects;

/// What every key begins with.
pub const KEY_PREFIX: &str = "sk-mtr-";

/// How long every key is: prefix, 43 digits of randomness, 6 of checksum.
pub const KEY_BYTES: usize = KEY_PREFIX.len() + 49;

/// SHA-256 of a key's secret: what is stored, and what is looked up.
pub type SecretHash = [u8; 32];

/// Everything that a call needs to know of who calls.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "five switches of three owners, each by itself")]
pub struct Caller {
    /// The key.
    pub key: ApiKeyId,
    /// Where its own limits stand among those of its project.
    pub slot: KeySlot,
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
    /// Whether the output of a call that names no bound may be bounded near a limit.
    pub output_clamp: bool,
    /// Whether a call whose client leaves is read to its end.
    pub on_disconnect_drain: bool,
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

    /// The tightest limits on requests and on tokens at `now`, of all that apply.
    pub fn rooms(&self, now: UnixMs) -> Rooms {
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        self.roll(&mut project, &mut organization, now);
        self.tightest(&mut project, &organization)
    }

    /// Every limit that applies, and where it stands at `now`.
    pub fn standings(&self, now: UnixMs) -> Vec<Standing> {
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        self.roll(&mut project, &mut organization, now);
        let mut standings: Vec<_> = project.account.standings(Level::Project).collect();
        standings.extend(project.keys.account(self.slot).standings(Level::Key));
        standings.extend(organization.account.standings(Level::Organization));
        standings
    }

    /// Rolls all windows to one moment, the latest that any of them has seen: a call is counted in
    /// the same ones everywhere.
    pub fn roll(
        &self,
        project: &mut ProjectPage,
        organization: &mut OrganizationPage,
        now: UnixMs,
    ) -> Windows {
        let key = project.keys.account(self.slot).counters.latest();
        let latest = project.account.counters.latest().max(organization.account.counters.latest());
        let at = now.max(latest).max(key);
        project.keys.account(self.slot).counters.roll(at);
        organization.account.counters.roll(at);
        project.account.counters.roll(at)
    }

    /// The tightest limits on requests and on tokens, as the counters stand.
    pub fn tightest(&self, project: &mut ProjectPage, organization: &OrganizationPage) -> Rooms {
        let key = &*project.keys.account(self.slot);
        let accounts = [&project.account, key, &organization.account];
        [Measure::Requests, Measure::Tokens].map(|measure| {
            let rooms = accounts.iter().filter_map(|account| account.room(measure));
            rooms.min_by_key(|room| room.remaining)
        })
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
    /// Opens every book and reads every key, and what providers keep for whom.
    pub async fn load(
        database: &Database,
        admission: AdmissionSettings,
        now: UnixMs,
    ) -> Result<Self, DatabaseError> {
        let books = Books::new(admission);
        let directory = Self { keys: ArcSwap::default(), building: Mutex::new(()), books };
        let rows = callers::read(database, Scope::Everything, now, None).await?;
        directory.keys.store(Arc::new(Keys(directory.callers(&rows, now))));
        // A book that is opened later is that of a new project, for which nothing is kept yet.
        for state in provider_states::read(database, now, provider_states::KEPT_MAX).await? {
            if let Some(book) = directory.books.project(state.project) {
                book.lock().states.keep(state.key, state.upstream.into(), state.at);
            }
        }
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
        let replaced = |caller: &Caller| caller.project.id == project;
        let open = self.open_books(replaced);
        let rows = callers::read(database, Scope::Project(project), now, Some(&open)).await?;
        self.replace(&rows, now, replaced);
        Ok(())
    }

    /// Reads one organization and all its projects again, after an edit was committed.
    pub async fn refresh_organization(
        &self,
        database: &Database,
        organization: OrganizationId,
        now: UnixMs,
    ) -> Result<(), DatabaseError> {
        let replaced = |caller: &Caller| caller.organization.id == organization;
        let (open, scope) = (self.open_books(replaced), Scope::Organization(organization));
        let rows = callers::read(database, scope, now, Some(&open)).await?;
        self.replace(&rows, now, replaced);
        Ok(())
    }

    /// Whose usage need not be read for these callers. Books never close, so they are open still
    /// when the rows have come.
    fn open_books(&self, of: impl Fn(&Caller) -> bool) -> Subjects {
        let keys = self.keys.load();
        let callers = keys.0.values().filter(|caller| of(caller));
        let subjects =
            |caller: &Arc<Caller>| [caller.key.0, caller.project.id.0, caller.organization.id.0];
        callers.flat_map(subjects).collect()
    }

    /// Swaps the callers that `replaced` names for those of `rows`.
    fn replace(&self, rows: &CallerRows, now: UnixMs, replaced: impl Fn(&Caller) -> bool) {
        let fresh = self.callers(rows, now);
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Keys::clone(&self.keys.load());
        keys.0.retain(|_, caller| !replaced(caller));
        keys.0.extend(fresh);
        self.keys.store(Arc::new(keys));
        // Who waits may have lost its key, or have more room now.
        for project in rows.projects.iter().filter_map(|row| self.books.project(row.id)) {
            project.wake_all();
        }
        for row in &rows.organizations {
            if let Some(organization) = self.books.organization(row.id) {
                organization.wake_all();
            }
        }
    }

    /// Opens the books that `rows` name, puts their limits in force, and joins keys to them.
    fn callers(
        &self,
        rows: &CallerRows,
        now: UnixMs,
    ) -> HashMap<SecretHash, Arc<Caller>, FastHash> {
        let patience = self.books.admission().hold_wait;
        let mut organizations = HashMap::new();
        for row in &rows.organizations {
            let open = || {
                let account = account(row.quota, now, (row.minute, &row.days), patience);
                (account, Wallet::restore(row.balance, row.wallet_active))
            };
            let book = self.books.open_organization(row.id, open);
            book.set_active(row.wallet_active);
            book.set_quota(row.quota);
            organizations.insert(row.id, (row, book));
        }
        let mut projects = HashMap::new();
        for row in &rows.projects {
            let open = || account(row.quota, now, (row.minute, &row.days), patience);
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
            let open = |quota| account(quota, now, (key.minute, &key.days), patience);
            let slot = project_book.set_key(key.id, key.limits, open);
            let lists =
                [&key.allowed_models, &project.allowed_models, &organization.allowed_models];
            let caller = Arc::new(Caller {
                key: key.id,
                slot,
                project: Arc::clone(project_book),
                organization: Arc::clone(organization_book),
                enabled: key.enabled,
                expires_at: key.expires_at,
                project_active: project.active,
                organization_active: organization.active,
                output_clamp: organization.output_clamp,
                on_disconnect_drain: organization.on_disconnect_drain,
                allowed_models: lists.into_iter().flatten().cloned().collect(),
                allowed_cidrs: key.allowed_cidrs.clone(),
            });
            callers.insert(key.secret_hash, caller);
        }
        callers
    }
}

/// An account that continues from durable sums.
fn account(
    quota: Quota,
    now: UnixMs,
    (minute, days): ((Minute, Amounts), &[(Day, Amounts)]),
    patience: Duration,
) -> Account {
    let counters = Counters::restore(quota.reset_day, now, minute, days.iter().copied());
    Account { quota, counters, queue: Queue::new(patience) }
}
