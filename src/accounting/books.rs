//! The books: counters and wallets in motion, one lock a project and one an organization.
//!
//! Whoever takes both takes the project's first. Nothing waits while holding either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use foldhash::fast::RandomState as FastHash;

use crate::domain::counter::{Counters, Room, Tally};
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::{Measure, Window};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::time::{Month, UnixMs};
use crate::domain::wallet::Wallet;

/// All books of this node. Books are opened once and live as long as the process.
#[derive(Debug, Default)]
pub struct Books {
    projects: DashMap<ProjectId, Arc<ProjectBook>>,
    organizations: DashMap<OrganizationId, Arc<OrganizationBook>>,
}

impl Books {
    /// The book of a project that was opened.
    pub fn project(&self, id: ProjectId) -> Option<Arc<ProjectBook>> {
        self.projects.get(&id).map(|book| Arc::clone(&book))
    }

    /// The book of an organization that was opened.
    pub fn organization(&self, id: OrganizationId) -> Option<Arc<OrganizationBook>> {
        self.organizations.get(&id).map(|book| Arc::clone(&book))
    }

    /// Opens a project's book, or returns the one that is open.
    pub fn open_project(
        &self,
        id: ProjectId,
        open: impl FnOnce() -> (Quota, Counters),
    ) -> Arc<ProjectBook> {
        let entry = self.projects.entry(id).or_insert_with(|| {
            let (quota, counters) = open();
            Arc::new(ProjectBook { id, page: Mutex::new(ProjectPage { quota, counters }) })
        });
        Arc::clone(&entry)
    }

    /// Opens an organization's book, or returns the one that is open.
    pub fn open_organization(
        &self,
        id: OrganizationId,
        open: impl FnOnce() -> Wallet,
    ) -> Arc<OrganizationBook> {
        let entry = self.organizations.entry(id).or_insert_with(|| {
            let page = OrganizationPage { wallet: open(), open: HashMap::default() };
            Arc::new(OrganizationBook { id, page: Mutex::new(page) })
        });
        Arc::clone(&entry)
    }

    /// Every organization's open holds: how many, and their sum.
    pub fn open_holds(&self) -> (usize, Nano) {
        self.organizations.iter().fold((0, Nano::ZERO), |(count, sum), book| {
            let page = book.lock();
            (count + page.open.len(), sum + page.wallet.held())
        })
    }
}

/// A project's quota and counters.
#[derive(Debug)]
pub struct ProjectBook {
    /// Whose it is.
    pub id: ProjectId,
    page: Mutex<ProjectPage>,
}

/// What lies under a project's lock.
#[derive(Debug)]
pub struct ProjectPage {
    /// The limits in force.
    pub quota: Quota,
    /// Where their windows stand.
    pub counters: Counters,
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

impl ProjectPage {
    /// The tightest limits on requests and on tokens, as the counters stand.
    pub fn rooms(&self) -> Rooms {
        let room = |measure| self.counters.tightest(&self.quota.limits, measure);
        [room(Measure::Requests), room(Measure::Tokens)]
    }
}

impl ProjectBook {
    /// Its lock, for the few lines of an admission or a settlement.
    pub fn lock(&self) -> MutexGuard<'_, ProjectPage> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other limits in force; open holds are honoured, usage is kept.
    pub fn set_quota(&self, quota: Quota) {
        let mut page = self.lock();
        page.quota = quota;
        page.counters.set_reset_day(quota.reset_day);
    }

    /// The tightest limits at `now`.
    pub fn rooms(&self, now: UnixMs) -> Rooms {
        let mut page = self.lock();
        page.counters.roll(now);
        page.rooms()
    }

    /// Where every window stands at `now`.
    pub fn standing(&self, now: UnixMs) -> Standing {
        let mut page = self.lock();
        page.counters.roll(now);
        let counters = &page.counters;
        Standing {
            quota: page.quota,
            minute: counters.tally(Window::Minute),
            day: counters.tally(Window::Day),
            month: counters.tally(Window::Month),
            month_window: counters.month(),
            open_calls: counters.open_calls(),
        }
    }
}

/// An organization's wallet and the calls that hold a part of it.
#[derive(Debug)]
pub struct OrganizationBook {
    /// Whose it is.
    pub id: OrganizationId,
    page: Mutex<OrganizationPage>,
}

/// What lies under an organization's lock.
#[derive(Debug)]
pub struct OrganizationPage {
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
        self.lock().wallet.fund(amount);
    }

    /// Switches the wallet on or off for new calls.
    pub fn set_active(&self, active: bool) {
        self.lock().wallet.set_active(active);
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
}
