//! Generates `docs/routing-and-failover.md` from the table of upstream faults.

use crate::upstream_fault_table::{Charged, FAULTS, FaultRow, Observed};

const DOC_HEADER: &str = "# Routing and failover

Which upstream serves a call, and what happens when it fails. A test generates this page and checks each row of the table.

## Selection

A model has targets: upstreams, each with the model's name there, a `priority` and a `weight`. Targets with the lowest `priority` value come first. Among targets of equal priority one is drawn for each call by weight; the others follow, the heaviest first. `aliases` are additional names of a model: a call by an alias is logged, priced and authorized as the model, and a key that may use either name may use both.

The next target is tried if there is no connection, no response head within `first_byte_timeout_ms`, a 429, a 5xx, or a refusal of the gateway's own credential (401, 402, 403). All attempts share one hold and count as one request. After the first byte of a response has been sent to the client, no other target is tried. If every target fails, the client receives the last response.

A target is skipped, that is, tried only after all others:

- while the *circuit* of its upstream is open. The circuit opens after five consecutive failures, when more than half of at least twenty attempts in ten seconds have failed, or immediately when the upstream refuses the gateway's own credential. Failures are 5xx, timeouts, lost connections, and responses that are cut; 429 is not a failure. After one second a single call is let through as a probe; each failed probe doubles the time, up to one minute. A successful response closes the circuit. All of these values are settings of `circuit`.
- for one model, after a 429 or 5xx with `Retry-After` (or `retry-after-ms`), for that time, at most `retry_after_max_ms`.

Skipping never refuses a call: if no other target is left, a skipped one is tried. A model with a single upstream is not affected.

`connect_timeout_ms` limits the time to connect, `idle_timeout_ms` each pause of a response that has started. [Metrics](metrics.md) report attempts, circuits, skips and cuts.

## Faults

*Estimate* is the gateway's own count of the input and of the received output; *usage* is what the upstream reported. A cut is a connection that closes without the end that its framing promised, so that the client cannot mistake a part for the whole. A call that is not charged returns its hold; it counts as a request unless there was no connection.

| upstream behavior | client sees | charged | next target tried |
|---|---|---|---|
";

fn fault_table() -> String {
    let format_row = |row: &FaultRow| {
        let sees = match row.observed {
            Observed::UpstreamError(status) | Observed::GatewayError(status) => {
                format!("{status} from the gateway")
            }
            Observed::Relayed(status) => format!("{status}, relayed from the upstream"),
            Observed::Complete if row.charged == Charged::Usage => {
                "the complete response".to_owned()
            }
            Observed::Complete => "what was received, unchanged".to_owned(),
            Observed::Cut => "what was received, then a cut".to_owned(),
            Observed::AllButEnd => "every event, then a cut".to_owned(),
            Observed::Disconnects => "what is sent, until the client disconnects".to_owned(),
        };
        let charged = match row.charged {
            Charged::Nothing => "nothing",
            Charged::Usage => "usage",
            Charged::Estimate => "estimate",
        };
        let retried = if row.retried { "yes" } else { "no" };
        format!("| {} | {sees} | {charged} | {retried} |\n", row.name)
    };
    FAULTS.iter().map(format_row).collect()
}

#[test]
fn the_upstreams_page_matches_the_fault_table() {
    let expected_page = format!("{DOC_HEADER}{}", fault_table());
    let doc_path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routing-and-failover.md");
    if std::fs::read_to_string(doc_path).unwrap_or_default() != expected_page {
        std::fs::write(doc_path, &expected_page).expect("docs is writable");
        panic!(
            "docs/routing-and-failover.md was out of date and has been regenerated; review and commit it"
        );
    }
}
