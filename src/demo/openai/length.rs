//! How long an answer is, and the usage that is reported for it.

use serde::Serialize;

use crate::demo::openai::ask::Ask;
use crate::demo::prose;
use crate::demo::script::{Script, TOKENS_MAX};

/// How much text each choice has, and how much thought before it.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    /// Tokens that nobody sees.
    pub thought: u64,
    /// Tokens of the text.
    pub text: u64,
    /// Why the text ends there.
    pub finish_reason: &'static str,
}

/// What the answer says that it used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: InputParts,
    completion_tokens_details: OutputParts,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct InputParts {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct OutputParts {
    #[serde(rename = "reasoning_tokens")]
    reasoning: u64,
    #[serde(rename = "audio_tokens")]
    audio: u64,
    #[serde(rename = "accepted_prediction_tokens")]
    accepted: u64,
    #[serde(rename = "rejected_prediction_tokens")]
    rejected: u64,
}

/// Hidden tokens of a reasoning model, unless the script says how many.
const THOUGHT_TOKENS: u64 = 32;

impl Length {
    /// A reasoning model thinks before it says a word, and its bound counts the thoughts too.
    pub fn of(ask: &Ask, script: &Script) -> Self {
        let bound = ask.output_bound.unwrap_or(2 * TOKENS_MAX);
        let usual = if reasons(&ask.model) { THOUGHT_TOKENS.min(bound / 2) } else { 0 };
        let thought = script.reasoning_tokens.unwrap_or(usual).min(bound);
        let wanted = script.tokens.unwrap_or_else(prose::usual_tokens);
        let text = wanted.min(bound - thought);
        Self { thought, text, finish_reason: if text < wanted { "length" } else { "stop" } }
    }
}

/// `gpt-5…`, `o1…`, `o4-mini`.
fn reasons(model: &str) -> bool {
    let numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    model.starts_with("gpt-5") || model.strip_prefix('o').is_some_and(numbered)
}

impl Usage {
    /// All choices together.
    pub fn of(ask: &Ask, script: &Script, length: Length) -> Self {
        let prompt_tokens = script.input_tokens.unwrap_or(ask.input_tokens);
        let completion_tokens = ask.choices * (length.thought + length.text);
        let cached_tokens = script.cached_tokens.min(prompt_tokens);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: InputParts { cached_tokens, audio_tokens: 0 },
            completion_tokens_details: OutputParts {
                reasoning: ask.choices * length.thought,
                ..OutputParts::default()
            },
        }
    }
}
