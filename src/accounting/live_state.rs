//! The books: counters and wallets in motion, one lock a project and one an organization.
//!
//! Whoever takes both takes the project's first. Nothing waits while holding either.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use dashmap::DashMap;
use foldhash::fast::RandomState as FastHash;

use crate::accounting::input_token_cache::InputTokenCache;
use crate::accounting::limit_state::LimitState;
use crate::accounting::mutex::{Mutex, MutexGuard};
use crate::accounting::provider_state::ProviderStateIndex;
use crate::clock;
use crate::domain::counter::{Headroom, WindowUsage};
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::{Limits, Window};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::time::{Month, UnixMs};
use crate::domain::wallet::Wallet;
use crate::settings::admission::AdmissionSettings;
use crate::store::provider_states::state_key;

/// All books of this node. Books are opened once and live as long as the process.
#[derive(Debug)]
pub struct LiveState {
    projects: DashMap<ProjectId, Arc<ProjectHandle>>,
    organizations: DashMap<OrganizationId, Arc<OrganizationHandle>>,
    admission: AdmissionSettings,
    input_cache: Arc<InputTokenCache>,
}

impl LiveState {
    /// No books yet.
    pub fn new(admission: AdmissionSettings) -> Self {
        let (projects, organizations) = (DashMap::new(), DashMap::new());
        Self { projects, organizations, admission, input_cache: Arc::default() }
    }

    /// What is known of bodies that were counted.
    pub const fn input_cache(&self) -> &Arc<InputTokenCache> {
        &self.input_cache
    }

    /// How calls are admitted near a limit.
    pub const fn admission(&self) -> AdmissionSettings {
        self.admission
    }

    /// The book of a project that was opened.
    pub fn project(&self, id: ProjectId) -> Option<Arc<ProjectHandle>> {
        self.projects.get(&id).map(|handle| Arc::clone(&handle))
    }

    /// The book of an organization that was opened.
    pub fn organization(&self, id: OrganizationId) -> Option<Arc<OrganizationHandle>> {
        self.organizations.get(&id).map(|handle| Arc::clone(&handle))
    }

    /// Opens a project's book, or returns the one that is open.
    pub fn open_project(
        &self,
        id: ProjectId,
        open: impl FnOnce() -> LimitState,
    ) -> Arc<ProjectHandle> {
        let entry = self.projects.entry(id).or_insert_with(|| {
            let (limits, keys) = (open(), KeyLimits::default());
            let state =
                ProjectState { limits, keys, provider_states: ProviderStateIndex::default() };
            Arc::new(ProjectHandle { id, state: Mutex::new(state) })
        });
        Arc::clone(&entry)
    }

    /// Opens an organization's book, or returns the one that is open.
    pub fn open_organization(
        &self,
        id: OrganizationId,
        open: impl FnOnce() -> (LimitState, Wallet),
    ) -> Arc<OrganizationHandle> {
        let entry = self.organizations.entry(id).or_insert_with(|| {
            let (limits, wallet) = open();
            let state = OrganizationState { limits, wallet, open_holds: HashMap::default() };
            Arc::new(OrganizationHandle { id, state: Mutex::new(state) })
        });
        Arc::clone(&entry)
    }

    /// The books of all organizations that were opened.
    pub fn all_organizations(&self) -> Vec<Arc<OrganizationHandle>> {
        self.organizations.iter().map(|handle| Arc::clone(&handle)).collect()
    }

    /// Every organization's open holds: how many, and their sum.
    pub fn open_holds(&self) -> (usize, Nano) {
        self.organizations.iter().fold((0, Nano::ZERO), |(count, sum), handle| {
            let state = handle.lock();
            (count + state.open_holds.len(), sum + state.wallet.held())
        })
    }

    /// How many calls wait for tokens or money that others hold.
    pub fn waiting(&self) -> usize {
        let waiting_in = |state: &ProjectState| {
            let of_keys = state.keys.states.iter().map(|key| key.queue.len());
            state.limits.queue.len() + of_keys.sum::<usize>()
        };
        let projects: usize = self.projects.iter().map(|handle| waiting_in(&handle.lock())).sum();
        let organizations =
            self.organizations.iter().map(|handle| handle.lock().limits.queue.len());
        projects + organizations.sum::<usize>()
    }
}

/// A project's account, and those of its keys.
#[derive(Debug)]
pub struct ProjectHandle {
    /// Whose it is.
    pub id: ProjectId,
    state: Mutex<ProjectState>,
}

/// What lies under a project's lock.
#[derive(Debug)]
pub struct ProjectState {
    /// The project's own limits.
    pub limits: LimitState,
    /// Those of its keys.
    pub keys: KeyLimits,
    /// What providers keep for it.
    pub provider_states: ProviderStateIndex,
}

/// Where a key's account stands among those of its project. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlot(usize);

/// The accounts of a project's keys.
#[derive(Debug, Default)]
pub struct KeyLimits {
    slots: HashMap<ApiKeyId, KeySlot, FastHash>,
    states: Vec<LimitState>,
}

impl KeyLimits {
    /// The account in that slot.
    pub fn limit_state(&mut self, slot: KeySlot) -> &mut LimitState {
        &mut self.states[slot.0]
    }
}

/// The tightest limit on requests, and the tightest on tokens.
pub type TightestLimits = [Option<Headroom>; 2];

/// Where a project stands, all windows at one moment.
#[derive(Debug, Clone, Copy)]
pub struct UsageSnapshot {
    /// The limits in force.
    pub quota: Quota,
    /// The running minute.
    pub minute: WindowUsage,
    /// Today.
    pub day: WindowUsage,
    /// The running month, today included.
    pub month: WindowUsage,
    /// Which month that is.
    pub month_window: Month,
    /// Calls open now.
    pub open_calls: i64,
}

impl UsageSnapshot {
    fn of(limits: &mut LimitState, now: UnixMs) -> Self {
        limits.counters.advance_to(now);
        let counters = &limits.counters;
        Self {
            quota: limits.quota,
            minute: counters.window_usage(Window::Minute),
            day: counters.window_usage(Window::Day),
            month: counters.window_usage(Window::Month),
            month_window: counters.month(),
            open_calls: counters.open_calls(),
        }
    }
}

impl ProjectHandle {
    /// Its lock, for the few lines of an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, ProjectState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other limits in force; open holds are honoured, usage is kept.
    pub fn set_quota(&self, quota: Quota) {
        let state = &mut *self.lock();
        state.limits.set_quota(quota);
        for key in &mut state.keys.states {
            key.set_quota(Quota { limits: key.quota.limits, ..quota });
        }
    }

    /// Lets everyone who waits look again, after an edit.
    pub fn wake_all(&self) {
        let state = self.lock();
        state.limits.queue.wake_all();
        state.keys.states.iter().for_each(|key| key.queue.wake_all());
    }

    /// Opens a key's account, or puts other limits into the one that is open. Its month, and
    /// whether its limits are enforced, are the project's.
    pub fn set_key(
        &self,
        key: ApiKeyId,
        limits: Limits,
        open: impl FnOnce(Quota) -> LimitState,
    ) -> KeySlot {
        let state = &mut *self.lock();
        let quota = Quota { limits, ..state.limits.quota };
        if let Some(slot) = state.keys.slots.get(&key).copied() {
            state.keys.limit_state(slot).set_quota(quota);
            return slot;
        }
        let slot = KeySlot(state.keys.states.len());
        state.keys.states.push(open(quota));
        state.keys.slots.insert(key, slot);
        slot
    }

    /// Where every window stands at `now`.
    pub fn usage_snapshot(&self, now: UnixMs) -> UsageSnapshot {
        UsageSnapshot::of(&mut self.lock().limits, now)
    }

    /// The upstream that gave the project this id of state, and keeps what it names.
    pub fn state_upstream(&self, id: &str, now: UnixMs) -> Option<Arc<str>> {
        let key = state_key(id);
        self.lock().provider_states.upstream(&key, now)
    }
}

/// An organization's account and wallet, and the calls that hold a part of it.
#[derive(Debug)]
pub struct OrganizationHandle {
    /// Whose it is.
    pub id: OrganizationId,
    state: Mutex<OrganizationState>,
}

/// What lies under an organization's lock.
#[derive(Debug)]
pub struct OrganizationState {
    /// The limits over all projects, and who waits for them or for money of the wallet.
    pub limits: LimitState,
    /// The money in motion.
    pub wallet: Wallet,
    /// Who holds it: the sum of their amounts is what the wallet holds.
    pub open_holds: HashMap<RequestLogId, OpenHold, FastHash>,
}

/// Money and tokens set aside for one open call.
#[derive(Debug, Clone)]
pub struct OpenHold {
    /// The project that is metered.
    pub project: ProjectId,
    /// The key that called.
    pub key: ApiKeyId,
    /// The public name of the model.
    pub model: Arc<str>,
    /// Money held.
    pub amount: Nano,
    /// Tokens held, input and output.
    pub tokens: i64,
    /// When it was admitted.
    pub since: UnixMs,
}

impl OrganizationHandle {
    /// Its lock, for the few lines of an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, OrganizationState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a recharge or refund that is durable.
    pub fn credit(&self, amount: Nano) {
        let state = &mut *self.lock();
        state.wallet.credit(amount);
        state.limits.queue.on_release(clock::monotonic_now());
    }

    /// Switches the wallet on or off for new calls.
    pub fn set_active(&self, active: bool) {
        self.lock().wallet.set_active(active);
    }

    /// Puts other limits in force; open holds are honoured, usage is kept.
    pub fn set_quota(&self, quota: Quota) {
        self.lock().limits.set_quota(quota);
    }

    /// Lets everyone who waits look again, after an edit.
    pub fn wake_all(&self) {
        self.lock().limits.queue.wake_all();
    }

    /// Where every window stands at `now`.
    pub fn usage_snapshot(&self, now: UnixMs) -> UsageSnapshot {
        UsageSnapshot::of(&mut self.lock().limits, now)
    }

    /// What open calls hold, in the order of their ids (which is that of time).
    pub fn holds(&self) -> Vec<(RequestLogId, OpenHold)> {
        let mut holds: Vec<_> =
            self.lock().open_holds.iter().map(|(id, hold)| (*id, hold.clone())).collect();
        holds.sort_by_key(|(id, _)| *id);
        holds
    }

    /// The sum of what open calls hold.
    pub fn held(&self) -> Nano {
        self.lock().wallet.held()
    }

    /// What the wallet holds, and the sum of what open calls hold: the same, always.
    pub fn held_amounts(&self) -> (Nano, Nano) {
        let state = self.lock();
        (state.wallet.held(), state.open_holds.values().map(|hold| hold.amount).sum())
    }
}
