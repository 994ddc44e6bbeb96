//! Recorded calls of other clients to other providers, replayed: bodies and headers come through as
//! they were sent, and the request log says what was billed.
//!
//! The recordings are no part of the project. `METEOR_RECORDED` names their folder, or they lie at
//! `../shared/data/recorded`; without them this is skipped, and says so.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::exchange::{Cut, Exchange};
use crate::json::Json;
use crate::replay::{Replayed, Stage};

/// Answers up to this long are sent byte by byte, too.
const BYTES_MAX: usize = 8_000;

/// The least number of recordings that are worth the name of a proof.
const REPLAYED_MIN: usize = 200;

/// Recordings whose summary is not what this one answer costs, each with the reason.
const NOT_BILLED_SO: [(&str, &str); 6] = [
    ("moonshotai-reasoning", "it lacks the cached tokens, which stand beside the details"),
    ("test_generate_content_with_files", "it lacks a modality that is told as a number"),
    ("test_generate_content_with_file_uri_image_True", "the provider left the input out"),
    ("anthropic-tool-search-deferred-regex", SEVERAL),
    ("anthropic-tool-search-regex.1", SEVERAL),
    ("anthropic-tool-search-bm25.1", SEVERAL),
];
const SEVERAL: &str = "it tells of the last of several answers, which were pasted into one body";

/// Headers of answers that are about the call and must come back.
const COMING_BACK: [&str; 9] = [
    "content-type",
    "openai-processing-ms",
    "openai-version",
    "openai-model",
    "server-timing",
    "x-ms-region",
    "x-ms-rai-invoked",
    "x-should-retry",
    "retry-after",
];

struct Recording {
    /// Provider and endpoint.
    kind: String,
    exchange: Exchange,
    /// What was billed, by unit; nothing where the provider did not say.
    billed: Option<BTreeMap<&'static str, u64>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_passes_byte_for_byte_and_is_metered_as_billed() {
    let Some(folder) = folder() else {
        println!("skipped: no recordings; METEOR_RECORDED names their folder");
        return;
    };
    let recordings = recordings(&folder);
    assert!(REPLAYED_MIN <= recordings.len(), "only {} recordings", recordings.len());
    let seed = seed();
    println!("{} recordings; cut by METEOR_SEED={seed}", recordings.len());
    let exchanges = recordings.iter().map(|recording| recording.exchange.clone()).collect();
    let stage = Stage::start(exchanges, seed).await;
    let takes = recordings.iter().enumerate().flat_map(|(index, recording)| {
        let is_short = recording.exchange.answer.len() <= BYTES_MAX;
        let cuts = Cut::ALL.into_iter().filter(move |cut| is_short || *cut != Cut::Bytes);
        cuts.map(move |cut| (index, cut))
    });
    let mut replayed = stage.replay(takes).await;
    let logs = stage.tenant.logs().await;
    let logs: HashMap<String, &Json> =
        logs.iter().map(|log| (log.at("requestLogId").text(), log)).collect();
    for replay in &mut replayed {
        let recording = &recordings[replay.exchange];
        match logs.get(&replay.id) {
            Some(log) => replay.faults.extend(misread(recording, log)),
            None => replay.faults.push("the request log does not have it".to_owned()),
        }
    }
    let faults = report(&recordings, &replayed);
    let first = faults.iter().take(50).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} faults, of which:\n{first}", faults.len());
    stage.tenant.at_rest().await;
}

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("METEOR_RECORDED").map(PathBuf::from);
    let is_named = named.is_some();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/recorded");
    let folder = named.unwrap_or(beside);
    let is_there = folder.join("INDEX.json").exists();
    assert!(is_there || !is_named, "METEOR_RECORDED: no INDEX.json in {}", folder.display());
    is_there.then_some(folder)
}

/// From the environment where a run is to be repeated.
fn seed() -> u64 {
    let given = std::env::var("METEOR_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("METEOR_SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    given.unwrap_or(u64::from(now.subsec_nanos()))
}

fn read(path: &Path) -> Json {
    Json::new(&fs::read_to_string(path).expect("a recording"))
}

/// All whose endpoint the gateway serves.
fn recordings(folder: &Path) -> Vec<Recording> {
    let entries = read(&folder.join("INDEX.json")).list();
    let mut own_credential = 0;
    let served = entries.iter().filter_map(|entry| {
        let endpoint = entry.at("endpoint").text();
        path(&endpoint, "m")?;
        // What a provider says of the gateway's own credential is not for the client.
        if [401, 402, 403].contains(&entry.at("status").count()) {
            own_credential += 1;
            return None;
        }
        let file = entry.at("file").text();
        let recorded = read(&folder.join(&file));
        Some(Recording {
            kind: format!("{:18} {endpoint}", entry.at("provider").text()),
            billed: billed(&file, &recorded),
            exchange: exchange(file, &endpoint, &recorded),
        })
    });
    let served: Vec<Recording> =
        served.flat_map(|own| [unasked(&own), Some(own)]).flatten().collect();
    println!("{own_credential} left out: the provider refuses a credential");
    served
}

/// The same from a client that did not want to hear of usage, where this one did.
fn unasked(recording: &Recording) -> Option<Recording> {
    let exchange = &recording.exchange;
    let body = Json::new(&exchange.body);
    let is_stream = body.find("stream").is_some_and(|stream| stream.is_true());
    let options = body.find("stream_options")?.to_string();
    (is_stream && options.contains("true")).then(|| Recording {
        kind: format!("{}, unasked", recording.kind),
        exchange: Exchange {
            body: exchange.body.replacen(&options, r#"{ "include_usage" : false }"#, 1),
            ..exchange.clone()
        },
        billed: recording.billed.clone(),
    })
}

/// Where the gateway serves an endpoint.
fn path(endpoint: &str, model: &str) -> Option<String> {
    Some(match endpoint.split_once('.')? {
        ("openai", "chat") => "/v1/chat/completions".to_owned(),
        ("openai", "embeddings") => "/v1/embeddings".to_owned(),
        ("anthropic", "messages") => "/v1/messages".to_owned(),
        ("gemini", verb) => format!("/v1beta/models/{model}:{verb}"),
        _ => return None,
    })
}

fn exchange(file: String, endpoint: &str, recorded: &Json) -> Exchange {
    let model = recorded.find("path").filter(|path| !path.is_null()).and_then(|path| {
        let path = path.text();
        let (model, _) = path.split_once("/models/")?.1.split_once(':')?;
        Some(model.to_owned())
    });
    let mut target = path(endpoint, model.as_deref().unwrap_or("gemini")).expect("it is served");
    let query = recorded.at("query").text();
    if !query.is_empty() {
        target = format!("{target}?{query}");
    }
    let stream = recorded.at("stream").is_true();
    let body = recorded.at("request.body");
    let body = if body.is_null() { unrecorded(endpoint, stream) } else { body.to_string() };
    let sent = recorded.at("request.headers");
    let headers =
        ["accept", "accept-encoding", "content-type", "anthropic-version", "anthropic-beta"];
    let headers = headers.into_iter().filter_map(|name| {
        let value = sent.find(name).map(|value| value.text())?;
        Some((name.to_owned(), value))
    });
    let told = recorded.at("response.headers");
    let answer_headers = COMING_BACK.into_iter().filter_map(|name| {
        let value = told.find(name).map(|value| value.text())?;
        Some((name, value))
    });
    Exchange {
        target,
        headers: headers.collect(),
        body,
        status: u16::try_from(recorded.at("response.status").count()).expect("a status"),
        answer_headers: answer_headers.collect(),
        answer: recorded.at("response.body").text(),
        name: file,
    }
}

/// The request for an answer of which nobody recorded what was asked.
fn unrecorded(endpoint: &str, stream: bool) -> String {
    let about = match endpoint.split_once('.').expect("a dialect") {
        ("gemini", _) => return r#"{"contents":[{"parts":[{"text":"x"}]}]}"#.to_owned(),
        (_, "embeddings") => r#""input":"x""#,
        ("openai", _) => r#""messages":[],"stream_options":{"include_usage":true}"#,
        _ => r#""max_tokens":9,"messages":[]"#,
    };
    format!(r#"{{"model":"m","stream":{stream},{about}}}"#)
}

/// What the recording says was billed, in the units of the request log.
fn billed(file: &str, recorded: &Json) -> Option<BTreeMap<&'static str, u64>> {
    let norm = recorded.find("truth.norm").filter(|norm| !norm.is_null())?;
    if recorded.at("response.status").count() != 200
        || NOT_BILLED_SO.iter().any(|(part, _)| file.contains(part))
    {
        return None;
    }
    let counted = |of: &Json, name: &str| {
        of.find(name).filter(|count| !count.is_null()).map_or(0, |count| count.count())
    };
    let count = |name: &str| counted(&norm, name);
    let (mut input, mut output) = (count("input"), count("output").max(count("output_billed")));
    // What an adviser used is billed on top of the totals.
    for part in norm.find("iterations").map(|parts| parts.list()).unwrap_or_default() {
        if part.at("type").text() == "advisor_message" {
            input += counted(&part, "input");
            output += counted(&part, "output");
        }
    }
    let cached = count("cache_read");
    let units = [
        ("inputTokens", input),
        ("outputTokens", output),
        ("cachedInputTokens", cached),
        // One provider calls the same tokens both written and read.
        ("cacheWriteTokens", count("cache_write").min(input.saturating_sub(cached))),
        ("cacheWrite5mTokens", count("cache_write_5m")),
        ("cacheWrite1hTokens", count("cache_write_1h")),
        ("reasoningTokens", count("reasoning")),
        ("toolUseInputTokens", count("tool_use_input")),
        ("webSearches", count("web_search")),
        ("inputAudioTokens", count("audio_in")),
        ("inputImageTokens", count("image_in")),
        ("outputAudioTokens", count("audio_out")),
        ("outputImageTokens", count("image_out")),
    ];
    (0 < input + output).then(|| units.into())
}

/// What the request log has otherwise than the recording.
fn misread(recording: &Recording, log: &Json) -> Vec<String> {
    let mut faults = Vec::new();
    let status = recording.exchange.status;
    let outcome = if status == 200 { "Completed" } else { "Failed" };
    for (field, wanted) in [("outcome", outcome), ("status", &*status.to_string())] {
        let got = log.at(field).to_string();
        if got.trim_matches('"') != wanted {
            faults.push(format!("{field} in the log is {got}, not {wanted}"));
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

/// Prints how each provider's endpoints fared, and what was not compared; gives all faults.
fn report(recordings: &[Recording], replayed: &[Replayed]) -> Vec<String> {
    let mut kinds: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut faults = Vec::new();
    for replay in replayed {
        let recording = &recordings[replay.exchange];
        let [passed, failed, billed] = kinds.entry(&recording.kind).or_default();
        *if replay.faults.is_empty() { passed } else { failed } += 1;
        *billed += usize::from(recording.billed.is_some());
        let name = &recording.exchange.name;
        let told = replay.faults.iter().map(|fault| format!("{name} {:?}: {fault}", replay.cut));
        faults.extend(told);
    }
    println!("{} replays; passed, failed, and of these with a bill:", replayed.len());
    for (kind, [passed, failed, billed]) in kinds {
        println!("{passed:5} {failed:5} {billed:5}  {kind}");
    }
    for (part, reason) in NOT_BILLED_SO {
        println!("not compared with its summary: {part}: {reason}");
    }
    faults
}
