//! Recorded calls of other clients to other providers, replayed: bodies and headers come through as
//! they were sent, and the request log says what was billed.
//!
//! Without recordings this is skipped, and says so. How those fared that lie beside the project is
//! written down in docs/recorded.md; `METEOR_WRITE=1` writes it anew.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::corpus::{BILLING_EXCEPTIONS, Corpus, Recording, corpus_folder, load_corpus};
use crate::harness::exchange::ReplayMode;
use crate::harness::json::Json;
use crate::harness::replay::{ReplayGateway, ReplayResult};

/// Answers up to this long are sent byte by byte, too.
const BYTES_MAX: usize = 8_000;

/// The least number of recordings that are worth the name of a proof.
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
    let stage = ReplayGateway::start(exchanges, seed).await;
    let takes = recordings.iter().enumerate().flat_map(|(index, recording)| {
        let is_short = recording.exchange.response_body.len() <= BYTES_MAX;
        let cuts =
            ReplayMode::ALL.into_iter().filter(move |cut| is_short || *cut != ReplayMode::Bytes);
        cuts.map(move |cut| (index, cut))
    });
    let mut replayed = stage.replay(takes).await;
    let logs = stage.tenant.logs().await;
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
    stage.tenant.assert_settled().await;
    if std::env::var_os("METEOR_RECORDED").is_none() {
        check_documentation(&table);
    }
}

/// Of the recordings that lie beside the project, the table is kept.
fn check_documentation(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recorded.md");
    let text = format!("{DOC_HEADER}{table}");
    if std::env::var_os("METEOR_WRITE").is_some() {
        fs::write(&path, &text).expect("docs can be written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/recorded.md is out of date; METEOR_WRITE=1 with this test writes it"
    );
}

const DOC_HEADER: &str = "\
# Recorded answers

How recorded calls of other clients to other providers fared when they were replayed through the \
gateway; written by `tests/gateway/recorded.rs`, which fails where this is not so any more. Each \
answer is sent whole, cut anywhere, compressed (as it was recorded, or else in one of the codings \
in turn) and, up to 8,000 bytes, byte by byte; chat streams that asked for usage also as if they \
had not. It passes if the client received every byte, and the request log has the usage and the \
tier of service that the provider reported. The recordings are no part of the project.

";

/// From the environment where a run is to be repeated.
fn seed() -> u64 {
    let given = std::env::var("METEOR_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("METEOR_SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    given.unwrap_or(u64::from(now.subsec_nanos()))
}

/// What the request log has otherwise than the recording.
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
        faults.push(format!("settled by {settled_by}, though the provider told its usage"));
    }
    faults
}

/// All faults; and how each provider's endpoints fared, and what was not compared.
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
        let told =
            replay.differences.iter().map(|fault| format!("{name} {:?}: {fault}", replay.mode));
        faults.extend(told);
    }
    let mut table = "| provider | endpoint | answers | with usage | replays passed | failed |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for (kind, [all, billed, passed, failed]) in kinds {
        writeln!(table, "{kind} {all} | {billed} | {passed} | {failed} |").expect("a text");
    }
    table += "\nLeft out:\n\n| provider | endpoint | why | answers |\n|---|---|---|---|\n";
    for (why, answers) in left_out {
        writeln!(table, "{why} {answers} |").expect("a text");
    }
    table += "\nNot compared with the summary of its usage, only for its bytes:\n\n";
    for (part, reason) in BILLING_EXCEPTIONS {
        writeln!(table, "- `{part}`: {reason}").expect("a text");
    }
    (faults, table)
}
