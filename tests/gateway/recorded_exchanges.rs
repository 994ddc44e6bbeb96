//! Replays recorded exchanges of other clients and providers: bodies and headers pass unchanged,
//! and the request log matches the billed usage.
//!
//! Without recordings the test is skipped and prints so. docs/compatibility.md contains the results for
//! the default recordings; `METEOR_WRITE=1` regenerates it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::corpus::{BILLING_EXCEPTIONS, Corpus, Recording, corpus_folder, load_corpus};
use crate::harness::exchange::ReplayMode;
use crate::harness::json::Json;
use crate::harness::replay::{ReplayGateway, ReplayResult};

/// Responses up to this size are also sent byte by byte.
const BYTES_MAX: usize = 8_000;

/// Minimum number of recordings.
const REPLAYED_MIN: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn recorded_exchanges_pass_unchanged_and_are_metered_as_billed() {
    let Some(folder) = corpus_folder() else {
        println!("skipped: no recordings; METEOR_RECORDED names their folder");
        return;
    };
    let Corpus { recordings, skipped: left_out } = load_corpus(&folder).await;
    assert!(REPLAYED_MIN <= recordings.len(), "only {} recordings", recordings.len());
    let seed = seed();
    println!("{} recordings; cut by METEOR_SEED={seed}", recordings.len());
    let exchanges = recordings.iter().map(|recording| recording.exchange.clone()).collect();
    let gateway = ReplayGateway::start(exchanges, seed).await;
    let runs = recordings.iter().enumerate().flat_map(|(index, recording)| {
        let is_short = recording.exchange.response_body.len() <= BYTES_MAX;
        let cuts =
            ReplayMode::ALL.into_iter().filter(move |cut| is_short || *cut != ReplayMode::Bytes);
        cuts.map(move |cut| (index, cut))
    });
    let mut replayed = gateway.replay(runs).await;
    let logs = gateway.tenant.logs().await;
    let logs: HashMap<String, &Json> =
        logs.iter().map(|log| (log.at("requestLogId").text(), log)).collect();
    for replay in &mut replayed {
        let recording = &recordings[replay.exchange];
        match logs.get(&replay.id) {
            Some(log) => replay.differences.extend(log_mismatches(recording, log)),
            None => replay.differences.push("the request log does not have it".to_owned()),
        }
    }
    let (faults, table) = report(&recordings, &replayed, &left_out);
    println!("{table}");
    let first = faults.iter().take(50).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} faults, of which:\n{first}", faults.len());
    gateway.tenant.assert_settled().await;
    if std::env::var_os("METEOR_RECORDED").is_none() {
        check_documentation(&table);
    }
}

/// Asserts that docs/compatibility.md contains this table, or writes it.
fn check_documentation(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = format!("{DOC_HEADER}{table}");
    if std::env::var_os("METEOR_WRITE").is_some() {
        fs::write(&path, &text).expect("docs can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/compatibility.md is out of date; METEOR_WRITE=1 with this test writes it"
    );
}

const DOC_HEADER: &str = "\
# Provider compatibility

Results of replaying recorded calls of other clients and providers through the gateway. \
`tests/gateway/recorded_exchanges.rs` generates this page and fails if a result changes. Each \
response is sent whole, split at random positions, compressed (as it was recorded, otherwise with \
each encoding in turn) and, up to 8,000 bytes, byte by byte; chat streams that requested usage are \
also replayed without that request. A replay passes if the client received every byte and the \
request log has the usage and the service tier that the provider reported. The recordings are not \
part of the project.

";

/// The seed from `METEOR_SEED`, or a random one.
fn seed() -> u64 {
    let variable = std::env::var("METEOR_SEED").ok();
    let variable = variable.map(|seed| seed.parse().expect("METEOR_SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    variable.unwrap_or(u64::from(now.subsec_nanos()))
}

/// The differences between the request log and the recording.
fn log_mismatches(recording: &Recording, log: &Json) -> Vec<String> {
    let mut faults = Vec::new();
    let status = recording.exchange.status;
    let outcome = if status == 200 && !recording.fails { "Completed" } else { "Failed" };
    for (field, wanted) in [("outcome", outcome), ("status", &*status.to_string())] {
        let got = log.at(field).to_string();
        if got.trim_matches('"') != wanted {
            faults.push(format!("{field} in the log is {got}, not {wanted}"));
        }
    }
    let is_plain = |tier: &str| ["", "default", "standard", "on_demand"].contains(&tier);
    if let (Some(wanted), Some(tier)) = (&recording.tier, log.find("serviceTier")) {
        let tier = if tier.is_null() { String::new() } else { tier.text() };
        if tier != *wanted && !(is_plain(&tier) && is_plain(wanted)) {
            faults.push(format!("the tier in the log is {tier}, not {wanted}"));
        }
    }
    let Some(billed) = &recording.billed else { return faults };
    let usage = log.at("usage");
    for (unit, wanted) in billed {
        let got = usage.at(unit).count();
        if got != *wanted {
            faults.push(format!("{unit} in the log are {got}, billed were {wanted}"));
        }
    }
    let settled_by = log.at("settledBy").text();
    if settled_by != "usage" {
        faults.push(format!("settled by {settled_by}, although the provider reported usage"));
    }
    faults
}

/// All differences, and a table of the results by provider and endpoint.
fn report(
    recordings: &[Recording],
    replayed: &[ReplayResult],
    left_out: &BTreeMap<String, usize>,
) -> (Vec<String>, String) {
    let mut kinds: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for recording in recordings.iter().filter(|recording| recording.is_original) {
        let [all, billed, ..] = kinds.entry(&recording.label).or_default();
        *all += 1;
        *billed += usize::from(recording.billed.is_some());
    }
    let mut faults = Vec::new();
    for replay in replayed {
        let recording = &recordings[replay.exchange];
        let [.., passed, failed] = kinds.entry(&recording.label).or_default();
        *if replay.differences.is_empty() { passed } else { failed } += 1;
        let name = &recording.exchange.name;
        let lines =
            replay.differences.iter().map(|fault| format!("{name} {:?}: {fault}", replay.mode));
        faults.extend(lines);
    }
    let mut table = "| provider | endpoint | responses | with usage | replays passed | failed |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for (kind, [all, billed, passed, failed]) in kinds {
        writeln!(table, "{kind} {all} | {billed} | {passed} | {failed} |").expect("a text");
    }
    table += "\nSkipped:\n\n| provider | endpoint | reason | responses |\n|---|---|---|---|\n";
    for (why, answers) in left_out {
        writeln!(table, "{why} {answers} |").expect("a text");
    }
    table += "\nCompared byte for byte, but not by usage:\n\n";
    for (part, reason) in BILLING_EXCEPTIONS {
        writeln!(table, "- `{part}`: {reason}").expect("a text");
    }
    (faults, table)
}
