//! Gate: what the end of an answer waits for.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::journal::writer::{Position, Writer};

/// What the end of an answer waits for: the settlement.
pub enum SettlementGate {
    /// Nothing, or no more.
    Open,
    /// That it is written.
    Written(Position),
    /// That it is durable.
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
    /// Opens when the journal is written up to `position`, or, if money was charged, durable.
    pub fn until(position: Position, is_charged: bool, writer: &Rc<Writer>) -> Self {
        if !is_charged || writer.is_durable_when_written() {
            return Self::Written(position);
        }
        let writer = Rc::clone(writer);
        Self::Durable(Box::pin(async move { writer.wait_durable(position).await }))
    }

    /// Resolves when it is open.
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
