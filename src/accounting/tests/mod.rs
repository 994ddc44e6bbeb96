//! Tests of admission without sockets.

mod test_node;
mod admission;
mod wait_queue;
mod disconnect;
mod directory;
mod live_state;
mod wakeups;
mod concurrent_workers;
#[cfg(feature = "interleave")]
mod interleave;
