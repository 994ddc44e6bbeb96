//! What an OpenAI-speaking provider says, byte for byte, and what the tests ask it.

use std::time::Duration;

use crate::upstream::{Plan, Seen};

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

const STEM: &str =
    r#""id":"chatcmpl-Fake1","created":1700000000,"model":"fake-2026","service_tier":"default""#;

/// The body of a call that was not streamed.
pub fn completion(usage: Usage) -> String {
    let text = WORDS.concat();
    let usage = usage.json();
    format!(
        "{{{STEM},\"object\":\"chat.completion\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\
         \"assistant\",\"content\":\"{text}\",\"refusal\":null}},\"logprobs\":null,\
         \"finish_reason\":\"stop\"}}],\n  \"usage\":{usage},\"system_fingerprint\":\"fp_1\"}}\n"
    )
}

fn event(choices: &str, end: &str) -> String {
    format!(
        "data: {{{STEM},\"object\":\"chat.completion.chunk\",\"choices\":[{choices}]{end}}}\n\n"
    )
}

/// The events of a streamed call; with usage as the provider sends it to one who asked for it.
pub fn events(words: &[&str], asked: Option<Usage>) -> Vec<String> {
    let end = asked.map_or("", |_| ",\"usage\":null");
    let delta = |delta: &str, reason: &str| {
        event(&format!("{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}"), end)
    };
    let said = words.iter().map(|word| delta(&format!("{{\"content\":\"{word}\"}}"), "null"));
    let mut events = vec![delta(r#"{"role":"assistant","content":""}"#, "null")];
    events.extend(said);
    events.push(delta("{}", "\"stop\""));
    events.extend(asked.map(|usage| event("", &format!(",\"usage\":{}", usage.json()))));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// Answers as the request asks: streamed or not, with usage where it is asked for.
pub fn reply(seen: &Seen, usage: Usage, pace: Duration) -> Plan {
    if seen.wants("stream") {
        let asked = seen.wants("stream_options.include_usage").then_some(usage);
        Plan::stream(events(WORDS, asked), pace)
    } else {
        Plan::json(200, completion(usage))
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
