//! The ledger: wallets and their records, the projection of the journal into the database, and the
//! checks that prove both.

pub mod read_barrier;
pub mod records;
pub mod wallets;
pub mod violation;
pub mod chain;
pub mod cross_checks;
pub mod chain_auditor;
pub mod finished_call;
pub mod batch;
pub mod late_results;
pub mod bulk_insert;
pub mod persist;
pub mod projector;
pub mod recovery;
pub mod journal_tail;
pub mod verify;

#[cfg(test)]
mod tests;
