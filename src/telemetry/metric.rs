//! Metrics by name. docs/metrics.md lists the same names; a test holds the two together.

use metrics::Unit::{Bytes, Count, Seconds};
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Calls that came to an end, by `endpoint` and `outcome`.
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
/// Calls that were settled though their hold was unknown.
pub const LATE_SETTLEMENTS: &str = "meteor_late_settlements_total";
/// Calls that used what has no price.
pub const UNPRICED: &str = "meteor_unpriced_total";
/// Calls that hold money now.
pub const OPEN_HOLDS: &str = "meteor_open_holds";
/// Calls that wait for what open calls hold.
pub const WAITING_CALLS: &str = "meteor_waiting_calls";
/// Money that open calls hold, in nano-units.
pub const OPEN_HOLDS_NANO: &str = "meteor_open_holds_nano";
/// Time spent in a `stage`: admit (arrival to forwarded), forward (to the first byte), relay.
pub const STAGE_SECONDS: &str = "meteor_stage_seconds";
/// Tries of an `upstream`, by `result`.
pub const UPSTREAM_TRIES: &str = "meteor_upstream_tries_total";
/// Whether the last try of an `upstream` was answered: 1 or 0.
pub const UPSTREAM_UP: &str = "meteor_upstream_up";
/// The circuit of an `upstream`: 0 closed, 1 half-open, 2 open.
pub const UPSTREAM_CIRCUIT: &str = "meteor_upstream_circuit";
/// How often the circuit of an `upstream` has opened, or stayed open after a probe.
pub const UPSTREAM_CIRCUIT_OPENED: &str = "meteor_upstream_circuit_opened_total";
/// Answers of an `upstream` that broke off after they had begun.
pub const UPSTREAM_CUT: &str = "meteor_upstream_cut_total";
/// How often an `upstream` was passed over for another.
pub const UPSTREAM_SKIPPED: &str = "meteor_upstream_skipped_total";
/// Time from a request to the head of its answer, by `upstream`.
pub const UPSTREAM_FIRST_BYTE_SECONDS: &str = "meteor_upstream_first_byte_seconds";
/// Client connections open now.
pub const CONNECTIONS: &str = "meteor_connections";
/// Whether calls can be written to the journal: 1 or 0.
pub const JOURNAL_WRITABLE: &str = "meteor_journal_writable";
/// Journal bytes that are not projected yet.
pub const JOURNAL_BACKLOG_BYTES: &str = "meteor_journal_backlog_bytes";
/// Age of the oldest call in the batch that the projector committed last.
pub const PROJECTOR_LAG_SECONDS: &str = "meteor_projector_lag_seconds";
/// Entries that the projector committed.
pub const PROJECTED_ENTRIES: &str = "meteor_projected_entries_total";
/// Calls whose log line was dropped, as nobody read the log.
pub const CALL_LOG_DROPPED: &str = "meteor_call_log_dropped_total";
/// Rows of the books that were found to be wrong.
pub const LEDGER_VIOLATIONS: &str = "meteor_ledger_violations_total";
/// Wallet records that the watch over the ledger has followed.
pub const LEDGER_RECORDS: &str = "meteor_ledger_checked_records_total";
/// Time since all chains were last followed to their ends.
pub const LEDGER_CHECK_AGE_SECONDS: &str = "meteor_ledger_check_age_seconds";
/// Always 1; the `version` that runs.
pub const BUILD: &str = "meteor_build_info";

/// Bounds of the buckets of every duration.
const SECONDS_BUCKETS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
    10.0, 60.0, 600.0,
];

/// Makes the recorder of this process and describes every metric; the handle renders them.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!(CALLS, Count, "Calls that came to an end.");
    describe_counter!(REFUSALS, Count, "Calls refused by the gateway.");
    describe_counter!(UNAUTHENTICATED, Count, "Requests without a valid key.");
    describe_counter!(USAGE, Count, "Units charged.");
    describe_counter!(SPEND_NANO, Count, "Money charged, in nano-units of the currency.");
    describe_counter!(SETTLED, Count, "Calls charged, by the rule that charged them.");
    describe_counter!(OVERAGES, Count, "Calls that used more than their hold.");
    describe_counter!(LATE_SETTLEMENTS, Count, "Calls settled though their hold was unknown.");
    describe_counter!(UNPRICED, Count, "Calls that used what has no price.");
    describe_gauge!(OPEN_HOLDS, Count, "Calls that hold money now.");
    describe_gauge!(WAITING_CALLS, Count, "Calls that wait for what open calls hold.");
    describe_gauge!(OPEN_HOLDS_NANO, Count, "Money that open calls hold, in nano-units.");
    describe_histogram!(STAGE_SECONDS, Seconds, "Time spent in a stage of a call.");
    describe_counter!(UPSTREAM_TRIES, Count, "Tries of an upstream.");
    describe_gauge!(UPSTREAM_UP, Count, "Whether the last try of an upstream was answered.");
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
    describe_counter!(UPSTREAM_CUT, Count, "Answers of an upstream that broke off.");
    describe_counter!(UPSTREAM_SKIPPED, Count, "How often an upstream was passed over.");
    describe_histogram!(UPSTREAM_FIRST_BYTE_SECONDS, Seconds, "Time to the head of an answer.");
    describe_gauge!(CONNECTIONS, Count, "Client connections open now.");
    describe_gauge!(JOURNAL_WRITABLE, Count, "Whether calls can be written to the journal.");
    describe_gauge!(JOURNAL_BACKLOG_BYTES, Bytes, "Journal bytes that are not projected yet.");
    describe_gauge!(PROJECTOR_LAG_SECONDS, Seconds, "Age of the oldest call projected last.");
    describe_counter!(PROJECTED_ENTRIES, Count, "Journal entries that were projected.");
    describe_counter!(CALL_LOG_DROPPED, Count, "Calls whose log line was dropped.");
    describe_counter!(LEDGER_VIOLATIONS, Count, "Rows of the books that are wrong.");
    describe_counter!(LEDGER_RECORDS, Count, "Wallet records that were checked.");
    describe_gauge!(LEDGER_CHECK_AGE_SECONDS, Seconds, "Time since the last complete check.");
    describe_gauge!(BUILD, Count, "The version that runs.");
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // What has no labels is there from the start, at 0: an absence of trouble can be seen.
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
