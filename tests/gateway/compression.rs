//! Compressed bodies: responses, also unrequested, and requests.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use crate::dialect_routing::start_gateway;
use crate::harness::client::Request;
use crate::harness::openai::{Usage, WORDS, chat, completion, events};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::{anthropic, gemini};

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };
/// The supported encodings. `raw` is `deflate` without the zlib header, as some servers send it.
pub const ENCODINGS: [&str; 5] = ["gzip", "deflate", "raw", "br", "zstd"];

/// The name of the encoding in a header.
pub fn encoding_token(encoding: &str) -> &str {
    if encoding == "raw" { "deflate" } else { encoding }
}

pub fn encode(encoding: &str, text: &[u8]) -> Vec<u8> {
    let level = Compression::default();
    match encoding {
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
            let mut encoded = Vec::new();
            brotli::BrotliCompress(&mut &*text, &mut encoded, &params).map(|_| encoded)
        }
        "zstd" => {
            let mut encoded = vec![0; zstd_safe::compress_bound(text.len())];
            let length =
                zstd_safe::compress(&mut encoded[..], text, 3).expect("writing to memory succeeds");
            encoded.truncate(length);
            Ok(encoded)
        }
        other => panic!("no encoding {other}"),
    }
    .expect("writing to memory succeeds")
}

/// The same response, compressed, in pieces of `size` bytes; and all of its bytes.
fn encoded_plan(plan: &Plan, encoding: &str, size: usize) -> (Plan, Vec<u8>) {
    let sends = plan.steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let bytes = encode(encoding, &sends.collect::<Vec<_>>().concat());
    let steps = bytes.chunks(size).map(|piece| Step::Send(piece.to_vec())).collect();
    let mut headers = plan.headers.clone();
    headers.push(("content-encoding", encoding_token(encoding).to_owned()));
    (Plan { status: plan.status, headers, chunked: size < bytes.len(), steps }, bytes)
}

/// Calls with their uncompressed responses.
fn sample_calls() -> Vec<(&'static str, String, Plan)> {
    let none = Duration::ZERO;
    let with_usage =
        chat("plain", 50, true).replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    let chunks = gemini::chunks(gemini::WORDS, USAGE);
    let mut array = gemini::json(200, gemini::array(&chunks).concat());
    array.chunked = true;
    vec![
        ("/v1/chat/completions", with_usage, Plan::stream(events(WORDS, Some(USAGE)), none)),
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
    let calls = sample_calls();
    let provider = Upstream::start(move |seen| {
        let part = |at| seen.header("x-stainless-part").and_then(|part| part.split(' ').nth(at));
        let [call_index, size] = [0, 2].map(|at| part(at).and_then(|text| text.parse().ok()));
        let (_, _, plan) = &sample_calls()[call_index.expect("a kind")];
        encoded_plan(plan, part(1).expect("a coding"), size.expect("a size")).0
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for encoding in ENCODINGS {
        for (call_index, (target, body, plan)) in calls.iter().enumerate() {
            for size in [1, 37, usize::MAX] {
                let part = format!("{call_index} {encoding} {size}");
                let request = Request::post(target, body).bearer(&tenant.key);
                let request = request.header("accept-encoding", "gzip, br, zstd");
                let mut response =
                    request.header("x-stainless-part", &part).send(&tenant.proxy).await;
                assert_eq!(response.status, 200, "{part}");
                assert_eq!(response.header("content-encoding"), Some(encoding_token(encoding)));
                let (id, (bytes, complete)) = (response.id(), response.read_to_end().await);
                assert!(complete && bytes == encoded_plan(plan, encoding, size).1, "{part}");
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
        let encoding = seen.json().at("user").text();
        encoded_plan(&Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO), &encoding, 11).0
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for encoding in ENCODINGS {
        let body = chat("plain", 50, true).replacen('{', &format!(r#"{{"user":"{encoding}","#), 1);
        let response = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
        assert_eq!(
            (response.header("content-encoding"), response.header("content-length")),
            (None, None)
        );
        let id = response.id();
        assert_eq!(response.text().await, events(WORDS, None).concat(), "{encoding}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("settledBy").text(), "usage", "{log}");
        assert_eq!(log.at("usage.outputTokens").count(), USAGE.completion);
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_responses_pass_unmodified_and_are_estimated() {
    let (_, compressed) = encoded_plan(&Plan::json(200, completion(USAGE)), "gzip", 99);
    let corrupt = [&compressed[..compressed.len() / 2], &[0xff; 200]].concat();
    let cases: [(&str, Vec<u8>); 4] = [
        ("compress", compressed.clone()),
        ("gzip, br", compressed.clone()),
        ("gzip", corrupt),
        ("gzip", compressed[..compressed.len() / 2].to_vec()),
    ];
    let sent = cases.clone();
    let provider = Upstream::start(move |seen| {
        let (encoding, bytes) =
            &sent[usize::try_from(seen.json().at("seed").count()).expect("few")];
        let mut plan = Plan::json(200, bytes.clone());
        plan.headers.push(("content-encoding", (*encoding).to_owned()));
        plan
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for (index, (encoding, bytes)) in cases.iter().enumerate() {
        let body = chat("plain", 50, false).replacen('{', &format!(r#"{{"seed":{index},"#), 1);
        let mut response = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
        assert_eq!(response.header("content-encoding"), Some(*encoding));
        let (id, (received, complete)) = (response.id(), response.read_to_end().await);
        assert!(complete && received == *bytes, "{encoding}");
        let debit = tenant.debit(&id).await;
        assert_eq!(debit.at("settledBy").text(), "estimate", "{encoding} {index}: {debit}");
        assert!(0 < debit.at("amount").nano(), "{debit}");
    }
    tenant.assert_settled().await;
}

/// The client was being sent decompressed text, which is incomplete: it must not see a clean end.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_compressed_stream_is_cut_for_the_client() {
    let provider = Upstream::start(|_| {
        let stream = Plan::stream(events(WORDS, Some(USAGE)), Duration::ZERO);
        let (mut plan, bytes) = encoded_plan(&stream, "gzip", 64);
        plan.steps = vec![Step::Send(bytes[..bytes.len() - 12].to_vec())];
        plan
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let mut response =
        Request::chat(&tenant.key, chat("plain", 50, true)).send(&tenant.proxy).await;
    let (_, complete) = response.read_to_end().await;
    assert!(!complete);
    let log = tenant.log(&response.id()).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    assert!(0 < tenant.debit(&response.id()).await.at("amount").nano());
    tenant.assert_settled().await;
}

/// A small body that decompresses to 64 MiB must be decoded a little at a time.
#[tokio::test(flavor = "multi_thread")]
async fn decompression_bombs_do_not_exhaust_memory() {
    let zeros = vec![b' '; 64 << 20];
    let bombs = ["gzip", "zstd"].map(|encoding| (encoding, encode(encoding, &zeros)));
    let sent = bombs.clone();
    let provider = Upstream::start(move |seen| {
        let encoding = seen.json().at("user").text();
        let (encoding, bytes) =
            sent.iter().find(|(bomb_encoding, _)| *bomb_encoding == encoding).expect("a bomb");
        let mut plan = Plan::json(200, bytes.clone());
        plan.headers.push(("content-encoding", (*encoding).to_owned()));
        plan
    })
    .await;
    let (server, tenant) = start_gateway(&provider, "").await;
    let before = server.peak_resident_bytes();
    for (encoding, bytes) in &bombs {
        let body = chat("plain", 50, false).replacen('{', &format!(r#"{{"user":"{encoding}","#), 1);
        let mut response = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
        let (received, complete) = response.read_to_end().await;
        assert!(complete && received == *bytes, "{encoding}");
    }
    let grown = server.peak_resident_bytes() - before;
    assert!(grown < 32 << 20, "{grown} bytes more");
    tenant.assert_settled().await;
}

async fn start_with_small_body_limit(provider: &Upstream) -> (Server, Tenant) {
    let rows = upstream("all", &provider.url)
        + "dialects = [\"openai\", \"anthropic\", \"gemini\"]\n"
        + &model("plain", "upstream = \"all\"");
    let config_dir = ConfigDir::new(&rows).with_env("METEOR__PROXY__BODY_BYTES_MAX", "100000");
    let server = Server::start(config_dir).await;
    let tenant = server.tenant(1_000_000_000, "{}").await;
    (server, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_forwarded_decompressed_within_the_size_limit() {
    let provider = Upstream::start(|_| Plan::json(200, completion(USAGE))).await;
    let (_server, tenant) = start_with_small_body_limit(&provider).await;
    let body = chat("plain", 50, false);
    let send = async |encoding: &str, bytes: Vec<u8>| {
        let request = Request::chat(&tenant.key, bytes).header("content-encoding", encoding);
        let response = request.send(&tenant.proxy).await;
        (response.status, response.json().await)
    };
    for encoding in ENCODINGS {
        let (status, response_body) =
            send(encoding_token(encoding), encode(encoding, body.as_bytes())).await;
        assert_eq!(status, 200, "{encoding}: {response_body}");
        let seen = provider.requests().pop().expect("the call");
        assert_eq!((&seen.body, seen.header("content-encoding")), (&body, None), "{encoding}");
        assert_eq!(seen.header("content-length"), Some(&*body.len().to_string()));
    }
    let calls = provider.request_count();
    let bomb = format!(r#"{{"model":"plain","messages":[],"user":"{}"}}"#, "x".repeat(32 << 20));
    for encoding in ENCODINGS {
        let bomb = encode(encoding, bomb.as_bytes());
        assert!(bomb.len() < 100_000, "{encoding}: {}", bomb.len());
        let (status, response_body) = send(encoding_token(encoding), bomb).await;
        assert_eq!(
            (status, response_body.at("error.code").text()),
            (413, "request_too_large".to_owned())
        );
        let mut cut = encode(encoding, body.as_bytes());
        cut.truncate(cut.len() - 3);
        assert_eq!(send(encoding_token(encoding), cut).await.0, 400, "{encoding}, cut");
        assert_eq!(
            send(encoding_token(encoding), body.clone().into()).await.0,
            400,
            "{encoding}, plain"
        );
    }
    assert_eq!(provider.request_count(), calls, "none of these was forwarded");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_encodings_are_refused_in_the_callers_dialect() {
    let provider = Upstream::start(|_| Plan::json(200, completion(USAGE))).await;
    let (_server, tenant) = start_with_small_body_limit(&provider).await;
    for (target, body, config_dir) in [
        ("/v1/chat/completions", chat("plain", 5, false), "error.code"),
        ("/v1/messages", anthropic::message("plain", Some(5), false), "error.type"),
        ("/v1beta/models/plain:generateContent", gemini::contents(Some(5)), "error.status"),
    ] {
        for encoding in ["compress", "gzip, gzip", "zst"] {
            let request = Request::post(target, &body).bearer(&tenant.key);
            let response = request.header("content-encoding", encoding).send(&tenant.proxy).await;
            assert_eq!(response.status, 415, "{target} {encoding}");
            let error = response.json().await;
            let zeros = ["unsupported_encoding", "invalid_request_error", "INVALID_ARGUMENT"];
            assert!(zeros.contains(&&*error.at(config_dir).text()), "{error}");
        }
    }
    assert_eq!(provider.request_count(), 0);
    tenant.assert_settled().await;
}
