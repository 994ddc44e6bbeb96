//! The books: counters and wallets in motion, one lock a project and one an organization.
//!
//! Whoever takes both takes the project's first. Nothing waits while holding either.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use dashmap::DashMap;
use foldhash::fast::RandomState as FastHash;

use crate::accounting::account::Account;
use crate::accounting::input::Inputs;
use crate::accounting::states::States;
use crate::accounting::sync::{Mutex, MutexGuard};
use crate::clock;
use crate::domain::counter::{Room, Tally};
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::{Limits, Window};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::time::{Month, UnixMs};
use crate::domain::wallet::Wallet;
use crate::settings::admission::AdmissionSettings;
use crate::store::provider_states::key;

/// All books of this node. Books are opened once and live as long as the process.
#[derive(Debug)]
pub struct Books {
    projects: DashMap<ProjectId, Arc<ProjectBook>>,
    organizations: DashMap<OrganizationId, Arc<OrganizationBook>>,
    admission: AdmissionSettings,
    inputs: Arc<Inputs>,
}

impl Books {
    /// No books yet.
    pub fn new(admission: AdmissionSettings) -> Self {
        let (projects, organizations) = (DashMap::new(), DashMap::new());
        Self { projects, organizations, admission, inputs: Arc::default() }
    }

    /// What is known of bodies that were counted.
    pub const fn inputs(&self) -> &Arc<Inputs> {
        &self.inputs
    }

    /// How calls are admitted near a limit.
    pub const fn admission(&self) -> AdmissionSettings {
        self.admission
    }

    /// The book of a project that was opened.
    pub fn project(&self, id: ProjectId) -> Option<Arc<ProjectBook>> {
        self.projects.get(&id).map(|book| Arc::clone(&book))
    }

    /// The book of an organization that was opened.
    pub fn organization(&self, id: OrganizationId) -> Option<Arc<OrganizationBook>> {
        self.organizations.get(&id).map(|book| Arc::clone(&book))
    }

    /// Opens a project's book, or returns the one that is open.
    pub fn open_project(&self, id: ProjectId, open: impl FnOnce() -> Account) -> Arc<ProjectBook> {
        let entry = self.projects.entry(id).or_insert_with(|| {
            let (account, keys) = (open(), KeyAccounts::default());
            let page = ProjectPage { account, keys, states: States::default() };
            Arc::new(ProjectBook { id, page: Mutex::new(page) })
        });
        Arc::clone(&entry)
    }

    /// Opens an organization's book, or returns the one that is open.
    pub fn open_organization(
        &self,
        id: OrganizationId,
        open: impl FnOnce() -> (Account, Wallet),
    ) -> Arc<OrganizationBook> {
        let entry = self.organizations.entry(id).or_insert_with(|| {
            let (account, wallet) = open();
            let page = OrganizationPage { account, wallet, open: HashMap::default() };
            Arc::new(OrganizationBook { id, page: Mutex::new(page) })
        });
        Arc::clone(&entry)
    }

    /// The books of all organizations that were opened.
    pub fn all_organizations(&self) -> Vec<Arc<OrganizationBook>> {
        self.organizations.iter().map(|book| Arc::clone(&book)).collect()
    }

    /// Every organization's open holds: how many, and their sum.
    pub fn open_holds(&self) -> (usize, Nano) {
        self.organizations.iter().fold((0, Nano::ZERO), |(count, sum), book| {
            let page = book.lock();
            (count + page.open.len(), sum + page.wallet.held())
        })
    }

    /// How many calls wait for tokens or money that others hold.
    pub fn waiting(&self) -> usize {
        let of_project = |page: &ProjectPage| {
            let of_keys = page.keys.accounts.iter().map(|key| key.queue.len());
            page.account.queue.len() + of_keys.sum::<usize>()
        };
        let projects: usize = self.projects.iter().map(|book| of_project(&book.lock())).sum();
        let organizations = self.organizations.iter().map(|book| book.lock().account.queue.len());
        projects + organizations.sum::<usize>()
    }
}

/// A project's account, and those of its keys.
#[derive(Debug)]
pub struct ProjectBook {
    /// Whose it is.
    pub id: ProjectId,
    page: Mutex<ProjectPage>,
}

/// What lies under a project's lock.
#[derive(Debug)]
pub struct ProjectPage {
    /// The project's own limits.
    pub account: Account,
    /// Those of its keys.
    pub keys: KeyAccounts,
    /// What providers keep for it.
    pub states: States,
}

/// Where a key's account stands among those of its project. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlot(usize);

/// The accounts of a project's keys.
#[derive(Debug, Default)]
pub struct KeyAccounts {
    slots: HashMap<ApiKeyId, KeySlot, FastHash>,
    accounts: Vec<Account>,
}

impl KeyAccounts {
    /// The account in that slot.
    pub fn account(&mut self, slot: KeySlot) -> &mut Account {
        &mut self.accounts[slot.0]
    }
}

/// The tightest limit on requests, and the tightest on tokens.
pub type Rooms = [Option<Room>; 2];

/// Where a project stands, all windows at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The limits in force.
    pub quota: Quota,
    /// The running minute.
    pub minute: Tally,
    /// Today.
    pub day: Tally,
    /// The running month, today included.
    pub month: Tally,
    /// Which month that is.
    pub month_window: Month,
    /// Calls open now.
    pub open_calls: i64,
}

impl Standing {
    fn of(account: &mut Account, now: UnixMs) -> Self {
        account.counters.roll(now);
        let counters = &account.counters;
        Self {
            quota: account.quota,
            minute: counters.tally(Window::Minute),
            day: counters.tally(Window::Day),
            month: counters.tally(Window::Month),
            month_window: counters.month(),
            open_calls: counters.open_calls(),
        }
    }
}

impl ProjectBook {
    /// Its lock, for the few lines of an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, ProjectPage> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other limits in force; open holds are honoured, usage is kept.
    pub fn set_quota(&self, quota: Quota) {
        let page = &mut *self.lock();
        page.account.set_quota(quota);
        for key in &mut page.keys.accounts {
            key.set_quota(Quota { limits: key.quota.limits, ..quota });
        }
    }

    /// Lets everyone who waits look again, after an edit.
    pub fn wake_all(&self) {
        let page = self.lock();
        page.account.queue.wake_all();
        page.keys.accounts.iter().for_each(|key| key.queue.wake_all());
    }

    /// Opens a key's account, or puts other limits into the one that is open. Its month, and
    /// whether its limits are enforced, are the project's.
    pub fn set_key(
        &self,
        key: ApiKeyId,
        limits: Limits,
        open: impl FnOnce(Quota) -> Account,
    ) -> KeySlot {
        let page = &mut *self.lock();
        let quota = Quota { limits, ..page.account.quota };
        if let Some(slot) = page.keys.slots.get(&key).copied() {
            page.keys.account(slot).set_quota(quota);
            return slot;
        }
        let slot = KeySlot(page.keys.accounts.len());
        page.keys.accounts.push(open(quota));
        page.keys.slots.insert(key, slot);
        slot
    }

    /// Where every window stands at `now`.
    pub fn standing(&self, now: UnixMs) -> Standing {
        Standing::of(&mut self.lock().account, now)
    }

    /// The upstream that gave the project this id of state, and keeps what it names.
    pub fn keeper(&self, id: &str, now: UnixMs) -> Option<Arc<str>> {
        let key = key(id);
        self.lock().states.upstream(&key, now)
    }
}

/// An organization's account and wallet, and the calls that hold a part of it.
#[derive(Debug)]
pub struct OrganizationBook {
    /// Whose it is.
    pub id: OrganizationId,
    page: Mutex<OrganizationPage>,
}

/// What lies under an organization's lock.
#[derive(Debug)]
pub struct OrganizationPage {
    /// The limits over all projects, and who waits for them or for money of the wallet.
    pub account: Account,
    /// The money in motion.
    pub wallet: Wallet,
    /// Who holds it: the sum of their amounts is what the wallet holds.
    pub open: HashMap<RequestLogId, OpenHold, FastHash>,
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

impl OrganizationBook {
    /// Its lock, for the few lines of an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, OrganizationPage> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a recharge or refund that is durable.
    pub fn fund(&self, amount: Nano) {
        let page = &mut *self.lock();
        page.wallet.fund(amount);
        page.account.queue.released(clock::tick());
    }

    /// Switches the wallet on or off for new calls.
    pub fn set_active(&self, active: bool) {
        self.lock().wallet.set_active(active);
    }

    /// Puts other limits in force; open holds are honoured, usage is kept.
    pub fn set_quota(&self, quota: Quota) {
        self.lock().account.set_quota(quota);
    }

    /// Lets everyone who waits look again, after an edit.
    pub fn wake_all(&self) {
        self.lock().account.queue.wake_all();
    }

    /// Where every window stands at `now`.
    pub fn standing(&self, now: UnixMs) -> Standing {
        Standing::of(&mut self.lock().account, now)
    }

    /// What open calls hold, in the order of their ids (which is that of time).
    pub fn holds(&self) -> Vec<(RequestLogId, OpenHold)> {
        let mut holds: Vec<_> =
            self.lock().open.iter().map(|(id, hold)| (*id, hold.clone())).collect();
        holds.sort_by_key(|(id, _)| *id);
        holds
    }

    /// The sum of what open calls hold.
    pub fn frozen(&self) -> Nano {
        self.lock().wallet.held()
    }

    /// What the wallet holds, and the sum of what open calls hold: the same, always.
    pub fn held_twice(&self) -> (Nano, Nano) {
        let page = self.lock();
        (page.wallet.held(), page.open.values().map(|hold| hold.amount).sum())
    }
}
