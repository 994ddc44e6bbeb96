//! Tracks whether the client of a call has disconnected, for calls that are drained afterwards.

use std::cell::Cell;
use std::time::Instant;

use crate::clock;

/// Shared by the task of a call and its response body. Only calls that may be drained have one.
#[derive(Debug)]
pub struct DisconnectTracker {
    drain_always: bool,
    is_forwarded: Cell<bool>,
    disconnected_at: Cell<Option<Instant>>,
    is_reported: Cell<bool>,
}

impl DisconnectTracker {
    /// With `drain_always` the response is read to its end even if its usage is already complete.
    pub const fn new(drain_always: bool) -> Self {
        Self {
            drain_always,
            is_forwarded: Cell::new(false),
            disconnected_at: Cell::new(None),
            is_reported: Cell::new(false),
        }
    }

    pub const fn drain_always(&self) -> bool {
        self.drain_always
    }

    pub const fn is_forwarded(&self) -> bool {
        self.is_forwarded.get()
    }

    pub fn set_forwarded(&self, forwarded: bool) {
        self.is_forwarded.set(forwarded);
    }

    pub const fn disconnected_at(&self) -> Option<Instant> {
        self.disconnected_at.get()
    }

    /// Records the disconnect. Returns the instant of the first record.
    pub fn mark_disconnected(&self) -> Instant {
        let at = self.disconnected_at.get().unwrap_or_else(clock::monotonic_now);
        self.disconnected_at.set(Some(at));
        at
    }

    /// Returns true one time after the client has disconnected.
    pub fn take_unreported(&self) -> bool {
        self.disconnected_at.get().is_some() && !self.is_reported.replace(true)
    }
}
