//! The ledger on a real database: recovery, projection, and the proof of it all, tried on a store
//! that is sound and on those that are not.

pub mod recovery;
pub mod persist;
mod sound;
mod corruption;
