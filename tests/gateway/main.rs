//! Tests of the real binary through real sockets, with a fake upstream that can misbehave.
//!
//! Nothing in this crate names the crate under test. Expected behaviour is implemented a second
//! time in the harness: responses of each dialect, prices, the ledger and what passes through
//! unmodified.
#![expect(
    clippy::disallowed_methods,
    reason = "tests read clocks and start tasks directly; the rules for `src` do not apply here"
)]

mod harness;
// One topic per file.
mod admin;
mod audio;
mod secondary_models;
mod calendar;
mod catalog;
mod quota_changes;
mod compression;
mod coding_agents;
mod cost;
mod crash_recovery;
mod crash_table;
mod disk_faults;
mod dialect_routing;
mod metering_edge_cases;
mod config_changes;
mod call_endings;
mod failover;
mod connection_faults;
mod hostile_framing;
mod hidden_input_tokens;
mod holds;
mod hostile_requests;
mod images;
mod kill_9;
mod disconnect_basic;
mod disconnect_every_event;
mod lifecycle;
mod limits;
mod connection_reuse;
mod large_bodies;
mod upstream_fault_page;
mod upstream_fault_table;
mod upstream_faults;
mod near_limit;
mod idempotency;
mod price_overrides;
mod price_oracle;
mod crash_points;
mod wait_queue;
mod panics;
mod wallet_concurrency;
mod power_loss;
mod quotas;
mod drain_after_disconnect;
mod drain_and_shutdown;
mod recorded_exchanges;
mod refunds;
mod openai_responses;
mod refusals;
mod authorization_matrix;
mod upstream_selection;
mod sdk;
mod secrets;
mod first_run;
mod concurrency_limit;
mod stalled_clients;
mod provider_state;
mod streaming;
mod stream_memory;
mod tls;
mod upstream_requests;
mod verify_ledger;
mod hold_wait;
mod handwritten_exchanges;
