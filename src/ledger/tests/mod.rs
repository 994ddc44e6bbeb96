//! Tests of the ledger on a real database: recovery, projection, and verification of sound and
//! corrupted databases.

pub mod recovery;
pub mod persist;
mod sound;
mod corruption;
