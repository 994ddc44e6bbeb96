//! The directory of API keys: an immutable snapshot that maps each key to its project and organization.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState as FastHash;

use crate::accounting::limit_state::{LimitState, LimitStatus};
use crate::accounting::live_state::{
    KeySlot, LiveState, OrganizationHandle, OrganizationState, ProjectHandle, ProjectState,
    TightestLimits,
};
use crate::accounting::wait_queue::WaitQueue;
use crate::domain::access::{Cidr, glob_matches};
use crate::domain::counter::{WindowCounters, Windows};
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::limit::{Amounts, Level, Measure};
use crate::domain::quota::Quota;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::domain::wallet::Wallet;
use crate::settings::admission::AdmissionSettings;
use crate::store::database::{Database, DatabaseError};
use crate::store::directory_rows;
use crate::store::directory_rows::{DirectoryRows, Scope};
use crate::store::provider_states;
use crate::store::usage::Subjects;

/// The prefix of every API key.
pub const KEY_PREFIX: &str = "sk-mtr-";

/// The length of every API key: prefix, 43 random digits, 6 checksum digits.
pub const KEY_BYTES: usize = KEY_PREFIX.len() + 49;

/// SHA-256 of an API key. Only the hash is stored.
pub type SecretHash = [u8; 32];

/// The API key of a call, with its project, its organization and their settings.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "five switches of three owners, each by itself")]
pub struct Caller {
    pub key: ApiKeyId,
    /// Index of the limits of the key within its project.
    pub slot: KeySlot,
    pub project: Arc<ProjectHandle>,
    /// Pays for the calls.
    pub organization: Arc<OrganizationHandle>,
    /// False if the key is disabled or revoked.
    pub enabled: bool,
    pub expires_at: Option<UnixMs>,
    /// False if the project is archived.
    pub project_active: bool,
    pub organization_active: bool,
    /// Whether `max_tokens` of a call that sets none may be lowered near a limit.
    pub output_clamp: bool,
    /// Whether a response is read to its end after its client disconnects.
    pub on_disconnect_drain: bool,
    /// One list of globs each for key, project and organization. A model must match one glob of every
    /// list.
    pub allowed_models: Vec<Vec<String>>,
    /// `None` allows every client address.
    pub allowed_cidrs: Option<Vec<Cidr>>,
}

impl Caller {
    /// True if key, project and organization all allow this model.
    pub fn may_use_model(&self, model: &str) -> bool {
        self.allowed_models.iter().all(|globs| globs.iter().any(|glob| glob_matches(glob, model)))
    }

    /// Returns the tightest of all applicable limits at `now`.
    pub fn tightest_limits(&self, now: UnixMs) -> TightestLimits {
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        self.advance_windows(&mut project, &mut organization, now);
        self.tightest_of(&mut project, &organization)
    }

    /// Returns the status of every applicable limit at `now`.
    pub fn limit_statuses(&self, now: UnixMs) -> Vec<LimitStatus> {
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        self.advance_windows(&mut project, &mut organization, now);
        let mut statuses: Vec<_> = project.limits.statuses(Level::Project).collect();
        statuses.extend(project.keys.limit_state(self.slot).statuses(Level::Key));
        statuses.extend(organization.limits.statuses(Level::Organization));
        statuses
    }

    /// Advances all windows to one instant, the latest that any of them has seen, so that a call is
    /// counted in the same windows at every level.
    pub fn advance_windows(
        &self,
        project: &mut ProjectState,
        organization: &mut OrganizationState,
        now: UnixMs,
    ) -> Windows {
        let key_last_seen = project.keys.limit_state(self.slot).counters.last_seen();
        let latest =
            project.limits.counters.last_seen().max(organization.limits.counters.last_seen());
        let at = now.max(latest).max(key_last_seen);
        project.keys.limit_state(self.slot).counters.advance_to(at);
        organization.limits.counters.advance_to(at);
        project.limits.counters.advance_to(at)
    }

    /// Returns the tightest of all applicable limits. The windows must have been advanced.
    pub fn tightest_of(
        &self,
        project: &mut ProjectState,
        organization: &OrganizationState,
    ) -> TightestLimits {
        let key = &*project.keys.limit_state(self.slot);
        let states = [&project.limits, key, &organization.limits];
        [Measure::Requests, Measure::Tokens].map(|measure| {
            let candidates = states.iter().filter_map(|state| state.headroom(measure));
            candidates.min_by_key(|headroom| headroom.remaining)
        })
    }

    pub fn may_call_from(&self, address: IpAddr) -> bool {
        let blocks = self.allowed_cidrs.as_ref();
        blocks.is_none_or(|blocks| blocks.iter().any(|block| block.contains(address)))
    }
}

/// All API keys. Replaced as a whole when one changes.
#[derive(Debug, Default, Clone)]
pub struct KeySnapshot(HashMap<SecretHash, Arc<Caller>, FastHash>);

impl KeySnapshot {
    pub fn find(&self, secret: &SecretHash) -> Option<&Arc<Caller>> {
        self.0.get(secret)
    }
}

/// The key snapshot and the live state of the projects and organizations in it.
#[derive(Debug)]
pub struct Directory {
    keys: ArcSwap<KeySnapshot>,
    /// Held while a snapshot is replaced, so that concurrent refreshes do not overwrite each other.
    rebuild_lock: Mutex<()>,
    live_state: LiveState,
}

impl Directory {
    /// Loads all keys, projects, organizations and provider state from the database.
    pub async fn load(
        database: &Database,
        admission: AdmissionSettings,
        now: UnixMs,
    ) -> Result<Self, DatabaseError> {
        let live_state = LiveState::new(admission);
        let directory = Self { keys: ArcSwap::default(), rebuild_lock: Mutex::new(()), live_state };
        let rows = directory_rows::read(database, Scope::Everything, now, None).await?;
        directory.keys.store(Arc::new(KeySnapshot(directory.build_callers(&rows, now))));
        // A project that is opened later is new and has no provider state yet.
        for state in
            provider_states::read(database, now, provider_states::STATES_PER_PROJECT_MAX).await?
        {
            if let Some(project) = directory.live_state.project(state.project) {
                project.lock().provider_states.insert(state.key, state.upstream.into(), state.at);
            }
        }
        Ok(directory)
    }

    /// Returns the current key snapshot.
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeySnapshot>> {
        self.keys.load()
    }

    pub const fn live_state(&self) -> &LiveState {
        &self.live_state
    }

    /// Reloads one project after a change to it, its quota or its keys was committed.
    pub async fn refresh_project(
        &self,
        database: &Database,
        project: ProjectId,
        now: UnixMs,
    ) -> Result<(), DatabaseError> {
        let is_replaced = |caller: &Caller| caller.project.id == project;
        let open_subjects = self.open_subjects(is_replaced);
        let rows =
            directory_rows::read(database, Scope::Project(project), now, Some(&open_subjects))
                .await?;
        self.replace(&rows, now, is_replaced);
        Ok(())
    }

    /// Reloads one organization and all its projects after a change was committed.
    pub async fn refresh_organization(
        &self,
        database: &Database,
        organization: OrganizationId,
        now: UnixMs,
    ) -> Result<(), DatabaseError> {
        let is_replaced = |caller: &Caller| caller.organization.id == organization;
        let (open_subjects, scope) =
            (self.open_subjects(is_replaced), Scope::Organization(organization));
        let rows = directory_rows::read(database, scope, now, Some(&open_subjects)).await?;
        self.replace(&rows, now, is_replaced);
        Ok(())
    }

    /// Returns the subjects whose usage is already in memory and need not be read again. Live state is
    /// never removed, so they are still open when the rows arrive.
    fn open_subjects(&self, of: impl Fn(&Caller) -> bool) -> Subjects {
        let keys = self.keys.load();
        let callers = keys.0.values().filter(|caller| of(caller));
        let subjects =
            |caller: &Arc<Caller>| [caller.key.0, caller.project.id.0, caller.organization.id.0];
        callers.flat_map(subjects).collect()
    }

    /// Replaces the callers that `is_replaced` selects with those of `rows`.
    fn replace(&self, rows: &DirectoryRows, now: UnixMs, is_replaced: impl Fn(&Caller) -> bool) {
        let fresh = self.build_callers(rows, now);
        let _guard = self.rebuild_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = KeySnapshot::clone(&self.keys.load());
        keys.0.retain(|_, caller| !is_replaced(caller));
        keys.0.extend(fresh);
        self.keys.store(Arc::new(keys));
        // A waiting call may have lost its key, or may fit under a raised limit.
        for project in rows.projects.iter().filter_map(|row| self.live_state.project(row.id)) {
            project.wake_all();
        }
        for row in &rows.organizations {
            if let Some(organization) = self.live_state.organization(row.id) {
                organization.wake_all();
            }
        }
    }

    /// Opens the projects and organizations in `rows`, applies their limits and builds their callers.
    fn build_callers(
        &self,
        rows: &DirectoryRows,
        now: UnixMs,
    ) -> HashMap<SecretHash, Arc<Caller>, FastHash> {
        let hold_wait = self.live_state.admission().hold_wait;
        let mut organizations = HashMap::new();
        for row in &rows.organizations {
            let open = || {
                let limits = restore_limit_state(row.quota, now, row.minute, &row.days, hold_wait);
                (limits, Wallet::restore(row.balance, row.wallet_active))
            };
            let handle = self.live_state.open_organization(row.id, open);
            handle.set_active(row.wallet_active);
            handle.set_quota(row.quota);
            organizations.insert(row.id, (row, handle));
        }
        let mut projects = HashMap::new();
        for row in &rows.projects {
            let open = || restore_limit_state(row.quota, now, row.minute, &row.days, hold_wait);
            let handle = self.live_state.open_project(row.id, open);
            handle.set_quota(row.quota);
            projects.insert(row.id, (row, handle));
        }
        let mut callers = HashMap::default();
        for key in &rows.keys {
            let Some((project, project_handle)) = projects.get(&key.project) else { continue };
            let Some((organization, organization_handle)) =
                organizations.get(&project.organization)
            else {
                continue;
            };
            let open = |quota| restore_limit_state(quota, now, key.minute, &key.days, hold_wait);
            let slot = project_handle.set_key(key.id, key.limits, open);
            let lists =
                [&key.allowed_models, &project.allowed_models, &organization.allowed_models];
            let caller = Arc::new(Caller {
                key: key.id,
                slot,
                project: Arc::clone(project_handle),
                organization: Arc::clone(organization_handle),
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

/// Restores the counters from durable usage.
fn restore_limit_state(
    quota: Quota,
    now: UnixMs,
    minute: (Minute, Amounts),
    days: &[(Day, Amounts)],
    hold_wait: Duration,
) -> LimitState {
    let counters = WindowCounters::restore(quota.reset_day, now, minute, days.iter().copied());
    LimitState { quota, counters, queue: WaitQueue::new(hold_wait) }
}
