//! The lender of a single-node deployment, whose slice is the whole from the start.

use crate::lender::{LendRequest, LendResponse, Lender};

/// Grants nothing, because the node already holds every limit and wallet completely.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalLender;

impl Lender for LocalLender {
    async fn request(&self, _request: &LendRequest) -> LendResponse {
        LendResponse::Exhausted
    }
}
