//! The wait slot of a call: its position in at most one wait queue, given up on drop.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use crate::accounting::key_directory::Caller;
use crate::accounting::live_state::{
    KeySlot, OrganizationHandle, OrganizationState, ProjectHandle, ProjectState,
};
use crate::accounting::wait_queue::{Ticket, WaitQueue};
use crate::clock;
use crate::domain::limit::Level;
use crate::settings::admission::AdmissionSettings;

/// A call waits at most this many times `hold_wait`, even if amounts keep being returned.
const WAIT_FACTOR_MAX: u32 = 15;

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
    /// Starts the wait, in no queue yet.
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

    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The level whose queue contains the call.
    pub const fn queue_level(&self) -> Option<Level> {
        self.queue_level
    }

    /// Moves the call to the queue of `level`. False if that queue is full. The caller holds both locks.
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

    /// Leaves the queue. The caller holds both locks.
    pub fn leave(&mut self, project: &mut ProjectState, organization: &mut OrganizationState) {
        if let Some(level) = self.queue_level.take() {
            self.queue(level, project, organization).leave(self.ticket, clock::monotonic_now());
        }
    }

    /// True if nothing was returned for `hold_wait`, or the maximum wait is over.
    pub fn timed_out(&self, settings: &AdmissionSettings) -> bool {
        let Some(level) = self.queue_level else { return false };
        let now = clock::monotonic_now();
        let (mut project, mut organization) = (self.project.lock(), self.organization.lock());
        let queue = self.queue(level, &mut project, &mut organization);
        let deadline = queue.gives_up_at(self.ticket);
        deadline.min(self.ticket.since + settings.hold_wait * WAIT_FACTOR_MAX) <= now
    }

    /// Waits for a wake-up, at most `hold_wait`.
    pub async fn wait(&mut self, settings: &AdmissionSettings) {
        let signal = self.signal.notified();
        // On timeout the call checks again as after a wake-up.
        if tokio::time::timeout_at(self.next_check_at.into(), signal).await.is_err() {
            self.next_check_at = clock::monotonic_now() + settings.hold_wait;
        }
    }
}

/// A call that ends while it waits leaves its queue, so that it does not block the calls behind it.
impl Drop for WaitSlot {
    fn drop(&mut self) {
        if self.queue_level.is_some() {
            let (project, organization) =
                (Arc::clone(&self.project), Arc::clone(&self.organization));
            self.leave(&mut project.lock(), &mut organization.lock());
        }
    }
}
