//! Telemetry: metrics and the call log.

pub mod metric;
pub mod call_log;
