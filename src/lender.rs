//! The lender interface: a lender moves shares of limits and wallets to a node, never copies them.
//!
//! A node admits calls from its slice. If the slice does not cover a call, the node requests more
//! from its lender, and only the lender's response makes a refusal final.

use crate::domain::counter::Exceeded;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::limit::Level;
use crate::domain::money::Nano;
use crate::domain::wallet::WalletShortfall;

/// A request for what a slice does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendRequest {
    /// Headroom under a limit.
    Limit {
        level: Level,
        /// The project of the call.
        project: ProjectId,
        /// The exceeded limit and by how much.
        exceeded: Exceeded,
    },
    /// Money from an organization's wallet.
    Money {
        organization: OrganizationId,
        /// The amount that the call needs.
        amount: Nano,
        /// Why the slice does not cover the amount.
        shortfall: WalletShortfall,
    },
}

/// The response of a lender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendResponse {
    /// The slice has grown; check again.
    Granted,
    /// Nothing is left to lend; the refusal is final.
    Exhausted,
}

/// Grants slices of limits and wallets to a node.
pub trait Lender {
    /// Requests what the node's slice does not cover. A granted share is in the node's slice before
    /// this returns.
    fn request(&self, request: &LendRequest) -> impl Future<Output = LendResponse>;
}
