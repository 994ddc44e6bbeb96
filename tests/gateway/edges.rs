//! The edge cases of Anthropic's and Gemini's formats, of framing, and of clients that leave; each
//! by the number that it has in the list of cases that a meter must pass.

use std::time::Duration;

use crate::client::Request;
use crate::coded::coded;
use crate::dialects::scene;
use crate::json::Json;
use crate::tenant::Tenant;
use crate::upstream::{Plan, Step, Upstream};
use crate::wait::eventually;
use crate::{anthropic, gemini};

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
const ASKING: &str =
    r#"{"model":"plain","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#;
const GENERATE: &str = "/v1beta/models/plain:generateContent";
const STREAM: &str = "/v1beta/models/plain:streamGenerateContent?alt=sse";
const ARRAY: &str = "/v1beta/models/plain:streamGenerateContent";
const SAID: &str = r#"{"content":{"parts":[{"text":"Hello there"}]}}"#;

/// What an answer is settled by, and with which counts.
async fn billed(target: &str, body: &str, plan: Plan) -> Json {
    let sends = plan.steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let sent = sends.collect::<Vec<_>>().concat();
    let provider = Upstream::start(move |_| plan.clone()).await;
    let (_served, tenant) = scene(&provider, "").await;
    let mut answer = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
    let (id, (came, whole)) = (answer.id(), answer.rest().await);
    assert!(whole && came == sent, "it passes byte for byte");
    let log = tenant.log(&id).await;
    tenant.at_rest().await;
    log
}

#[track_caller]
fn is(log: &Json, settled_by: &str, counts: &[(&str, u64)]) {
    assert_eq!(log.at("settledBy").text(), settled_by, "{log}");
    for unit in UNITS {
        let wanted = counts.iter().find(|(own, _)| *own == unit).map_or(0, |(_, count)| *count);
        assert_eq!(log.at("usage").at(unit).count(), wanted, "{unit}: {log}");
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

/// A message in these events, and its end.
async fn message(events: &[String]) -> Json {
    let stop = [event("message_stop", "")];
    let plan = Plan::stream([events, &stop].concat(), Duration::ZERO);
    billed(MESSAGES, &anthropic::message("plain", Some(9), true), plan).await
}

fn chunk(candidate: &str, usage: &str) -> String {
    format!("{{\"candidates\":[{candidate}],\"usageMetadata\":{{{usage}}}}}")
}

async fn contents(chunks: &[String]) -> Json {
    let events = chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n"));
    let plan = Plan::stream(events, Duration::ZERO);
    billed(STREAM, &gemini::contents(Some(9)), plan).await
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_14_more_read_from_the_cache_than_input() {
    let usage = r#"{"input_tokens":3,"cache_read_input_tokens":600,"output_tokens":1}"#;
    let log = message(&[start(usage), text(), delta(r#"{"output_tokens":5}"#)]).await;
    is(&log, "usage", &[("inputTokens", 603), ("cachedInputTokens", 600), ("outputTokens", 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_15_the_last_delta_has_another_input_than_the_start() {
    let usage =
        r#"{"input_tokens":10423,"output_tokens":510,"server_tool_use":{"web_search_requests":1}}"#;
    let log = message(&[start(r#"{"input_tokens":2039,"output_tokens":4}"#), delta(usage)]).await;
    is(&log, "usage", &[("inputTokens", 10_423), ("outputTokens", 510), ("webSearches", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_16_the_last_delta_has_output_only() {
    let usage = r#"{"input_tokens":9,"cache_creation_input_tokens":30,"cache_creation":
        {"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":1}"#;
    let log = message(&[start(&usage.replace('\n', "")), delta(r#"{"output_tokens":18}"#)]).await;
    let written =
        [("cacheWrite5mTokens", 10), ("cacheWrite1hTokens", 20), ("cacheWriteTokens", 30)];
    is(&log, "usage", &[&written[..], &[("inputTokens", 39), ("outputTokens", 18)]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_17_the_start_comes_twice() {
    let first = start(r#"{"input_tokens":9,"output_tokens":1}"#);
    let log = message(&[first.clone(), first, text(), delta(r#"{"output_tokens":5}"#)]).await;
    is(&log, "usage", &[("inputTokens", 9), ("outputTokens", 5)]);
}

/// Input and output with what one more iteration of that kind had.
fn with_iteration(kind: &str) -> String {
    delta(&format!(
        r#"{{"input_tokens":10,"output_tokens":5,"iterations":[{{"type":"message","input_tokens":10,"output_tokens":5}},{{"type":"{kind}","model":"claude-b","input_tokens":7,"cache_read_input_tokens":1,"output_tokens":2}}]}}"#
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_18_an_advisor_is_outside_of_the_totals() {
    let first = start(r#"{"input_tokens":10,"output_tokens":1}"#);
    let log = message(&[first, with_iteration("advisor_message")]).await;
    is(&log, "usage", &[("inputTokens", 18), ("cachedInputTokens", 1), ("outputTokens", 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_19_of_a_fallback_the_totals_stand() {
    let first = start(r#"{"input_tokens":3,"output_tokens":1}"#);
    let log = message(&[first, with_iteration("fallback_message")]).await;
    is(&log, "usage", &[("inputTokens", 10), ("outputTokens", 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_20_a_compaction_is_outside_of_the_totals() {
    let first = start(r#"{"input_tokens":10,"output_tokens":1}"#);
    let log = message(&[first, with_iteration("compaction")]).await;
    is(&log, "usage", &[("inputTokens", 18), ("cachedInputTokens", 1), ("outputTokens", 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_21_more_thoughts_than_candidates() {
    let usage = r#""promptTokenCount":8,"candidatesTokenCount":2,"thoughtsTokenCount":90,"totalTokenCount":100"#;
    let end = SAID.replacen('{', r#"{"finishReason":"STOP","#, 1);
    let log = contents(&[chunk(&end, usage)]).await;
    is(&log, "usage", &[("inputTokens", 8), ("outputTokens", 92), ("reasoningTokens", 90)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_22_counts_that_fall_from_chunk_to_chunk() {
    let log = contents(&[
        chunk(SAID, r#""promptTokenCount":15,"candidatesTokenCount":183,"totalTokenCount":198"#),
        chunk(SAID, r#""promptTokenCount":14,"candidatesTokenCount":32,"totalTokenCount":46"#),
        chunk(r#"{"finishReason":"STOP"}"#, r#""promptTokenCount":14,"candidatesTokenCount":40"#),
    ])
    .await;
    is(&log, "usage", &[("inputTokens", 14), ("outputTokens", 40)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_23_usage_that_leaves_the_prompt_out() {
    let end = r#"{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}"#;
    let log = contents(&[chunk(end, r#""candidatesTokenCount":7,"totalTokenCount":7"#)]).await;
    assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
    assert_eq!(log.at("usage.outputTokens").count(), 7, "{log}");
    assert!(0 < log.at("usage.inputTokens").count(), "the prompt is counted: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_24_a_type_of_traffic_is_no_usage() {
    let log = contents(&[
        chunk(SAID, r#""trafficType":"ON_DEMAND""#),
        chunk(r#"{"finishReason":"STOP"}"#, r#""promptTokenCount":5,"candidatesTokenCount":2"#),
    ])
    .await;
    is(&log, "usage", &[("inputTokens", 5), ("outputTokens", 2)]);
    let end = r#"{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}"#;
    let log = contents(&[chunk(end, r#""trafficType":"ON_DEMAND""#)]).await;
    assert_eq!(log.at("settledBy").text(), "estimate", "nothing else came: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_25_enums_that_are_numbers() {
    let usage = r#""promptTokenCount":300,"promptTokensDetails":[{"modality":1,"tokenCount":9},{"modality":2,"tokenCount":258},{"modality":4,"tokenCount":33}],"candidatesTokenCount":10"#;
    let array = gemini::json(200, format!("[{}]", chunk(SAID, usage)));
    let target = format!("{ARRAY}?$alt=json;enum-encoding=int");
    let log = billed(&target, &gemini::contents(Some(9)), array).await;
    let parts = [("inputImageTokens", 258), ("inputAudioTokens", 33)];
    is(&log, "usage", &[&parts[..], &[("inputTokens", 300), ("outputTokens", 10)]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_26_an_array_of_chunks_coded_or_not() {
    let usage = |output: u64| format!(r#""promptTokenCount":5,"candidatesTokenCount":{output}"#);
    let text = r#"{"content":{"parts":[{"text":"}\n,\r\n{\"usageMetadata\":{}"}]}}"#;
    let array = format!("[{}\n,\r\n{}\n]", chunk(text, &usage(1)), chunk(SAID, &usage(6)));
    for is_coded in [false, true] {
        let bytes = if is_coded { coded("gzip", array.as_bytes()) } else { array.clone().into() };
        let pieces = bytes.chunks(13).map(|piece| Step::Send(piece.to_vec())).collect();
        let mut plan = Plan { chunked: true, steps: pieces, ..gemini::json(200, "") };
        if is_coded {
            plan.headers.push(("content-encoding", "gzip".to_owned()));
        }
        let log = billed(ARRAY, &gemini::contents(Some(9)), plan).await;
        is(&log, "usage", &[("inputTokens", 5), ("outputTokens", 6)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_27_details_of_the_prompt_in_another_spelling() {
    let answer = r#"{"embeddings":[{"values":[0.5]}],"usageMetadata":{"promptTokenCount":7,"promptTokenDetails":[{"modality":"TEXT","tokenCount":3},{"modality":"IMAGE","tokenCount":4}]}}"#;
    let body = r#"{"requests":[{"model":"models/plain","content":{"parts":[{"text":"x"}]}}]}"#;
    let target = "/v1beta/models/plain:batchEmbedContents";
    let log = billed(target, body, gemini::json(200, answer)).await;
    is(&log, "usage", &[("inputTokens", 7), ("inputImageTokens", 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_28_crlf_cut_between_reads() {
    let usage = r#"{"input_tokens":9,"output_tokens":1}"#;
    let events = [start(usage), text(), delta(r#"{"output_tokens":5}"#), event("message_stop", "")];
    let stream = events.concat().replace('\n', "\r\n");
    let pieces = stream.split_inclusive('\r');
    let plan = Plan::stream(pieces, Duration::ZERO);
    let log = billed(MESSAGES, &anthropic::message("plain", Some(9), true), plan).await;
    is(&log, "usage", &[("inputTokens", 9), ("outputTokens", 5)]);
}

/// A provider that takes its time behind the last delta says that it lives; so does the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn edge_29_comments_and_pings_at_any_place() {
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
    for sign in [ping, comment] {
        let sent = [begun.clone(), sign, event("message_stop", "")];
        let pieces = sent.clone();
        let provider = Upstream::start(move |_| {
            Plan::stream(pieces.clone(), Duration::ZERO).but(2, Step::Stall)
        })
        .await;
        let (_served, tenant) = scene(&provider, "").await;
        let body = anthropic::message("plain", Some(9), true);
        let request = Request::post(MESSAGES, body).bearer(&tenant.key);
        let mut answer = request.send(&tenant.proxy).await;
        let (mut came, wanted) = (Vec::new(), sent[..2].concat());
        while came.len() < wanted.len() {
            came.extend(answer.piece().await.expect("no cut").expect("more to come"));
        }
        assert_eq!(String::from_utf8_lossy(&came), wanted);
        assert!(tenant.records().await.iter().all(|record| record.at("type").text() != "Consume"));
        provider.release();
        let (id, (rest, whole)) = (answer.id(), answer.rest().await);
        assert!(whole && rest == sent[2].as_bytes());
        is(&tenant.log(&id).await, "usage", &[("inputTokens", 9), ("outputTokens", 5)]);
        tenant.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_39_a_text_about_usage_and_letters_cut_in_two() {
    let quoted = r#"\"usage\":{\"output_tokens\":99},\"usageMetadata\":{} data: [DONE]\n\n ö 🌍"#;
    let said = format!(r#","index":0,"delta":{{"type":"text_delta","text":"{quoted}"}}"#);
    let events = [
        start(r#"{"input_tokens":9,"output_tokens":1}"#),
        event("content_block_delta", &said),
        delta(r#"{"output_tokens":5}"#),
        event("message_stop", ""),
    ];
    let bytes = |text: String| text.into_bytes().into_iter().map(|byte| vec![byte]);
    let plan = Plan::stream(bytes(events.concat()), Duration::ZERO);
    let log = billed(MESSAGES, &anthropic::message("plain", Some(9), true), plan).await;
    is(&log, "usage", &[("inputTokens", 9), ("outputTokens", 5)]);
    let part = format!(r#"{{"content":{{"parts":[{{"text":"{quoted}"}}]}}}}"#);
    let body = chunk(&part, r#""promptTokenCount":4,"candidatesTokenCount":3"#);
    let plan = Plan { chunked: true, ..gemini::json(200, "") };
    let plan = Plan { steps: bytes(body).map(Step::Send).collect(), ..plan };
    let log = billed(GENERATE, &gemini::contents(Some(9)), plan).await;
    is(&log, "usage", &[("inputTokens", 4), ("outputTokens", 3)]);
    let events = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{quoted}\"}}}}]}}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":2,\"completion_tokens\":8}}}}\n\ndata: [DONE]\n\n"
    );
    let log = billed(CHAT, ASKING, Plan::stream(bytes(events), Duration::ZERO)).await;
    is(&log, "usage", &[("inputTokens", 2), ("outputTokens", 8)]);
}

/// The log of a call whose client leaves as soon as something came.
async fn left(tenant: &Tenant, target: &str, body: &str) -> Json {
    let request = Request::post(target, body).bearer(&tenant.key);
    let mut answer = request.send(&tenant.proxy).await;
    answer.piece().await.expect("no cut").expect("a first piece");
    let id = answer.id();
    drop(answer);
    eventually("the call of who left is settled", async || {
        tenant.logs().await.into_iter().find(|log| log.at("requestLogId").text() == id)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_40_the_client_is_gone_before_the_usage_came() {
    let provider = Upstream::start(|seen| {
        let events = if seen.target.contains("/messages") {
            vec![start(r#"{"input_tokens":900,"output_tokens":1}"#), text()]
        } else {
            vec![r#"data: {"choices":[{"delta":{"content":"Hello there"}}]}"#.to_owned() + "\n\n"]
        };
        Plan::stream(events, Duration::ZERO).but(9, Step::Stall)
    })
    .await;
    let (_served, tenant) = scene(&provider, "").await;
    let known = left(&tenant, MESSAGES, &anthropic::message("plain", Some(9), true)).await;
    assert_eq!(known.at("usage.inputTokens").count(), 900, "the start told it: {known}");
    let counted = left(&tenant, CHAT, ASKING).await;
    for log in [known, counted] {
        assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
        assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
        assert!(0 < log.at("usage.outputTokens").count() && 0 < log.at("cost").nano(), "{log}");
    }
    tenant.at_rest().await;
}

/// What has gone on behind the last delta is written down, whatever becomes of the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_a_ping_let_go_is_paid_after_a_kill() {
    let begun = [start(r#"{"input_tokens":900,"output_tokens":1}"#), text()].concat();
    let sent = [begun, delta(r#"{"output_tokens":500}"#) + "event: ping\ndata: {}\n\n"];
    let pieces = sent.clone();
    let provider =
        Upstream::start(move |_| Plan::stream(pieces.clone(), Duration::ZERO).but(9, Step::Stall))
            .await;
    let (served, tenant) = scene(&provider, "").await;
    let body = anthropic::message("plain", Some(900), true);
    let request = Request::post(MESSAGES, body).bearer(&tenant.key);
    let mut answer = request.send(&tenant.proxy).await;
    let mut came = 0;
    while came < sent.concat().len() {
        came += answer.piece().await.expect("no cut").expect("more to come").len();
    }
    let served = served.again().await;
    let tenant = served.home(tenant);
    let id = answer.id();
    assert_eq!(tenant.debit(&id).await.at("settledBy").text(), "usage");
    is(&tenant.log(&id).await, "usage", &[("inputTokens", 900), ("outputTokens", 500)]);
    tenant.at_rest().await;
}
