//! Presence: whether the client is still there, of a call that is read on when it has left.

use std::cell::Cell;
use std::time::Instant;

use crate::clock;

/// Whether a client is still there. Only calls that are read on without theirs have one.
#[derive(Debug)]
pub struct Presence {
    drains: bool,
    is_forwarded: Cell<bool>,
    left: Cell<Option<Instant>>,
    is_noted: Cell<bool>,
}

impl Presence {
    /// A client that is there. `drains` says that the answer is read to its end, even where its
    /// usage is known before.
    pub const fn new(drains: bool) -> Self {
        Self {
            drains,
            is_forwarded: Cell::new(false),
            left: Cell::new(None),
            is_noted: Cell::new(false),
        }
    }

    /// Whether the answer is read to its end, even where its usage is known before.
    pub const fn drains(&self) -> bool {
        self.drains
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
    pub const fn left(&self) -> Option<Instant> {
        self.left.get()
    }

    /// Notes that the client has left; gives when it was found to have.
    pub fn leave(&self) -> Instant {
        let left = self.left.get().unwrap_or_else(clock::tick);
        self.left.set(Some(left));
        left
    }

    /// Whether the client has left and nobody asked since.
    pub fn is_news(&self) -> bool {
        self.left.get().is_some() && !self.is_noted.replace(true)
    }
}
