//! Byte-exact Anthropic responses, and request bodies for the Anthropic dialect.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::Usage;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};

/// The text of the fake response, in stream deltas. The last two look like usage and like an event
/// and must not be read as such.
pub const WORDS: &[&str] = &[
    "Hello",
    ", wörld",
    " 🌍",
    r#" \"usage\":{\"output_tokens\":9}"#,
    r"\n\nevent: message_delta\ndata: {}\n\n",
];

/// The tool that the fake upstream calls if the request offers any tool.
pub const TOOL: &str = "get_weather";
const TOOL_INPUT: &str = r#"{"city":"Kraków"}"#;

/// Anthropic reports cached input separately from other input.
fn input_usage(usage: Usage) -> String {
    let uncached = usage.prompt - usage.cached;
    format!(
        r#""input_tokens":{uncached},"cache_creation_input_tokens":0,"cache_read_input_tokens":{}"#,
        usage.cached
    )
}

/// Usage of a complete message. The first event of a stream has the same form, with an output of 1.
fn usage_json(usage: Usage, output: u64) -> String {
    format!(
        r#"{{{},"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":{output},"service_tier":"standard","inference_geo":"global"}}"#,
        input_usage(usage)
    )
}

fn message_json(content: &str, stop_reason: &str, usage: Usage) -> String {
    let usage = usage_json(usage, usage.completion);
    format!(
        r#"{{"model":"claude-fake-1-20260101","id":"msg_01Fake","type":"message","role":"assistant","content":[{content}],"stop_reason":"{stop_reason}","stop_sequence":null,"usage":{usage}}}"#
    )
}

/// Response body of a message without streaming.
pub fn complete_message(usage: Usage) -> String {
    let text = format!(r#"{{"type":"text","text":"{}"}}"#, WORDS.concat());
    message_json(&text, "end_turn", usage)
}

/// Like [`complete_message`], with a tool call.
pub fn tool_use(usage: Usage) -> String {
    let call = format!(
        r#"{{"type":"tool_use","id":"toolu_01Fake","name":"{TOOL}","input":{TOOL_INPUT}}}"#
    );
    message_json(&call, "tool_use", usage)
}

/// An event whose `data` is padded with spaces, as Anthropic does.
fn event(kind: &str, members: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{members}      }}\n\n")
}

fn stream(
    block: &str,
    deltas: impl Iterator<Item = String>,
    stop_reason: &str,
    u: Usage,
) -> Vec<String> {
    let message = format!(
        r#","message":{{"model":"claude-fake-1-20260101","id":"msg_01Fake","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{}}}"#,
        usage_json(u, 1)
    );
    let end = format!(
        r#","delta":{{"stop_reason":"{stop_reason}","stop_sequence":null}},"usage":{{{},"output_tokens":{},"output_tokens_details":{{"thinking_tokens":{}}}}}"#,
        input_usage(u),
        u.completion,
        u.reasoning
    );
    let mut events = vec![
        event("message_start", &message),
        event("content_block_start", &format!(r#","index":0,"content_block":{block}"#)),
        "event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned(),
    ];
    events.extend(
        deltas.map(|delta| event("content_block_delta", &format!(r#","index":0,"delta":{delta}"#))),
    );
    events.push(event("content_block_stop", r#","index":0"#));
    events.push(event("message_delta", &end));
    events.push(event("message_stop", ""));
    events
}

/// Events of a streamed message.
pub fn events(words: &[&str], usage: Usage) -> Vec<String> {
    let deltas = words.iter().map(|word| format!(r#"{{"type":"text_delta","text":"{word}"}}"#));
    stream(r#"{"type":"text","text":""}"#, deltas, "end_turn", usage)
}

/// Like [`events`], with a tool call whose input is split into pieces of JSON.
pub fn tool_events(usage: Usage) -> Vec<String> {
    let escaped = TOOL_INPUT.replace('"', "\\\"");
    let (first, second) = escaped.split_at(7);
    let deltas = ["", first, second].into_iter();
    let deltas =
        deltas.map(|part| format!(r#"{{"type":"input_json_delta","partial_json":"{part}"}}"#));
    let block =
        format!(r#"{{"type":"tool_use","id":"toolu_01Fake","name":"{TOOL}","input":{{}}}}"#);
    stream(&block, deltas, "tool_use", usage)
}

/// Response body of `count_tokens`.
pub fn token_count(usage: Usage) -> String {
    format!(r#"{{"input_tokens":{}}}"#, usage.prompt)
}

/// An error response body, such as `overloaded_error`.
pub fn error(kind: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"{kind}","message":"Failed by plan"}},"request_id":"req_011Fake"}}"#
    )
}

/// The same error as an event within a stream.
pub fn error_event(kind: &str) -> String {
    format!("event: error\ndata: {}\n\n", error(kind))
}

/// The response that fits the request: a token count, streamed or whole, with a tool call if a tool
/// is offered.
pub fn reply(seen: &ReceivedRequest, usage: Usage, pace: Duration) -> Plan {
    let offered = seen.json().find("tools").is_some();
    if seen.target.contains("/count_tokens") {
        Plan::json(200, token_count(usage))
    } else if seen.is_set("stream") {
        Plan::stream(if offered { tool_events(usage) } else { events(WORDS, usage) }, pace)
    } else {
        Plan::json(200, if offered { tool_use(usage) } else { complete_message(usage) })
    }
}

/// A request body for `/v1/messages`. Anthropic requires `max_tokens`; `None` leaves it out.
pub fn message(model: &str, max_tokens: Option<u64>, stream: bool) -> String {
    let bound = max_tokens.map_or(String::new(), |tokens| format!(r#","max_tokens":{tokens}"#));
    format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}]{bound},"stream":{stream}}}"#
    )
}

#[tokio::test]
async fn fake_anthropic_responses_are_valid_json_and_report_usage() {
    let usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 1 };
    let provider = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
    let address = provider.url.trim_start_matches("http://");
    let send = async |path: &str, body: String| {
        let request = Request::post(path, body);
        request.send(address).await.text().await
    };
    let plain = |stream| message("claude-fake-1", Some(20), stream);
    let offering = |stream| plain(stream).replacen('{', r#"{"tools":[],"#, 1);
    for (body, stop_reason) in [(plain(false), "end_turn"), (offering(false), "tool_use")] {
        let response = Json::new(&send("/v1/messages", body).await);
        assert_eq!(response.at("stop_reason").text(), stop_reason);
        assert_eq!(
            response.at("usage.input_tokens").count(),
            12,
            "cached input is reported separately"
        );
        assert_eq!(response.at("usage.cache_read_input_tokens").count(), 2);
        assert_eq!(response.at("usage.output_tokens").count(), 6);
    }
    for (body, stop_reason) in [(plain(true), "end_turn"), (offering(true), "tool_use")] {
        let response = send("/v1/messages", body).await;
        let mut last = None;
        for event in response.split_terminator("\n\n") {
            let (kind, data) = event.split_once("\ndata: ").expect("a kind and its data");
            let data = Json::new(data);
            assert_eq!(kind, format!("event: {}", data.at("type").text()));
            last = data.find("delta.stop_reason").is_some().then_some(data).or(last);
        }
        let last = last.expect("a message_delta");
        assert_eq!(last.at("delta.stop_reason").text(), stop_reason);
        assert_eq!(last.at("usage.output_tokens").count(), 6, "{last}");
        assert!(
            response.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"      }\n\n")
        );
    }
    let counted = send("/v1/messages/count_tokens", message("claude-fake-1", None, false)).await;
    assert_eq!(Json::new(&counted).at("input_tokens").count(), 14);
    let event = error_event("overloaded_error");
    let data = event.strip_prefix("event: error\ndata: ").expect("its kind comes first");
    assert_eq!(Json::new(data).at("error.type").text(), "overloaded_error");
}
