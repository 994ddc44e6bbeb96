//! The one trait of escrow: rights to spend are moved from a lender to a node, never copied.
//!
//! A node admits from the slice it holds. What its slice does not cover, it asks its lender for;
//! only the lender's answer makes a refusal final.

use crate::domain::counter::Exceeded;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::limit::Level;
use crate::domain::money::Nano;
use crate::domain::wallet::WalletShortfall;

/// What a slice did not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendRequest {
    /// Room under a limit.
    Limit {
        /// Whose limit.
        level: Level,
        /// The project that called.
        project: ProjectId,
        /// Which limit, and by how much.
        exceeded: Exceeded,
    },
    /// Money of an organization's wallet.
    Money {
        /// Whose wallet.
        organization: OrganizationId,
        /// How much the call needs.
        amount: Nano,
        /// Why the slice does not cover it.
        shortfall: WalletShortfall,
    },
}

/// A lender's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LendResponse {
    /// The slice has grown: look again.
    Granted,
    /// Nobody holds what is missing: the refusal is final.
    Exhausted,
}

/// Who gives slices.
pub trait Lender {
    /// Asks for what a slice did not cover. A granted right is the node's before this returns.
    fn request(&self, ask: &LendRequest) -> impl Future<Output = LendResponse>;
}
