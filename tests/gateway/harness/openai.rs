//! What an OpenAI-speaking provider says, byte for byte, and what the tests ask it.

use std::time::Duration;

use crate::harness::upstream::{Plan, ReceivedRequest};

/// What a call used, as the provider reports it.
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

/// The words of the fake answer; the last ones look like usage, and are not.
pub const WORDS: &[&str] =
    &["Hello", ", wörld", " 🌍", r#" \"usage\":null"#, r#" {\"usage\":{\"prompt_tokens\":9}}"#];

/// The tool that it calls when it is offered any, and what it calls it with.
pub const TOOL: &str = "get_weather";
const ARGUMENTS: [&str; 2] = [r#"{\"city\""#, r#":\"Kraków\"}"#];

const STEM: &str =
    r#""id":"chatcmpl-Fake1","created":1700000000,"model":"fake-2026","service_tier":"default""#;

/// The body of a call that was not streamed.
pub fn completion(usage: Usage) -> String {
    chat_completion(&format!(r#""content":"{}""#, WORDS.concat()), "stop", usage)
}

/// The same for a call that offers a tool.
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

/// The events of a streamed call; with usage as the provider sends it to one who asked for it.
pub fn events(words: &[&str], asked: Option<Usage>) -> Vec<String> {
    let said = words.iter().map(|word| format!(r#"{{"content":"{word}"}}"#));
    let deltas = [r#"{"role":"assistant","content":""}"#.to_owned()].into_iter().chain(said);
    stream(deltas, "stop", asked)
}

/// The same for a call that offers a tool: its arguments come as pieces of JSON.
pub fn tool_events(asked: Option<Usage>) -> Vec<String> {
    let call = tool_call_json(&format!(r#""name":"{TOOL}","arguments":"""#));
    let first =
        format!(r#"{{"role":"assistant","content":null,"tool_calls":[{{"index":0,{call}}}]}}"#);
    let parts = ARGUMENTS.iter().map(|part| {
        format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{part}"}}}}]}}"#)
    });
    stream([first].into_iter().chain(parts), "tool_calls", asked)
}

fn stream(deltas: impl Iterator<Item = String>, reason: &str, asked: Option<Usage>) -> Vec<String> {
    let end = asked.map_or("", |_| ",\"usage\":null");
    let delta = |delta: &str, reason: &str| {
        event(&format!("{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}"), end)
    };
    let mut events: Vec<String> = deltas.map(|said| delta(&said, "null")).collect();
    events.push(delta("{}", &format!("\"{reason}\"")));
    events.extend(asked.map(|usage| event("", &format!(",\"usage\":{}", usage.json()))));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// The answer of `/v1/embeddings` to this many texts.
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

/// An error of the provider's own.
pub fn error() -> &'static str {
    r#"{"error":{"message":"Failed by plan","type":"server_error","param":null,"code":"failed_by_plan"}}"#
}

/// The same in the midst of a stream.
pub fn error_event() -> String {
    format!("data: {}\n\n", error())
}

/// Answers as the request asks: embedded, streamed or whole, with usage where it is asked for, and
/// with a tool where one is offered.
pub fn reply(seen: &ReceivedRequest, usage: Usage, pace: Duration) -> Plan {
    let offered = seen.json().find("tools").is_some();
    if seen.target.contains("/embeddings") {
        Plan::json(200, embeddings(seen.json().at("input").list().len(), usage))
    } else if seen.is_set("stream") {
        let asked = seen.is_set("stream_options.include_usage").then_some(usage);
        Plan::stream(if offered { tool_events(asked) } else { events(WORDS, asked) }, pace)
    } else {
        Plan::json(200, if offered { tool_call(usage) } else { completion(usage) })
    }
}

/// A chat call with an explicit bound of its output.
pub fn chat(model: &str, max_tokens: u64, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}],"max_tokens":{max_tokens},"stream":{stream}}}"#
    )
}

/// The most that a call can use: every byte of its body a token, and all it may answer.
pub fn bound(body: &str, max_tokens: u64) -> Usage {
    Usage::of(body.len() as u64, max_tokens)
}
