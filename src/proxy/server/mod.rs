//! Listener, worker state, and calls that continue without a client.

pub mod in_flight;
pub mod detached_calls;
pub mod worker;
pub mod listener;
