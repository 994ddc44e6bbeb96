//! A turn: a call's place in a queue while it waits, given up whatever becomes of the call.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use crate::accounting::directory::Caller;
use crate::accounting::live_state::{
    KeySlot, OrganizationHandle, OrganizationState, ProjectHandle, ProjectState,
};
use crate::accounting::wait_queue::{Ticket, WaitQueue};
use crate::clock;
use crate::domain::limit::Level;
use crate::settings::admission::AdmissionSettings;

/// How many times its patience a call waits at most, though others keep being served.
const WAIT_FACTOR_MAX: u32 = 15;

/// A call's place in a queue.
#[derive(Debug)]
pub struct WaitSlot {
    project: Arc<ProjectHandle>,
    organization: Arc<OrganizationHandle>,
    key_slot: KeySlot,
    ticket: Ticket,
    queue_level: Option<Level>,
    signal: Arc<Notify>,
    next_check_at: Instant,
}

impl WaitSlot {
    /// A turn that begins now, in no queue yet.
    pub fn new(caller: &Caller, settings: &AdmissionSettings) -> Self {
        let now = clock::monotonic_now();
        Self {
            project: Arc::clone(&caller.project),
            organization: Arc::clone(&caller.organization),
            key_slot: caller.slot,
            ticket: Ticket::new(now),
            queue_level: None,
            signal: Arc::new(Notify::new()),
            next_check_at: now + settings.hold_wait,
        }
    }

    /// Its place in either queue.
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whose queue it waits in.
    pub const fn queue_level(&self) -> Option<Level> {
        self.queue_level
    }

    /// Waits in that queue, and in no other; both locks are held by the caller. False when the
    /// queue is full.
    pub fn enqueue(
        &mut self,
        level: Level,
        project: &mut ProjectState,
        organization: &mut OrganizationState,
        waiting_max: usize,
    ) -> bool {
        if self.queue_level == Some(level) {
            return true;
        }
        self.leave(project, organization);
        let queue = self.queue(level, project, organization);
        if waiting_max <= queue.len() {
            return false;
        }
        queue.join(self.ticket, Arc::clone(&self.signal));
        self.queue_level = Some(level);
        true
    }

    fn queue<'a>(
        &self,
        level: Level,
        project: &'a mut ProjectState,
        organization: &'a mut OrganizationState,
    ) -> &'a mut WaitQueue {
        match level {
            Level::Project => &mut project.limits.queue,
            Level::Key => &mut project.keys.limit_state(self.key_slot).queue,
            Level::Organization => &mut organization.limits.queue,
        }
    }

    /// Waits no longer; both locks are held by the caller.
    pub fn leave(&mut self, project: &mut ProjectState, organization: &mut OrganizationState) {
        if let Some(level) = self.queue_level.take() {
            self.queue(level, project, organization).leave(self.ticket, clock::monotonic_now());
        }
    }

    /// Whether the call has waited long enough: nothing came back for as long as its patience.
    pub fn timed_out(&self, settings: &AdmissionSettings) -> bool {
        let Some(level) = self.queue_level else { return false };
        let now = clock::monotonic_now();
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        let queue = self.queue(level, &mut project, &mut organization);
        let deadline = queue.gives_up_at(self.ticket);
        deadline.min(self.ticket.since + settings.hold_wait * WAIT_FACTOR_MAX) <= now
    }

    /// Sleeps until something came back that this call may be able to use, and at least once in
    /// `hold_wait`.
    pub async fn wait(&mut self, settings: &AdmissionSettings) {
        let signal = self.signal.notified();
        // The time being up is as good a reason to look as being told to.
        if tokio::time::timeout_at(self.next_check_at.into(), signal).await.is_err() {
            self.next_check_at = clock::monotonic_now() + settings.hold_wait;
        }
    }
}

/// A call that ends while it waits gives its place up: those behind it must not wait for it.
impl Drop for WaitSlot {
    fn drop(&mut self) {
        if self.queue_level.is_some() {
            let (project, organization) =
                (Arc::clone(&self.project), Arc::clone(&self.organization));
            self.leave(&mut project.lock(), &mut organization.lock());
        }
    }
}
