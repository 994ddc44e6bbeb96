//! Metric names and descriptions. A test compares the names with docs/metrics.md.

use metrics::Unit::{Bytes, Count, Seconds};
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Finished calls, by `endpoint` and `outcome`.
pub const CALLS: &str = "meteor_calls_total";
/// Calls refused by the gateway, by `code`.
pub const REFUSALS: &str = "meteor_refusals_total";
/// Requests without a valid key.
pub const UNAUTHENTICATED: &str = "meteor_unauthenticated_total";
/// Units charged, by `unit`.
pub const USAGE: &str = "meteor_usage_total";
/// Money charged, in nano-units of the currency.
pub const SPEND_NANO: &str = "meteor_spend_nano_total";
/// Calls charged, by `rule` (usage, estimate, none).
pub const SETTLED: &str = "meteor_settled_total";
/// Calls that used more than their hold.
pub const OVERAGES: &str = "meteor_overages_total";
/// Settlements whose hold was unknown to the projector.
pub const LATE_SETTLEMENTS: &str = "meteor_late_settlements_total";
/// Calls that used a unit without a price.
pub const UNPRICED: &str = "meteor_unpriced_total";
/// Calls in flight that hold money.
pub const OPEN_HOLDS: &str = "meteor_open_holds";
/// Calls that wait for tokens or money held by calls in flight.
pub const WAITING_CALLS: &str = "meteor_waiting_calls";
/// Money held by calls in flight, in nano-units.
pub const OPEN_HOLDS_NANO: &str = "meteor_open_holds_nano";
/// Time spent in a `stage`: admit (arrival to forwarding), forward (to the first byte), relay.
pub const STAGE_SECONDS: &str = "meteor_stage_seconds";
/// Attempts on an `upstream`, by `result`.
pub const UPSTREAM_ATTEMPTS: &str = "meteor_upstream_attempts_total";
/// Whether the last attempt on an `upstream` got a response: 1 or 0.
pub const UPSTREAM_UP: &str = "meteor_upstream_up";
/// The circuit of an `upstream`: 0 closed, 1 half-open, 2 open.
pub const UPSTREAM_CIRCUIT: &str = "meteor_upstream_circuit";
/// How often the circuit of an `upstream` opened, or stayed open after a failed probe.
pub const UPSTREAM_CIRCUIT_OPENED: &str = "meteor_upstream_circuit_opened_total";
/// Responses of an `upstream` that were cut off after their head.
pub const UPSTREAM_INTERRUPTED: &str = "meteor_upstream_interrupted_total";
/// How often an `upstream` was skipped in favor of another.
pub const UPSTREAM_SKIPPED: &str = "meteor_upstream_skipped_total";
/// Time from a request to the head of its response, by `upstream`.
pub const UPSTREAM_FIRST_BYTE_SECONDS: &str = "meteor_upstream_first_byte_seconds";
/// Open client connections.
pub const CONNECTIONS: &str = "meteor_connections";
/// Whether the journal is writable: 1 or 0.
pub const JOURNAL_WRITABLE: &str = "meteor_journal_writable";
/// Journal bytes not projected yet.
pub const JOURNAL_BACKLOG_BYTES: &str = "meteor_journal_backlog_bytes";
/// Age of the oldest call in the projector's last batch.
pub const PROJECTOR_LAG_SECONDS: &str = "meteor_projector_lag_seconds";
/// Journal entries committed by the projector.
pub const PROJECTED_ENTRIES: &str = "meteor_projected_entries_total";
/// Calls whose log line was dropped because standard output was not read.
pub const CALL_LOG_DROPPED: &str = "meteor_call_log_dropped_total";
/// Ledger rows that the consistency check found to be wrong.
pub const LEDGER_VIOLATIONS: &str = "meteor_ledger_violations_total";
/// Wallet records that the consistency check has verified.
pub const LEDGER_RECORDS: &str = "meteor_ledger_checked_records_total";
/// Time since all chains were last verified to their ends.
pub const LEDGER_CHECK_AGE_SECONDS: &str = "meteor_ledger_check_age_seconds";
/// Always 1, with the running `version` as label.
pub const BUILD: &str = "meteor_build_info";

/// Histogram buckets of all durations.
const SECONDS_BUCKETS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
    10.0, 60.0, 600.0,
];

/// Installs the metrics recorder of this process and describes every metric. The returned handle
/// renders them.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!(CALLS, Count, "Finished calls.");
    describe_counter!(REFUSALS, Count, "Calls refused by the gateway.");
    describe_counter!(UNAUTHENTICATED, Count, "Requests without a valid key.");
    describe_counter!(USAGE, Count, "Units charged.");
    describe_counter!(SPEND_NANO, Count, "Money charged, in nano-units of the currency.");
    describe_counter!(SETTLED, Count, "Calls charged, by the rule that charged them.");
    describe_counter!(OVERAGES, Count, "Calls that used more than their hold.");
    describe_counter!(LATE_SETTLEMENTS, Count, "Settlements whose hold was unknown.");
    describe_counter!(UNPRICED, Count, "Calls that used a unit without a price.");
    describe_gauge!(OPEN_HOLDS, Count, "Calls in flight that hold money.");
    describe_gauge!(WAITING_CALLS, Count, "Calls that wait for held tokens or money.");
    describe_gauge!(OPEN_HOLDS_NANO, Count, "Money held by calls in flight, in nano-units.");
    describe_histogram!(STAGE_SECONDS, Seconds, "Time spent in a stage of a call.");
    describe_counter!(UPSTREAM_ATTEMPTS, Count, "Attempts on an upstream.");
    describe_gauge!(UPSTREAM_UP, Count, "Whether the last attempt got a response.");
    describe_gauge!(
        UPSTREAM_CIRCUIT,
        Count,
        "Circuit of an upstream: 0 closed, 1 half-open, 2 open."
    );
    describe_counter!(
        UPSTREAM_CIRCUIT_OPENED,
        Count,
        "How often the circuit of an upstream opened."
    );
    describe_counter!(UPSTREAM_INTERRUPTED, Count, "Responses of an upstream that were cut off.");
    describe_counter!(UPSTREAM_SKIPPED, Count, "How often an upstream was skipped.");
    describe_histogram!(UPSTREAM_FIRST_BYTE_SECONDS, Seconds, "Time to the head of a response.");
    describe_gauge!(CONNECTIONS, Count, "Open client connections.");
    describe_gauge!(JOURNAL_WRITABLE, Count, "Whether the journal is writable.");
    describe_gauge!(JOURNAL_BACKLOG_BYTES, Bytes, "Journal bytes not projected yet.");
    describe_gauge!(PROJECTOR_LAG_SECONDS, Seconds, "Age of the oldest call in the last batch.");
    describe_counter!(PROJECTED_ENTRIES, Count, "Journal entries projected.");
    describe_counter!(CALL_LOG_DROPPED, Count, "Calls whose log line was dropped.");
    describe_counter!(LEDGER_VIOLATIONS, Count, "Ledger rows found to be wrong.");
    describe_counter!(LEDGER_RECORDS, Count, "Wallet records verified.");
    describe_gauge!(LEDGER_CHECK_AGE_SECONDS, Seconds, "Time since the last complete check.");
    describe_gauge!(BUILD, Count, "The running version.");
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // Metrics without labels start at 0, so that an absence of errors is visible.
    for name in [
        UNAUTHENTICATED,
        SPEND_NANO,
        OVERAGES,
        LATE_SETTLEMENTS,
        PROJECTED_ENTRIES,
        CALL_LOG_DROPPED,
    ] {
        metrics::counter!(name).absolute(0);
    }
    for name in [UNPRICED, LEDGER_VIOLATIONS, LEDGER_RECORDS] {
        metrics::counter!(name).absolute(0);
    }
    for name in [CONNECTIONS, PROJECTOR_LAG_SECONDS] {
        metrics::gauge!(name).set(0.0);
    }
}
