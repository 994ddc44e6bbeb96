//! Presence: whether the client is still there, of a call that is read on when it has left.

use std::cell::Cell;
use std::time::Instant;

use crate::clock;

/// Whether a client is still there. Only calls that are read on without theirs have one.
#[derive(Debug)]
pub struct DisconnectTracker {
    drain_always: bool,
    is_forwarded: Cell<bool>,
    disconnected_at: Cell<Option<Instant>>,
    is_reported: Cell<bool>,
}

impl DisconnectTracker {
    /// A client that is there. `drains` says that the answer is read to its end, even where its
    /// usage is known before.
    pub const fn new(drain_always: bool) -> Self {
        Self {
            drain_always,
            is_forwarded: Cell::new(false),
            disconnected_at: Cell::new(None),
            is_reported: Cell::new(false),
        }
    }

    /// Whether the answer is read to its end, even where its usage is known before.
    pub const fn drain_always(&self) -> bool {
        self.drain_always
    }

    /// Whether the request was given to an upstream.
    pub const fn is_forwarded(&self) -> bool {
        self.is_forwarded.get()
    }

    /// Notes whether the request was given to an upstream.
    pub fn set_forwarded(&self, forwarded: bool) {
        self.is_forwarded.set(forwarded);
    }

    /// When the client left, if it has.
    pub const fn disconnected_at(&self) -> Option<Instant> {
        self.disconnected_at.get()
    }

    /// Notes that the client has left; gives when it was found to have.
    pub fn mark_disconnected(&self) -> Instant {
        let at = self.disconnected_at.get().unwrap_or_else(clock::monotonic_now);
        self.disconnected_at.set(Some(at));
        at
    }

    /// Whether the client has left and nobody asked since.
    pub fn take_unreported(&self) -> bool {
        self.disconnected_at.get().is_some() && !self.is_reported.replace(true)
    }
}
