//! Recorded calls of other clients to other providers: requests, responses and billed usage.
//!
//! The recordings are not part of the project. `METEOR_RECORDED` names their folder; the default is
//! `../shared/data/recorded`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::compression::ENCODINGS;
use crate::harness::client::Request;
use crate::harness::exchange::Exchange;
use crate::harness::json::Json;
use crate::harness::serve::{ConfigDir, Server, model, upstream};

/// Recordings whose billing summary does not match this one response, with the reason.
pub const BILLING_EXCEPTIONS: [(&str, &str); 7] = [
    (
        "moonshotai-reasoning",
        "the summary lacks the cached tokens, which are outside of the details",
    ),
    (
        "test_generate_content_with_files",
        "the summary lacks a modality that is reported as a number",
    ),
    ("test_generate_content_with_file_uri_image_True", "the provider left out the input"),
    ("anthropic-tool-search-deferred-regex", SEVERAL_RESPONSES),
    ("anthropic-tool-search-regex.1", SEVERAL_RESPONSES),
    ("anthropic-tool-search-bm25.1", SEVERAL_RESPONSES),
    ("stream-openai-shell-tool.1", SEVERAL_RESPONSES),
];
const SEVERAL_RESPONSES: &str =
    "the summary covers the last of several responses, which were joined in one body";

/// Recordings of calls that the gateway refuses, with the reason.
const REFUSED_RECORDINGS: [(&str, &str); 2] = [
    ("test_async_prompt_template", "the model is in a template that the provider stores"),
    ("completion-bad-request", "the output limit is not an integer, which the gateway refuses"),
];

/// Response headers that describe the call and must reach the client.
const PASSED_RESPONSE_HEADERS: [&str; 9] = [
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

/// One recorded call.
pub struct Recording {
    /// Provider and endpoint, as cells of a Markdown table.
    pub label: String,
    pub exchange: Exchange,
    /// False for a variant of a recording that does not request usage.
    pub is_original: bool,
    /// Billed usage by unit; `None` if the provider reported none.
    pub billed: Option<BTreeMap<&'static str, u64>>,
    /// True if the stream contains an error.
    pub fails: bool,
    /// The service tier in the response.
    pub tier: Option<String>,
}

/// Recordings of served endpoints, and the number of others by provider, endpoint and reason.
pub struct Corpus {
    pub recordings: Vec<Recording>,
    pub skipped: BTreeMap<String, usize>,
}

/// The folder of the recordings, if there is one.
pub fn corpus_folder() -> Option<PathBuf> {
    let named = std::env::var_os("METEOR_RECORDED").map(PathBuf::from);
    let is_named = named.is_some();
    let default_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/recorded");
    let folder = named.unwrap_or(default_folder);
    let exists = folder.join("INDEX.json").exists();
    assert!(exists || !is_named, "METEOR_RECORDED: no INDEX.json in {}", folder.display());
    exists.then_some(folder)
}

fn read_json(path: &Path) -> Json {
    Json::new(&fs::read_to_string(path).expect("a recording"))
}

/// Reads all recordings.
pub async fn load_corpus(folder: &Path) -> Corpus {
    let entries = read_json(&folder.join("INDEX.json")).list();
    let endpoints: BTreeSet<String> =
        entries.iter().map(|entry| entry.at("endpoint").text()).collect();
    let endpoints_served = served_endpoints(&endpoints).await;
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    let mut skip = |why: String| *skipped.entry(why).or_default() += 1;
    let mut recordings = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let endpoint = entry.at("endpoint").text();
        let provider = entry.at("provider").text();
        if !endpoints_served.contains(&endpoint) {
            skip(format!("| {provider} | {endpoint} | not served, 404 |"));
            continue;
        }
        // A credential error of the provider is about the gateway's credential and not relayed.
        if [401, 402, 403].contains(&entry.at("status").count()) {
            skip(format!("| {provider} | {endpoint} | the provider refuses a credential |"));
            continue;
        }
        let file = entry.at("file").text();
        if let Some((_, reason)) = REFUSED_RECORDINGS.iter().find(|(part, _)| file.contains(part)) {
            skip(format!("| {provider} | {endpoint} | refused: {reason} |"));
            continue;
        }
        let recorded = read_json(&folder.join(&file));
        let wire = entry.at("wire_encoding").to_string();
        let recorded_encoding =
            ENCODINGS.into_iter().find(|encoding| wire.trim_matches('"') == *encoding);
        let encoding = recorded_encoding.unwrap_or(ENCODINGS[index % ENCODINGS.len()]);
        let tier = recorded.find("truth.service_tier").filter(|tier| !tier.is_null());
        let recording = Recording {
            label: format!("| {provider} | {endpoint} |"),
            billed: billed_units(&file, &recorded),
            fails: recorded.find("truth.error_events").is_some(),
            tier: tier.map(|tier| tier.text()),
            exchange: Exchange { encoding, ..read_exchange(file, &endpoint, &recorded) },
            is_original: true,
        };
        recordings.extend(without_usage_request(&recording));
        recordings.push(recording);
    }
    Corpus { recordings, skipped }
}

/// The endpoints whose path the gateway serves.
async fn served_endpoints(endpoints: &BTreeSet<String>) -> BTreeSet<String> {
    let rows = upstream("none", "http://127.0.0.1:9") + &model("m", "upstream = \"none\"");
    let gateway = Server::start(ConfigDir::new(&rows)).await;
    let mut endpoints_served = BTreeSet::new();
    for endpoint in endpoints {
        let Some(path) = endpoint_path(endpoint, "m") else { continue };
        // Without a key, every served path responds with 401.
        if Request::post(&path, "{}").send(&gateway.proxy).await.status == 401 {
            endpoints_served.insert(endpoint.clone());
        }
    }
    endpoints_served
}

/// The same call from a client that does not request usage, if this one did.
fn without_usage_request(recording: &Recording) -> Option<Recording> {
    let exchange = &recording.exchange;
    let body = Json::new(&exchange.body);
    let is_stream = body.find("stream").is_some_and(|stream| stream.is_true());
    let options = body.find("stream_options")?.to_string();
    (is_stream && options.contains("true")).then(|| Recording {
        label: recording.label.clone(),
        is_original: false,
        fails: recording.fails,
        tier: recording.tier.clone(),
        exchange: Exchange {
            body: exchange.body.replacen(&options, r#"{ "include_usage" : false }"#, 1),
            ..exchange.clone()
        },
        billed: recording.billed.clone(),
    })
}

/// The path of an endpoint; `None` for paths that only return stored responses.
fn endpoint_path(endpoint: &str, model: &str) -> Option<String> {
    Some(match endpoint.split_once('.')? {
        ("openai", "chat") => "/v1/chat/completions".to_owned(),
        ("openai", "responses.get") => return None,
        ("openai", name) => format!("/v1/{}", name.replace('.', "/")),
        ("anthropic", "messages") => "/v1/messages".to_owned(),
        ("gemini", verb) => format!("/v1beta/models/{model}:{verb}"),
        _ => return None,
    })
}

fn read_exchange(file: String, endpoint: &str, recorded: &Json) -> Exchange {
    let model = recorded.find("path").filter(|path| !path.is_null()).and_then(|path| {
        let path = path.text();
        let (model, _) = path.split_once("/models/")?.1.split_once(':')?;
        Some(model.to_owned())
    });
    let mut target = endpoint_path(endpoint, model.as_deref().unwrap_or("gemini"))
        .expect("the endpoint is served");
    let query = recorded.at("query").text();
    if !query.is_empty() {
        target = format!("{target}?{query}");
    }
    let stream = recorded.at("stream").is_true();
    let body = recorded.at("request.body");
    let body =
        if body.is_null() { placeholder_request(endpoint, stream) } else { body.to_string() };
    let sent = recorded.at("request.headers");
    let headers =
        ["accept", "accept-encoding", "content-type", "anthropic-version", "anthropic-beta"];
    let headers = headers.into_iter().filter_map(|name| {
        let value = sent.find(name).map(|value| value.text())?;
        Some((name.to_owned(), value))
    });
    let response_headers_ = recorded.at("response.headers");
    let answer_headers = PASSED_RESPONSE_HEADERS.into_iter().filter_map(|name| {
        let value = response_headers_.find(name).map(|value| value.text())?;
        Some((name, value))
    });
    Exchange {
        target,
        headers: headers.collect(),
        body,
        encoding: "",
        status: u16::try_from(recorded.at("response.status").count()).expect("a status"),
        response_headers: answer_headers.collect(),
        response_body: recorded.at("response.body").text(),
        name: file,
    }
}

/// A request for a recording without a request body.
fn placeholder_request(endpoint: &str, stream: bool) -> String {
    let about = match endpoint.split_once('.').expect("a dialect") {
        ("gemini", _) => return r#"{"contents":[{"parts":[{"text":"x"}]}]}"#.to_owned(),
        (_, "embeddings" | "moderations") => r#""input":"x""#,
        ("openai", "completions") => r#""prompt":"x","stream_options":{"include_usage":true}"#,
        ("openai", name) if name.starts_with("responses") => r#""input":"x""#,
        ("openai", _) => r#""messages":[],"stream_options":{"include_usage":true}"#,
        _ => r#""max_tokens":9,"messages":[]"#,
    };
    format!(r#"{{"model":"m","stream":{stream},{about}}}"#)
}

/// The usage that the recording says was billed, in the units of the request log.
fn billed_units(file: &str, recorded: &Json) -> Option<BTreeMap<&'static str, u64>> {
    let norm = recorded.find("truth.norm").filter(|norm| !norm.is_null())?;
    if recorded.at("response.status").count() != 200
        || recorded.at("endpoint").text().ends_with("input_tokens")
        || BILLING_EXCEPTIONS.iter().any(|(part, _)| file.contains(part))
    {
        return None;
    }
    let counted = |of: &Json, name: &str| {
        of.find(name).filter(|count| !count.is_null()).map_or(0, |count| count.count())
    };
    let count = |name: &str| counted(&norm, name);
    let (mut input, mut output) = (count("input"), count("output").max(count("output_billed")));
    // Usage of an advisor is billed in addition to the totals.
    for part in norm.find("iterations").map(|parts| parts.list()).unwrap_or_default() {
        if part.at("type").text() == "advisor_message" {
            input += counted(&part, "input");
            output += counted(&part, "output");
        }
    }
    let cached = count("cache_read");
    // Gemini does not count searches; others leave the count out if it is zero.
    let reports_searches =
        norm.find("web_search").is_some() || recorded.at("endpoint").text().contains("responses");
    let units = [
        ("inputTokens", input),
        ("outputTokens", output),
        ("cachedInputTokens", cached),
        // One provider reports the same tokens as both written and read.
        ("cacheWriteTokens", count("cache_write").min(input.saturating_sub(cached))),
        ("cacheWrite5mTokens", count("cache_write_5m")),
        ("cacheWrite1hTokens", count("cache_write_1h")),
        ("reasoningTokens", count("reasoning")),
        ("toolUseInputTokens", count("tool_use_input")),
        ("webSearches", count("web_search") + count_searches(recorded)),
        ("inputAudioTokens", count("audio_in")),
        ("inputImageTokens", count("image_in")),
        ("outputAudioTokens", count("audio_out")),
        ("outputImageTokens", count("image_out")),
    ];
    let response_headers_ =
        units.into_iter().filter(|(unit, _)| reports_searches || *unit != "webSearches");
    (0 < input + output).then(|| response_headers_.collect())
}

/// The Responses API reports searches as output items, not in the usage.
fn count_searches(recorded: &Json) -> u64 {
    let body = recorded.at("response.body").text();
    let last = body.lines().rfind(|line| line.contains("\"type\":\"response.completed\""));
    let response = match last.and_then(|line| line.strip_prefix("data:")) {
        Some(event) => Json::new(event).at("response"),
        None if body.starts_with('{') => Json::new(&body),
        None => return 0,
    };
    let items = response.find("output").map(|items| items.list()).unwrap_or_default();
    let kinds = items.iter().filter_map(|item| item.find("type"));
    kinds.filter(|kind| ["web_search_call", "x_search_call"].contains(&&*kind.text())).count()
        as u64
}
