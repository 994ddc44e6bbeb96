//! Byte-exact OpenAI responses, and request bodies for the OpenAI dialect.

use std::time::Duration;

use crate::harness::upstream::{Plan, ReceivedRequest};

/// Token usage as the upstream reports it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    pub prompt: u64,
    pub completion: u64,
    /// Part of `prompt`.
    pub cached: u64,
    /// Part of `completion`.
    pub reasoning: u64,
}

impl Usage {
    pub fn of(prompt: u64, completion: u64) -> Self {
        Self { prompt, completion, ..Self::default() }
    }

    pub fn total(self) -> u64 {
        self.prompt + self.completion
    }

    fn json(self) -> String {
        let Self { prompt, completion, cached, reasoning } = self;
        format!(
            r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{cached},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#,
            self.total()
        )
    }
}

/// The text of the fake response, in stream deltas. The last two look like usage and must not be
/// read as such.
pub const WORDS: &[&str] =
    &["Hello", ", wörld", " 🌍", r#" \"usage\":null"#, r#" {\"usage\":{\"prompt_tokens\":9}}"#];

/// The tool that the fake upstream calls if the request offers any tool.
pub const TOOL: &str = "get_weather";
const ARGUMENTS: [&str; 2] = [r#"{\"city\""#, r#":\"Kraków\"}"#];

const STEM: &str =
    r#""id":"chatcmpl-Fake1","created":1700000000,"model":"fake-2026","service_tier":"default""#;

/// Response body of a chat completion without streaming.
pub fn completion(usage: Usage) -> String {
    chat_completion(&format!(r#""content":"{}""#, WORDS.concat()), "stop", usage)
}

/// Like [`completion`], with a tool call.
pub fn tool_call(usage: Usage) -> String {
    let call = tool_call_json(&format!(r#""name":"{TOOL}","arguments":"{}""#, ARGUMENTS.concat()));
    chat_completion(&format!(r#""content":null,"tool_calls":[{{{call}}}]"#), "tool_calls", usage)
}

fn tool_call_json(function: &str) -> String {
    format!(r#""id":"call_Fake1","type":"function","function":{{{function}}}"#)
}

fn chat_completion(message: &str, reason: &str, usage: Usage) -> String {
    let usage = usage.json();
    format!(
        "{{{STEM},\"object\":\"chat.completion\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\
         \"assistant\",{message},\"refusal\":null}},\"logprobs\":null,\
         \"finish_reason\":\"{reason}\"}}],\n  \"usage\":{usage},\"system_fingerprint\":\"fp_1\"}}\n"
    )
}

fn event(choices: &str, end: &str) -> String {
    format!(
        "data: {{{STEM},\"object\":\"chat.completion.chunk\",\"choices\":[{choices}]{end}}}\n\n"
    )
}

/// Events of a streamed chat completion. `usage` is set if the request asked for it.
pub fn events(words: &[&str], usage: Option<Usage>) -> Vec<String> {
    let deltas_of_words = words.iter().map(|word| format!(r#"{{"content":"{word}"}}"#));
    let deltas =
        [r#"{"role":"assistant","content":""}"#.to_owned()].into_iter().chain(deltas_of_words);
    stream(deltas, "stop", usage)
}

/// Like [`events`], with a tool call whose arguments are split into pieces of JSON.
pub fn tool_events(usage: Option<Usage>) -> Vec<String> {
    let call = tool_call_json(&format!(r#""name":"{TOOL}","arguments":"""#));
    let first =
        format!(r#"{{"role":"assistant","content":null,"tool_calls":[{{"index":0,{call}}}]}}"#);
    let parts = ARGUMENTS.iter().map(|part| {
        format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{part}"}}}}]}}"#)
    });
    stream([first].into_iter().chain(parts), "tool_calls", usage)
}

fn stream(deltas: impl Iterator<Item = String>, reason: &str, usage: Option<Usage>) -> Vec<String> {
    let end = usage.map_or("", |_| ",\"usage\":null");
    let delta = |delta: &str, reason: &str| {
        event(&format!("{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}"), end)
    };
    let mut events: Vec<String> =
        deltas.map(|deltas_of_words| delta(&deltas_of_words, "null")).collect();
    events.push(delta("{}", &format!("\"{reason}\"")));
    events.extend(usage.map(|usage| event("", &format!(",\"usage\":{}", usage.json()))));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// Response body of `/v1/embeddings` for `texts` inputs.
pub fn embeddings(texts: usize, usage: Usage) -> String {
    let each = (0..texts).map(|index| {
        format!(r#"{{"object":"embedding","index":{index},"embedding":[0.25,-0.5,0.125]}}"#)
    });
    let each = each.collect::<Vec<_>>().join(",");
    format!(
        r#"{{"object":"list","data":[{each}],"model":"fake-2026","usage":{{"prompt_tokens":{0},"total_tokens":{0}}}}}"#,
        usage.prompt
    )
}

/// An error response body of the upstream.
pub fn error() -> &'static str {
    r#"{"error":{"message":"Failed by plan","type":"server_error","param":null,"code":"failed_by_plan"}}"#
}

/// The same error as an event within a stream.
pub fn error_event() -> String {
    format!("data: {}\n\n", error())
}

/// The response that fits the request: embeddings, streamed or whole, with usage if requested and a
/// tool call if a tool is offered.
pub fn reply(seen: &ReceivedRequest, usage: Usage, pace: Duration) -> Plan {
    let offered = seen.json().find("tools").is_some();
    if seen.target.contains("/embeddings") {
        Plan::json(200, embeddings(seen.json().at("input").list().len(), usage))
    } else if seen.is_set("stream") {
        let usage = seen.is_set("stream_options.include_usage").then_some(usage);
        Plan::stream(if offered { tool_events(usage) } else { events(WORDS, usage) }, pace)
    } else {
        Plan::json(200, if offered { tool_call(usage) } else { completion(usage) })
    }
}

/// A chat completion request with an output limit.
pub fn chat(model: &str, max_tokens: u64, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}],"max_tokens":{max_tokens},"stream":{stream}}}"#
    )
}

/// The largest usage of a call: one token per byte of its body, plus its maximum output.
pub fn bound(body: &str, max_tokens: u64) -> Usage {
    Usage::of(body.len() as u64, max_tokens)
}
