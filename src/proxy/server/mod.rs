//! Listeners, workers, and the calls that they have open.

pub mod in_flight;
pub mod detached;
pub mod worker;
pub mod listener;
