//! Edge cases of metering: the formats of Anthropic and Gemini, stream framing, and disconnects.

use std::time::Duration;

use crate::compression::encode;
use crate::dialect_routing::start_gateway;
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;
use crate::harness::{anthropic, gemini};

const UNITS: [&str; 16] = [
    "inputTokens",
    "outputTokens",
    "cachedInputTokens",
    "cacheWriteTokens",
    "cacheWrite5mTokens",
    "cacheWrite1hTokens",
    "inputAudioTokens",
    "inputImageTokens",
    "toolUseInputTokens",
    "reasoningTokens",
    "outputAudioTokens",
    "outputImageTokens",
    "webSearches",
    "images",
    "fileSearches",
    "codeSessions",
];
const MESSAGES: &str = "/v1/messages";
const CHAT: &str = "/v1/chat/completions";
const CHAT_WITH_USAGE: &str =
    r#"{"model":"plain","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#;
const GENERATE: &str = "/v1beta/models/plain:generateContent";
const STREAM: &str = "/v1beta/models/plain:streamGenerateContent?alt=sse";
const ARRAY: &str = "/v1beta/models/plain:streamGenerateContent";
const CANDIDATE: &str = r#"{"content":{"parts":[{"text":"Hello there"}]}}"#;

/// Makes one call with this response; returns its request log entry.
async fn billed_log(target: &str, body: &str, plan: Plan) -> Json {
    let sends = plan.steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let sent = sends.collect::<Vec<_>>().concat();
    let provider = Upstream::start(move |_| plan.clone()).await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let mut response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
    let (id, (received, complete)) = (response.id(), response.read_to_end().await);
    assert!(complete && received == sent, "the response passes unmodified");
    let log = tenant.log(&id).await;
    tenant.assert_settled().await;
    log
}

#[track_caller]
fn assert_usage(log: &Json, counts: &[(&str, u64)]) {
    assert_eq!(log.at("settledBy").text(), "usage", "{log}");
    for unit in UNITS {
        let expected = counts.iter().find(|(name, _)| *name == unit).map_or(0, |(_, count)| *count);
        assert_eq!(log.at("usage").at(unit).count(), expected, "{unit}: {log}");
    }
}

fn event(kind: &str, rest: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n")
}

fn start(usage: &str) -> String {
    event("message_start", &format!(r#","message":{{"model":"claude-a","usage":{usage}}}"#))
}

fn delta(usage: &str) -> String {
    event("message_delta", &format!(r#","delta":{{"stop_reason":"end_turn"}},"usage":{usage}"#))
}

fn text() -> String {
    event("content_block_delta", r#","index":0,"delta":{"type":"text_delta","text":"Hi"}"#)
}

/// Streams these events and `message_stop`; returns the request log entry.
async fn message(events: &[String]) -> Json {
    let stop = [event("message_stop", "")];
    let plan = Plan::stream([events, &stop].concat(), Duration::ZERO);
    billed_log(MESSAGES, &anthropic::message("plain", Some(9), true), plan).await
}

fn chunk(candidate: &str, usage: &str) -> String {
    format!("{{\"candidates\":[{candidate}],\"usageMetadata\":{{{usage}}}}}")
}

async fn contents(chunks: &[String]) -> Json {
    let events = chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n"));
    let plan = Plan::stream(events, Duration::ZERO);
    billed_log(STREAM, &gemini::contents(Some(9)), plan).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_input_may_exceed_uncached_input() {
    let usage = r#"{"input_tokens":3,"cache_read_input_tokens":600,"output_tokens":1}"#;
    let log = message(&[start(usage), text(), delta(r#"{"output_tokens":5}"#)]).await;
    assert_usage(&log, &[("inputTokens", 603), ("cachedInputTokens", 600), ("outputTokens", 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_delta_overrides_the_start_usage() {
    let usage =
        r#"{"input_tokens":10423,"output_tokens":510,"server_tool_use":{"web_search_requests":1}}"#;
    let log = message(&[start(r#"{"input_tokens":2039,"output_tokens":4}"#), delta(usage)]).await;
    assert_usage(&log, &[("inputTokens", 10_423), ("outputTokens", 510), ("webSearches", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_delta_with_only_output_preserves_input() {
    let usage = r#"{"input_tokens":9,"cache_creation_input_tokens":30,"cache_creation":
        {"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":1}"#;
    let log = message(&[start(&usage.replace('\n', "")), delta(r#"{"output_tokens":18}"#)]).await;
    let written =
        [("cacheWrite5mTokens", 10), ("cacheWrite1hTokens", 20), ("cacheWriteTokens", 30)];
    assert_usage(&log, &[&written[..], &[("inputTokens", 39), ("outputTokens", 18)]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_start_is_not_counted_twice() {
    let first = start(r#"{"input_tokens":9,"output_tokens":1}"#);
    let log = message(&[first.clone(), first, text(), delta(r#"{"output_tokens":5}"#)]).await;
    assert_usage(&log, &[("inputTokens", 9), ("outputTokens", 5)]);
}

/// A delta with an additional iteration of this kind.
fn with_iteration(kind: &str) -> String {
    delta(&format!(
        r#"{{"input_tokens":10,"output_tokens":5,"iterations":[{{"type":"message","input_tokens":10,"output_tokens":5}},{{"type":"{kind}","model":"claude-b","input_tokens":7,"cache_read_input_tokens":1,"output_tokens":2}}]}}"#
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn advisor_usage_is_added_to_the_totals() {
    let first = start(r#"{"input_tokens":10,"output_tokens":1}"#);
    let log = message(&[first, with_iteration("advisor_message")]).await;
    assert_usage(&log, &[("inputTokens", 18), ("cachedInputTokens", 1), ("outputTokens", 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fallback_usage_is_part_of_the_totals() {
    let first = start(r#"{"input_tokens":3,"output_tokens":1}"#);
    let log = message(&[first, with_iteration("fallback_message")]).await;
    assert_usage(&log, &[("inputTokens", 10), ("outputTokens", 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_usage_is_added_to_the_totals() {
    let first = start(r#"{"input_tokens":10,"output_tokens":1}"#);
    let log = message(&[first, with_iteration("compaction")]).await;
    assert_usage(&log, &[("inputTokens", 18), ("cachedInputTokens", 1), ("outputTokens", 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thought_tokens_may_exceed_candidate_tokens() {
    let usage = r#""promptTokenCount":8,"candidatesTokenCount":2,"thoughtsTokenCount":90,"totalTokenCount":100"#;
    let end = CANDIDATE.replacen('{', r#"{"finishReason":"STOP","#, 1);
    let log = contents(&[chunk(&end, usage)]).await;
    assert_usage(&log, &[("inputTokens", 8), ("outputTokens", 92), ("reasoningTokens", 90)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn decreasing_chunk_counts_use_the_last_value() {
    let log = contents(&[
        chunk(
            CANDIDATE,
            r#""promptTokenCount":15,"candidatesTokenCount":183,"totalTokenCount":198"#,
        ),
        chunk(CANDIDATE, r#""promptTokenCount":14,"candidatesTokenCount":32,"totalTokenCount":46"#),
        chunk(r#"{"finishReason":"STOP"}"#, r#""promptTokenCount":14,"candidatesTokenCount":40"#),
    ])
    .await;
    assert_usage(&log, &[("inputTokens", 14), ("outputTokens", 40)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_prompt_usage_is_estimated() {
    let end = r#"{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}"#;
    let log = contents(&[chunk(end, r#""candidatesTokenCount":7,"totalTokenCount":7"#)]).await;
    assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
    assert_eq!(log.at("usage.outputTokens").count(), 7, "{log}");
    assert!(0 < log.at("usage.inputTokens").count(), "the prompt is counted: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_type_alone_is_not_usage() {
    let log = contents(&[
        chunk(CANDIDATE, r#""trafficType":"ON_DEMAND""#),
        chunk(r#"{"finishReason":"STOP"}"#, r#""promptTokenCount":5,"candidatesTokenCount":2"#),
    ])
    .await;
    assert_usage(&log, &[("inputTokens", 5), ("outputTokens", 2)]);
    let end = r#"{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}"#;
    let log = contents(&[chunk(end, r#""trafficType":"ON_DEMAND""#)]).await;
    assert_eq!(log.at("settledBy").text(), "estimate", "no usage arrived: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn numeric_modality_enums_are_read() {
    let usage = r#""promptTokenCount":300,"promptTokensDetails":[{"modality":1,"tokenCount":9},{"modality":2,"tokenCount":258},{"modality":4,"tokenCount":33}],"candidatesTokenCount":10"#;
    let array = gemini::json(200, format!("[{}]", chunk(CANDIDATE, usage)));
    let target = format!("{ARRAY}?$alt=json;enum-encoding=int");
    let log = billed_log(&target, &gemini::contents(Some(9)), array).await;
    let parts = [("inputImageTokens", 258), ("inputAudioTokens", 33)];
    assert_usage(&log, &[&parts[..], &[("inputTokens", 300), ("outputTokens", 10)]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_arrays_are_metered_plain_and_compressed() {
    let usage = |output: u64| format!(r#""promptTokenCount":5,"candidatesTokenCount":{output}"#);
    let text = r#"{"content":{"parts":[{"text":"}\n,\r\n{\"usageMetadata\":{}"}]}}"#;
    let array = format!("[{}\n,\r\n{}\n]", chunk(text, &usage(1)), chunk(CANDIDATE, &usage(6)));
    for is_compressed in [false, true] {
        let bytes =
            if is_compressed { encode("gzip", array.as_bytes()) } else { array.clone().into() };
        let pieces = bytes.chunks(13).map(|piece| Step::Send(piece.to_vec())).collect();
        let mut plan = Plan { chunked: true, steps: pieces, ..gemini::json(200, "") };
        if is_compressed {
            plan.headers.push(("content-encoding", "gzip".to_owned()));
        }
        let log = billed_log(ARRAY, &gemini::contents(Some(9)), plan).await;
        assert_usage(&log, &[("inputTokens", 5), ("outputTokens", 6)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alternative_prompt_details_spelling_is_read() {
    let response = r#"{"embeddings":[{"values":[0.5]}],"usageMetadata":{"promptTokenCount":7,"promptTokenDetails":[{"modality":"TEXT","tokenCount":3},{"modality":"IMAGE","tokenCount":4}]}}"#;
    let body = r#"{"requests":[{"model":"models/plain","content":{"parts":[{"text":"x"}]}}]}"#;
    let target = "/v1beta/models/plain:batchEmbedContents";
    let log = billed_log(target, body, gemini::json(200, response)).await;
    assert_usage(&log, &[("inputTokens", 7), ("inputImageTokens", 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crlf_split_between_reads_is_one_line_end() {
    let usage = r#"{"input_tokens":9,"output_tokens":1}"#;
    let events = [start(usage), text(), delta(r#"{"output_tokens":5}"#), event("message_stop", "")];
    let stream = events.concat().replace('\n', "\r\n");
    let pieces = stream.split_inclusive('\r');
    let plan = Plan::stream(pieces, Duration::ZERO);
    let log = billed_log(MESSAGES, &anthropic::message("plain", Some(9), true), plan).await;
    assert_usage(&log, &[("inputTokens", 9), ("outputTokens", 5)]);
}

/// An upstream may send comments and pings after the last delta; they must reach the client before
/// the end.
#[tokio::test(flavor = "multi_thread")]
async fn comments_and_pings_pass_anywhere_in_a_stream() {
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned();
    let comment = ": alive\n\n".to_owned();
    let begun = [
        comment.clone(),
        ping.clone(),
        start(r#"{"input_tokens":9,"output_tokens":1}"#),
        comment.clone(),
        text(),
        delta(r#"{"output_tokens":5}"#),
    ]
    .concat();
    for keep_alive in [ping, comment] {
        let sent = [begun.clone(), keep_alive, event("message_stop", "")];
        let pieces = sent.clone();
        let provider = Upstream::start(move |_| {
            Plan::stream(pieces.clone(), Duration::ZERO).insert_step(2, Step::Stall)
        })
        .await;
        let (_server, tenant) = start_gateway(&provider, "").await;
        let body = anthropic::message("plain", Some(9), true);
        let request = Request::post(MESSAGES, body).bearer(&tenant.key);
        let mut response = request.send(&tenant.proxy).await;
        let (mut received, expected) = (Vec::new(), sent[..2].concat());
        while received.len() < expected.len() {
            received.extend(response.piece().await.expect("no cut").expect("more to come"));
        }
        assert_eq!(String::from_utf8_lossy(&received), expected);
        assert!(tenant.records().await.iter().all(|record| record.at("type").text() != "Consume"));
        provider.release();
        let (id, (rest, complete)) = (response.id(), response.read_to_end().await);
        assert!(complete && rest == sent[2].as_bytes());
        assert_usage(&tenant.log(&id).await, &[("inputTokens", 9), ("outputTokens", 5)]);
        tenant.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quoted_usage_and_split_characters_do_not_confuse_metering() {
    let quoted = r#"\"usage\":{\"output_tokens\":99},\"usageMetadata\":{} data: [DONE]\n\n ö 🌍"#;
    let delta_fields = format!(r#","index":0,"delta":{{"type":"text_delta","text":"{quoted}"}}"#);
    let events = [
        start(r#"{"input_tokens":9,"output_tokens":1}"#),
        event("content_block_delta", &delta_fields),
        delta(r#"{"output_tokens":5}"#),
        event("message_stop", ""),
    ];
    let bytes = |text: String| text.into_bytes().into_iter().map(|byte| vec![byte]);
    let plan = Plan::stream(bytes(events.concat()), Duration::ZERO);
    let log = billed_log(MESSAGES, &anthropic::message("plain", Some(9), true), plan).await;
    assert_usage(&log, &[("inputTokens", 9), ("outputTokens", 5)]);
    let part = format!(r#"{{"content":{{"parts":[{{"text":"{quoted}"}}]}}}}"#);
    let body = chunk(&part, r#""promptTokenCount":4,"candidatesTokenCount":3"#);
    let plan = Plan { chunked: true, ..gemini::json(200, "") };
    let plan = Plan { steps: bytes(body).map(Step::Send).collect(), ..plan };
    let log = billed_log(GENERATE, &gemini::contents(Some(9)), plan).await;
    assert_usage(&log, &[("inputTokens", 4), ("outputTokens", 3)]);
    let events = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{quoted}\"}}}}]}}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":2,\"completion_tokens\":8}}}}\n\ndata: [DONE]\n\n"
    );
    let log = billed_log(CHAT, CHAT_WITH_USAGE, Plan::stream(bytes(events), Duration::ZERO)).await;
    assert_usage(&log, &[("inputTokens", 2), ("outputTokens", 8)]);
}

/// The request log entry of a call whose client disconnects after the first piece.
async fn log_after_disconnect(tenant: &Tenant, target: &str, body: &str) -> Json {
    let request = Request::post(target, body).bearer(&tenant.key);
    let mut response = request.send(&tenant.proxy).await;
    response.piece().await.expect("no cut").expect("a first piece");
    let id = response.id();
    drop(response);
    eventually("the call is settled after the disconnect", async || {
        tenant.logs().await.into_iter().find(|log| log.at("requestLogId").text() == id)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_before_usage_is_estimated() {
    let provider = Upstream::start(|seen| {
        let events = if seen.target.contains("/messages") {
            vec![start(r#"{"input_tokens":900,"output_tokens":1}"#), text()]
        } else {
            vec![r#"data: {"choices":[{"delta":{"content":"Hello there"}}]}"#.to_owned() + "\n\n"]
        };
        Plan::stream(events, Duration::ZERO).insert_step(9, Step::Stall)
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let started =
        log_after_disconnect(&tenant, MESSAGES, &anthropic::message("plain", Some(9), true)).await;
    assert_eq!(
        started.at("usage.inputTokens").count(),
        900,
        "the start reports the input: {started}"
    );
    let chat = log_after_disconnect(&tenant, CHAT, CHAT_WITH_USAGE).await;
    for log in [started, chat] {
        assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
        assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
        assert!(0 < log.at("usage.outputTokens").count() && 0 < log.at("cost").nano(), "{log}");
    }
    tenant.assert_settled().await;
}

/// A delta that was flushed to the client because of a ping is written to the journal, so it is
/// charged even after a kill.
#[tokio::test(flavor = "multi_thread")]
async fn a_ping_flushed_delta_is_charged_after_a_kill() {
    let begun = [start(r#"{"input_tokens":900,"output_tokens":1}"#), text()].concat();
    let sent = [begun, delta(r#"{"output_tokens":500}"#) + "event: ping\ndata: {}\n\n"];
    let pieces = sent.clone();
    let provider = Upstream::start(move |_| {
        Plan::stream(pieces.clone(), Duration::ZERO).insert_step(9, Step::Stall)
    })
    .await;
    let (server, tenant) = start_gateway(&provider, "").await;
    let body = anthropic::message("plain", Some(900), true);
    let request = Request::post(MESSAGES, body).bearer(&tenant.key);
    let mut response = request.send(&tenant.proxy).await;
    let mut received = 0;
    while received < sent.concat().len() {
        received += response.piece().await.expect("no cut").expect("more to come").len();
    }
    let server = server.restart().await;
    let tenant = server.rebind(tenant);
    let id = response.id();
    assert_eq!(tenant.debit(&id).await.at("settledBy").text(), "usage");
    assert_usage(&tenant.log(&id).await, &[("inputTokens", 900), ("outputTokens", 500)]);
    tenant.assert_settled().await;
}
