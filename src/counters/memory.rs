//! The lender of a node that is alone: its slice is everything from the start.

use crate::lender::{LendRequest, LendResponse, Lender};

/// Has nothing left to give, as the node's own books hold every right there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalLender;

impl Lender for LocalLender {
    async fn request(&self, _ask: &LendRequest) -> LendResponse {
        LendResponse::Exhausted
    }
}
