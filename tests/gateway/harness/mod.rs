//! The test harness: an HTTP client, fake upstreams, tenants, the gateway processes and the
//! oracles.

pub mod wait;
pub mod json;
pub mod client;
pub mod upstream_connection;
pub mod upstream;
pub mod raw_upstream;
pub mod openai;
pub mod anthropic;
pub mod gemini;
pub mod price;
pub mod process;
pub mod callgrind;
pub mod strace;
pub mod demo;
pub mod tenant;
pub mod serve;
pub mod fault_shim;
pub mod usage_oracle;
pub mod limit_assertions;
pub mod media;
pub mod concurrent_load;
pub mod scenario_upstream;
pub mod selftest;
pub mod random_callers;
pub mod deployment;
pub mod ledger_snapshot;
pub mod reconcile;
pub mod exchange;
pub mod replay;
pub mod corpus;
