//! A turn: a call's place in a queue while it waits, given up whatever becomes of the call.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use crate::accounting::books::{
    KeySlot, OrganizationBook, OrganizationPage, ProjectBook, ProjectPage,
};
use crate::accounting::directory::Caller;
use crate::accounting::queue::{Queue, Ticket};
use crate::clock;
use crate::domain::limit::Level;
use crate::settings::admission::AdmissionSettings;

/// How many times its patience a call waits at most, though others keep being served.
const PATIENCE_MAX: u32 = 15;

/// A call's place in a queue.
#[derive(Debug)]
pub struct Turn {
    project: Arc<ProjectBook>,
    organization: Arc<OrganizationBook>,
    slot: KeySlot,
    ticket: Ticket,
    place: Option<Level>,
    signal: Arc<Notify>,
    looks_at: Instant,
}

impl Turn {
    /// A turn that begins now, in no queue yet.
    pub fn new(caller: &Caller, settings: &AdmissionSettings) -> Self {
        let now = clock::tick();
        Self {
            project: Arc::clone(&caller.project),
            organization: Arc::clone(&caller.organization),
            slot: caller.slot,
            ticket: Ticket::new(now),
            place: None,
            signal: Arc::new(Notify::new()),
            looks_at: now + settings.hold_wait,
        }
    }

    /// Its place in either queue.
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whose queue it waits in.
    pub const fn place(&self) -> Option<Level> {
        self.place
    }

    /// Waits in that queue, and in no other; both locks are held by the caller. False when the
    /// queue is full.
    pub fn wait_in(
        &mut self,
        place: Level,
        project: &mut ProjectPage,
        organization: &mut OrganizationPage,
        waiting_max: usize,
    ) -> bool {
        if self.place == Some(place) {
            return true;
        }
        self.leave(project, organization);
        let queue = self.queue(place, project, organization);
        if waiting_max <= queue.len() {
            return false;
        }
        queue.join(self.ticket, Arc::clone(&self.signal));
        self.place = Some(place);
        true
    }

    fn queue<'a>(
        &self,
        place: Level,
        project: &'a mut ProjectPage,
        organization: &'a mut OrganizationPage,
    ) -> &'a mut Queue {
        match place {
            Level::Project => &mut project.account.queue,
            Level::Key => &mut project.keys.account(self.slot).queue,
            Level::Organization => &mut organization.account.queue,
        }
    }

    /// Waits no longer; both locks are held by the caller.
    pub fn leave(&mut self, project: &mut ProjectPage, organization: &mut OrganizationPage) {
        if let Some(place) = self.place.take() {
            self.queue(place, project, organization).leave(self.ticket, clock::tick());
        }
    }

    /// Whether the call has waited long enough: nothing came back for as long as its patience.
    pub fn is_spent(&self, settings: &AdmissionSettings) -> bool {
        let Some(place) = self.place else { return false };
        let now = clock::tick();
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        let queue = self.queue(place, &mut project, &mut organization);
        let until = queue.patient_until(self.ticket);
        until.min(self.ticket.since + settings.hold_wait * PATIENCE_MAX) <= now
    }

    /// Sleeps until something came back that this call may be able to use, and at least once in
    /// `hold_wait`.
    pub async fn sleep(&mut self, settings: &AdmissionSettings) {
        let signal = self.signal.notified();
        // The time being up is as good a reason to look as being told to.
        if tokio::time::timeout_at(self.looks_at.into(), signal).await.is_err() {
            self.looks_at = clock::tick() + settings.hold_wait;
        }
    }
}

/// A call that ends while it waits gives its place up: those behind it must not wait for it.
impl Drop for Turn {
    fn drop(&mut self) {
        if self.place.is_some() {
            let (project, organization) =
                (Arc::clone(&self.project), Arc::clone(&self.organization));
            self.leave(&mut project.lock(), &mut organization.lock());
        }
    }
}
