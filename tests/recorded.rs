//! Recorded answers of providers: what is metered must be what was billed.
//!
//! The recordings are not part of the project. `METEOR_RECORDED` names their folder; without it
//! nothing is checked, and the test says so.

use std::path::Path;

use bytes::Bytes;
use meteor::dialect::endpoint::Dialect;
use meteor::dialect::meter::{BodyMeter, Reading, StreamMeter};
use meteor::domain::usage::{Unit, Usage};
use serde_json::Value;

/// How many bytes a read brings.
const PIECE_BYTES: usize = 777;

/// Recordings whose summary misses a part that their answer has: cached tokens beside the details,
/// and a modality that is a number.
const INCOMPLETE: [&str; 2] = ["moonshotai-reasoning", "test_generate_content_with_files"];

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn metered_usage_is_what_was_billed() {
    let Ok(folder) = std::env::var("METEOR_RECORDED") else {
        eprintln!("skipped: METEOR_RECORDED names no folder of recordings");
        return;
    };
    let folder = Path::new(&folder);
    let index = read(&folder.join("INDEX.json"));
    let (mut checked, mut faults) = (0, Vec::new());
    for entry in index.as_array().expect("a list") {
        let endpoint = entry["endpoint"].as_str().expect("an endpoint");
        let dialect = match endpoint.split_once('.').expect("a dialect and its call") {
            ("openai", "chat" | "embeddings") => Dialect::OpenAi,
            ("anthropic", _) => Dialect::Anthropic,
            ("gemini", _) => Dialect::Gemini,
            _ => continue,
        };
        let file = entry["file"].as_str().expect("a file");
        if INCOMPLETE.iter().any(|part| file.contains(part)) {
            continue;
        }
        let recording = read(&folder.join(file));
        let response = &recording["response"];
        let is_success = response["status"].as_u64().is_some_and(|status| status < 300);
        let Some(body) = response["body"].as_str().filter(|_| is_success) else { continue };
        let expected = billed(&recording["truth"]["norm"]);
        let metered = meter(dialect, body, &response["headers"]).reported;
        checked += 1;
        if metered != expected {
            faults
                .push(format!("{endpoint} {file}\n  metered {metered:?}\n  billed  {expected:?}"));
        }
    }
    eprintln!("{checked} recordings, {} faults", faults.len());
    assert!(faults.is_empty() && 0 < checked, "{}", faults.join("\n"));
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).expect("a recording");
    serde_json::from_slice(&text).expect("JSON")
}

fn meter(dialect: Dialect, body: &str, headers: &Value) -> Reading {
    let pieces = body.as_bytes().chunks(PIECE_BYTES);
    let media_type = headers["content-type"].as_str().unwrap_or_default();
    if media_type.starts_with("text/event-stream") {
        let mut meter = StreamMeter::new(dialect, false);
        for piece in pieces {
            meter.read(Bytes::copy_from_slice(piece));
        }
        meter.finish();
        return *meter.reading();
    }
    let mut meter = BodyMeter::new(dialect);
    for piece in pieces {
        meter.read(piece);
    }
    meter.reading()
}

/// What the recording says was billed; `None` when nothing.
fn billed(norm: &Value) -> Option<Usage> {
    let count = |key: &str| norm[key].as_u64().unwrap_or_default();
    let (mut input, mut output) = (count("input"), count("output").max(count("output_billed")));
    // What the totals leave out is billed on top.
    for iteration in norm["iterations"].as_array().into_iter().flatten() {
        if iteration["type"] == "advisor_message" {
            input += iteration["input"].as_u64().unwrap_or_default();
            output += iteration["output"].as_u64().unwrap_or_default();
        }
    }
    if input + output == 0 {
        return None;
    }
    let mut usage = Usage::tokens_of(input, output);
    for (unit, key) in [
        (Unit::CachedInputTokens, "cache_read"),
        (Unit::ReasoningTokens, "reasoning"),
        (Unit::CacheWrite5mTokens, "cache_write_5m"),
        (Unit::CacheWrite1hTokens, "cache_write_1h"),
        (Unit::WebSearches, "web_search"),
        (Unit::ToolUseInputTokens, "tool_use_input"),
        (Unit::InputAudioTokens, "audio_in"),
        (Unit::InputImageTokens, "image_in"),
        (Unit::OutputAudioTokens, "audio_out"),
        (Unit::OutputImageTokens, "image_out"),
    ] {
        usage = usage.with(unit, count(key));
    }
    // One provider calls the same tokens both written and read.
    let written = count("cache_write").min(input - count("cache_read"));
    Some(usage.with(Unit::CacheWriteTokens, written))
}
