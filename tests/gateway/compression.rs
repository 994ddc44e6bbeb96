//! Bodies that come compressed: answers though nobody asked for it, and requests.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use crate::dialect_routing::start_gateway;
use crate::harness::client::Request;
use crate::harness::openai::{Usage, WORDS, chat, completion, events};
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::{anthropic, gemini};

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };
/// What is known, and `raw`: the `deflate` of those who leave the head of zlib out.
pub const ENCODINGS: [&str; 5] = ["gzip", "deflate", "raw", "br", "zstd"];

/// The name of a coding in a header.
pub fn encoding_token(coding: &str) -> &str {
    if coding == "raw" { "deflate" } else { coding }
}

pub fn encode(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
        "raw" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
        "br" => {
            let params = brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
            let mut coded = Vec::new();
            brotli::BrotliCompress(&mut &*text, &mut coded, &params).map(|_| coded)
        }
        "zstd" => {
            let mut coded = vec![0; zstd_safe::compress_bound(text.len())];
            let length = zstd_safe::compress(&mut coded[..], text, 3).expect("memory takes all");
            coded.truncate(length);
            Ok(coded)
        }
        other => panic!("no coding {other}"),
    }
    .expect("memory takes all")
}

/// The same answer, coded, in pieces of that size.
fn encoded_plan(plan: &Plan, coding: &str, size: usize) -> (Plan, Vec<u8>) {
    let sends = plan.steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let bytes = encode(coding, &sends.collect::<Vec<_>>().concat());
    let steps = bytes.chunks(size).map(|piece| Step::Send(piece.to_vec())).collect();
    let mut headers = plan.headers.clone();
    headers.push(("content-encoding", encoding_token(coding).to_owned()));
    (Plan { status: plan.status, headers, chunked: size < bytes.len(), steps }, bytes)
}

/// A call, and an answer to it that is not coded yet.
fn sample_calls() -> Vec<(&'static str, String, Plan)> {
    let none = Duration::ZERO;
    let asking =
        chat("plain", 50, true).replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    let chunks = gemini::chunks(gemini::WORDS, USAGE);
    let mut array = gemini::json(200, gemini::array(&chunks).concat());
    array.chunked = true;
    vec![
        ("/v1/chat/completions", asking, Plan::stream(events(WORDS, Some(USAGE)), none)),
        ("/v1/chat/completions", chat("plain", 50, false), Plan::json(200, completion(USAGE))),
        (
            "/v1/messages",
            anthropic::message("plain", Some(50), true),
            Plan::stream(anthropic::events(anthropic::WORDS, USAGE), none),
        ),
        (
            "/v1/messages",
            anthropic::message("plain", Some(50), false),
            Plan::json(200, anthropic::complete_message(USAGE)),
        ),
        (
            "/v1beta/models/plain:streamGenerateContent?alt=sse",
            gemini::contents(Some(50)),
            Plan::stream(gemini::events(&chunks), none),
        ),
        ("/v1beta/models/plain:streamGenerateContent", gemini::contents(Some(50)), array),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_responses_pass_unmodified_and_are_metered() {
    let kinds = sample_calls();
    let provider = Upstream::start(move |seen| {
        let part = |at| seen.header("x-stainless-part").and_then(|part| part.split(' ').nth(at));
        let [kind, size] = [0, 2].map(|at| part(at).and_then(|text| text.parse().ok()));
        let (_, _, plan) = &sample_calls()[kind.expect("a kind")];
        encoded_plan(plan, part(1).expect("a coding"), size.expect("a size")).0
    })
    .await;
    let (_served, tenant) = start_gateway(&provider, "").await;
    for coding in ENCODINGS {
        for (kind, (target, body, plan)) in kinds.iter().enumerate() {
            for size in [1, 37, usize::MAX] {
                let part = format!("{kind} {coding} {size}");
                let request = Request::post(target, body).bearer(&tenant.key);
                let request = request.header("accept-encoding", "gzip, br, zstd");
                let mut answer =
                    request.header("x-stainless-part", &part).send(&tenant.proxy).await;
                assert_eq!(answer.status, 200, "{part}");
                assert_eq!(answer.header("content-encoding"), Some(encoding_token(coding)));
                let (id, (bytes, whole)) = (answer.id(), answer.read_to_end().await);
                assert!(whole && bytes == encoded_plan(plan, coding, size).1, "{part}");
                let log = tenant.log(&id).await;
                assert_eq!(log.at("settledBy").text(), "usage", "{part}: {log}");
                assert_eq!(log.at("usage.inputTokens").count(), USAGE.prompt, "{part}: {log}");
                assert_eq!(log.at("usage.outputTokens").count(), USAGE.completion, "{part}");
                assert_eq!(log.at("usage.cachedInputTokens").count(), USAGE.cached, "{part}");
            }
        }
    }
    assert!(
        provider.requests().iter().all(|seen| seen.header("accept-encoding") == Some("identity"))
    );
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stripping_usage_decompresses_the_response() {
    let provider = Upstream::start(|seen| {
        let coding = seen.json().at("user").text();
        encoded_plan(&Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO), &coding, 11).0
    })
    .await;
    let (_served, tenant) = start_gateway(&provider, "").await;
    for coding in ENCODINGS {
        let body = chat("plain", 50, true).replacen('{', &format!(r#"{{"user":"{coding}","#), 1);
        let answer = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
        assert_eq!(
            (answer.header("content-encoding"), answer.header("content-length")),
            (None, None)
        );
        let id = answer.id();
        assert_eq!(answer.text().await, events(WORDS, None).concat(), "{coding}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("settledBy").text(), "usage", "{log}");
        assert_eq!(log.at("usage.outputTokens").count(), USAGE.completion);
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_responses_pass_unmodified_and_are_estimated() {
    let (_, whole) = encoded_plan(&Plan::json(200, completion(USAGE)), "gzip", 99);
    let corrupt = [&whole[..whole.len() / 2], &[0xff; 200]].concat();
    let cases: [(&str, Vec<u8>); 4] = [
        ("compress", whole.clone()),
        ("gzip, br", whole.clone()),
        ("gzip", corrupt),
        ("gzip", whole[..whole.len() / 2].to_vec()),
    ];
    let sent = cases.clone();
    let provider = Upstream::start(move |seen| {
        let (coding, bytes) = &sent[usize::try_from(seen.json().at("seed").count()).expect("few")];
        let mut plan = Plan::json(200, bytes.clone());
        plan.headers.push(("content-encoding", (*coding).to_owned()));
        plan
    })
    .await;
    let (_served, tenant) = start_gateway(&provider, "").await;
    for (index, (coding, bytes)) in cases.iter().enumerate() {
        let body = chat("plain", 50, false).replacen('{', &format!(r#"{{"seed":{index},"#), 1);
        let mut answer = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
        assert_eq!(answer.header("content-encoding"), Some(*coding));
        let (id, (came, is_whole)) = (answer.id(), answer.read_to_end().await);
        assert!(is_whole && came == *bytes, "{coding}");
        let debit = tenant.debit(&id).await;
        assert_eq!(debit.at("settledBy").text(), "estimate", "{coding} {index}: {debit}");
        assert!(0 < debit.at("amount").nano(), "{debit}");
    }
    tenant.assert_settled().await;
}

/// The client was to be given the text, of which there is no more: it must not take part for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_compressed_stream_is_cut_for_the_client() {
    let provider = Upstream::start(|_| {
        let stream = Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO);
        let (mut plan, bytes) = encoded_plan(&stream, "gzip", 64);
        plan.steps = vec![Step::Send(bytes[..bytes.len() - 12].to_vec())];
        plan
    })
    .await;
    let (_served, tenant) = start_gateway(&provider, "").await;
    let mut answer = Request::chat(&tenant.key, chat("plain", 50, true)).send(&tenant.proxy).await;
    let (_, whole) = answer.read_to_end().await;
    assert!(!whole);
    let log = tenant.log(&answer.id()).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    assert!(0 < tenant.debit(&answer.id()).await.at("amount").nano());
    tenant.assert_settled().await;
}

/// A small one that would be 64 MiB of text, in each coding: it is read a little at a time.
#[tokio::test(flavor = "multi_thread")]
async fn decompression_bombs_do_not_exhaust_memory() {
    let words = vec![b' '; 64 << 20];
    let bombs = ["gzip", "zstd"].map(|coding| (coding, encode(coding, &words)));
    let sent = bombs.clone();
    let provider = Upstream::start(move |seen| {
        let coding = seen.json().at("user").text();
        let (coding, bytes) = sent.iter().find(|(own, _)| *own == coding).expect("a bomb");
        let mut plan = Plan::json(200, bytes.clone());
        plan.headers.push(("content-encoding", (*coding).to_owned()));
        plan
    })
    .await;
    let (served, tenant) = start_gateway(&provider, "").await;
    let before = served.peak_resident_bytes();
    for (coding, bytes) in &bombs {
        let body = chat("plain", 50, false).replacen('{', &format!(r#"{{"user":"{coding}","#), 1);
        let mut answer = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
        let (came, whole) = answer.read_to_end().await;
        assert!(whole && came == *bytes, "{coding}");
    }
    let grown = served.peak_resident_bytes() - before;
    assert!(grown < 32 << 20, "{grown} bytes more");
    tenant.assert_settled().await;
}

async fn start_with_small_body_limit(provider: &Upstream) -> (Served, Tenant) {
    let rows = upstream("all", &provider.url)
        + "dialects = [\"openai\", \"anthropic\", \"gemini\"]\n"
        + &model("plain", "upstream = \"all\"");
    let place = Place::new(&rows).with("METEOR__PROXY__BODY_BYTES_MAX", "100000");
    let served = Served::start(place).await;
    let tenant = served.tenant(1_000_000_000, "{}").await;
    (served, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_forwarded_decompressed_within_the_size_limit() {
    let provider = Upstream::start(|_| Plan::json(200, completion(USAGE))).await;
    let (_served, tenant) = start_with_small_body_limit(&provider).await;
    let body = chat("plain", 50, false);
    let send = async |coding: &str, bytes: Vec<u8>| {
        let request = Request::chat(&tenant.key, bytes).header("content-encoding", coding);
        let answer = request.send(&tenant.proxy).await;
        (answer.status, answer.json().await)
    };
    for coding in ENCODINGS {
        let (status, told) = send(encoding_token(coding), encode(coding, body.as_bytes())).await;
        assert_eq!(status, 200, "{coding}: {told}");
        let seen = provider.requests().pop().expect("the call");
        assert_eq!((&seen.body, seen.header("content-encoding")), (&body, None), "{coding}");
        assert_eq!(seen.header("content-length"), Some(&*body.len().to_string()));
    }
    let calls = provider.request_count();
    let bomb = format!(r#"{{"model":"plain","messages":[],"user":"{}"}}"#, "x".repeat(32 << 20));
    for coding in ENCODINGS {
        let bomb = encode(coding, bomb.as_bytes());
        assert!(bomb.len() < 100_000, "{coding}: {}", bomb.len());
        let (status, told) = send(encoding_token(coding), bomb).await;
        assert_eq!((status, told.at("error.code").text()), (413, "request_too_large".to_owned()));
        let mut cut = encode(coding, body.as_bytes());
        cut.truncate(cut.len() - 3);
        assert_eq!(send(encoding_token(coding), cut).await.0, 400, "{coding}, cut");
        assert_eq!(
            send(encoding_token(coding), body.clone().into()).await.0,
            400,
            "{coding}, plain"
        );
    }
    assert_eq!(provider.request_count(), calls, "none of these was forwarded");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_encodings_are_refused_in_the_callers_dialect() {
    let provider = Upstream::start(|_| Plan::json(200, completion(USAGE))).await;
    let (_served, tenant) = start_with_small_body_limit(&provider).await;
    for (target, body, place) in [
        ("/v1/chat/completions", chat("plain", 5, false), "error.code"),
        ("/v1/messages", anthropic::message("plain", Some(5), false), "error.type"),
        ("/v1beta/models/plain:generateContent", gemini::contents(Some(5)), "error.status"),
    ] {
        for coding in ["compress", "gzip, gzip", "zst"] {
            let request = Request::post(target, &body).bearer(&tenant.key);
            let answer = request.header("content-encoding", coding).send(&tenant.proxy).await;
            assert_eq!(answer.status, 415, "{target} {coding}");
            let error = answer.json().await;
            let words = ["unsupported_encoding", "invalid_request_error", "INVALID_ARGUMENT"];
            assert!(words.contains(&&*error.at(place).text()), "{error}");
        }
    }
    assert_eq!(provider.request_count(), 0);
    tenant.assert_settled().await;
}
