//! Live state: counters, holds and wallets in memory, with one lock per project and one per
//! organization.
//!
//! A thread that needs both locks takes that of the project first. No thread awaits while it holds
//! one.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use dashmap::DashMap;
use foldhash::fast::RandomState as FastHash;

use crate::accounting::input_token_cache::InputTokenCache;
use crate::accounting::limit_state::LimitState;
use crate::accounting::mutex::{Mutex, MutexGuard};
use crate::accounting::provider_state_index::ProviderStateIndex;
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

/// The live state of all projects and organizations of this node. Entries are never removed.
#[derive(Debug)]
pub struct LiveState {
    projects: DashMap<ProjectId, Arc<ProjectHandle>>,
    organizations: DashMap<OrganizationId, Arc<OrganizationHandle>>,
    admission: AdmissionSettings,
    input_cache: Arc<InputTokenCache>,
}

impl LiveState {
    pub fn new(admission: AdmissionSettings) -> Self {
        let (projects, organizations) = (DashMap::new(), DashMap::new());
        Self { projects, organizations, admission, input_cache: Arc::default() }
    }

    pub const fn input_cache(&self) -> &Arc<InputTokenCache> {
        &self.input_cache
    }

    pub const fn admission(&self) -> AdmissionSettings {
        self.admission
    }

    pub fn project(&self, id: ProjectId) -> Option<Arc<ProjectHandle>> {
        self.projects.get(&id).map(|handle| Arc::clone(&handle))
    }

    pub fn organization(&self, id: OrganizationId) -> Option<Arc<OrganizationHandle>> {
        self.organizations.get(&id).map(|handle| Arc::clone(&handle))
    }

    /// Returns the handle of a project; `open` creates its state on the first call.
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

    /// Returns the handle of an organization; `open` creates its state on the first call.
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

    pub fn all_organizations(&self) -> Vec<Arc<OrganizationHandle>> {
        self.organizations.iter().map(|handle| Arc::clone(&handle)).collect()
    }

    /// Returns the number of open holds and the sum of their amounts.
    pub fn open_holds(&self) -> (usize, Nano) {
        self.organizations.iter().fold((0, Nano::ZERO), |(count, sum), handle| {
            let state = handle.lock();
            (count + state.open_holds.len(), sum + state.wallet.held())
        })
    }

    /// Returns how many calls wait for tokens or money.
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

/// A project and its state.
#[derive(Debug)]
pub struct ProjectHandle {
    pub id: ProjectId,
    state: Mutex<ProjectState>,
}

/// The state behind the lock of a project.
#[derive(Debug)]
pub struct ProjectState {
    /// The limits of the project itself.
    pub limits: LimitState,
    /// The limits of its API keys.
    pub keys: KeyLimits,
    /// Objects that providers store for the project.
    pub provider_states: ProviderStateIndex,
}

/// Index of an API key in `KeyLimits`. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlot(usize);

/// The limits of a project's API keys.
#[derive(Debug, Default)]
pub struct KeyLimits {
    slots: HashMap<ApiKeyId, KeySlot, FastHash>,
    states: Vec<LimitState>,
}

impl KeyLimits {
    pub fn limit_state(&mut self, slot: KeySlot) -> &mut LimitState {
        &mut self.states[slot.0]
    }
}

/// The tightest limit on requests and the tightest on tokens.
pub type TightestLimits = [Option<Headroom>; 2];

/// Usage of all windows of a project or an organization at one instant.
#[derive(Debug, Clone, Copy)]
pub struct UsageSnapshot {
    pub quota: Quota,
    pub minute: WindowUsage,
    pub day: WindowUsage,
    /// The current month, including today.
    pub month: WindowUsage,
    pub month_window: Month,
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
    /// Locks the state. Hold the lock only for an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, ProjectState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the limits. Usage and open holds are kept.
    pub fn set_quota(&self, quota: Quota) {
        let state = &mut *self.lock();
        state.limits.set_quota(quota);
        for key in &mut state.keys.states {
            key.set_quota(Quota { limits: key.quota.limits, ..quota });
        }
    }

    /// Wakes all waiting calls after a change of configuration.
    pub fn wake_all(&self) {
        let state = self.lock();
        state.limits.queue.wake_all();
        state.keys.states.iter().for_each(|key| key.queue.wake_all());
    }

    /// Sets the limits of an API key; `open` creates its state on the first call. Reset day and
    /// enforcement are those of the project.
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

    /// Returns the usage of every window at `now`.
    pub fn usage_snapshot(&self, now: UnixMs) -> UsageSnapshot {
        UsageSnapshot::of(&mut self.lock().limits, now)
    }

    /// Returns the upstream that stores the object with this id.
    pub fn state_upstream(&self, id: &str, now: UnixMs) -> Option<Arc<str>> {
        let key = state_key(id);
        self.lock().provider_states.upstream(&key, now)
    }
}

/// An organization and its state.
#[derive(Debug)]
pub struct OrganizationHandle {
    pub id: OrganizationId,
    state: Mutex<OrganizationState>,
}

/// The state behind the lock of an organization.
#[derive(Debug)]
pub struct OrganizationState {
    /// The limits over all projects. Its queue also holds the calls that wait for money.
    pub limits: LimitState,
    pub wallet: Wallet,
    /// The open calls. The sum of their amounts equals the amount held by the wallet.
    pub open_holds: HashMap<RequestLogId, OpenHold, FastHash>,
}

/// Money and tokens reserved for one open call.
#[derive(Debug, Clone)]
pub struct OpenHold {
    pub project: ProjectId,
    pub key: ApiKeyId,
    /// Public name of the model.
    pub model: Arc<str>,
    pub amount: Nano,
    /// Input and output tokens.
    pub tokens: i64,
    /// Time of the admission.
    pub since: UnixMs,
}

impl OrganizationHandle {
    /// Locks the state. Hold the lock only for an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, OrganizationState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a recharge or refund that is already durable, and wakes waiting calls.
    pub fn credit(&self, amount: Nano) {
        let state = &mut *self.lock();
        state.wallet.credit(amount);
        state.limits.queue.on_release(clock::monotonic_now());
    }

    /// Enables or disables the wallet for new calls.
    pub fn set_active(&self, active: bool) {
        self.lock().wallet.set_active(active);
    }

    /// Replaces the limits. Usage and open holds are kept.
    pub fn set_quota(&self, quota: Quota) {
        self.lock().limits.set_quota(quota);
    }

    /// Wakes all waiting calls after a change of configuration.
    pub fn wake_all(&self) {
        self.lock().limits.queue.wake_all();
    }

    /// Returns the usage of every window at `now`.
    pub fn usage_snapshot(&self, now: UnixMs) -> UsageSnapshot {
        UsageSnapshot::of(&mut self.lock().limits, now)
    }

    /// Returns the open holds, oldest first: the ids are ordered by time.
    pub fn holds(&self) -> Vec<(RequestLogId, OpenHold)> {
        let mut holds: Vec<_> =
            self.lock().open_holds.iter().map(|(id, hold)| (*id, hold.clone())).collect();
        holds.sort_by_key(|(id, _)| *id);
        holds
    }

    /// Returns the amount that the wallet holds for open calls.
    pub fn held(&self) -> Nano {
        self.lock().wallet.held()
    }

    /// Returns the amount held by the wallet and the sum of the open holds, which must be equal.
    pub fn held_amounts(&self) -> (Nano, Nano) {
        let state = self.lock();
        (state.wallet.held(), state.open_holds.values().map(|hold| hold.amount).sum())
    }
}
