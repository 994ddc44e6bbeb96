//! Holds the end of a response until its settlement is in the journal.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::journal::writer::{Position, Writer};

/// What the end of a response waits for.
pub enum SettlementGate {
    /// Nothing.
    Open,
    /// The journal is written up to this position.
    Written(Position),
    /// The settlement is durable.
    Durable(Pin<Box<dyn Future<Output = ()>>>),
}

impl std::fmt::Debug for SettlementGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Written(_) => "Written",
            Self::Durable(_) => "Durable",
        })
    }
}

impl SettlementGate {
    /// Returns a gate that opens when `position` is written or, if money was charged, durable.
    pub fn until(position: Position, is_charged: bool, writer: &Rc<Writer>) -> Self {
        if !is_charged || writer.is_durable_when_written() {
            return Self::Written(position);
        }
        let writer = Rc::clone(writer);
        Self::Durable(Box::pin(async move { writer.wait_durable(position).await }))
    }

    /// Resolves when the gate is open.
    pub fn poll(&mut self, writer: &Writer, context: &mut Context<'_>) -> Poll<()> {
        ready!(match self {
            Self::Open => return Poll::Ready(()),
            Self::Written(position) => writer.poll_written(*position, context),
            Self::Durable(durable) => durable.as_mut().poll(context),
        });
        *self = Self::Open;
        Poll::Ready(())
    }
}
