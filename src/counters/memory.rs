//! The lender of a node that is alone: its slice is everything from the start.

use crate::lender::{Answer, Ask, Lender};

/// Has nothing left to give, as the node's own books hold every right there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whole;

impl Lender for Whole {
    async fn lend(&self, _ask: &Ask) -> Answer {
        Answer::Exhausted
    }
}
