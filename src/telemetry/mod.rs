//! What the gateway says of itself: metrics, and a line a call.

pub mod metric;
pub mod call_log;
