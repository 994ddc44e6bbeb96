//! The generated output of a response, and its reported usage.

use crate::demo::canned_text;
use crate::demo::request::{DemoRequest, GenerationParams};
use crate::demo::script::TOKENS_MAX;

/// The output of each choice.
#[derive(Debug)]
pub struct Generation {
    /// Hidden reasoning tokens.
    pub reasoning_tokens: u64,
    /// Tokens of the text, or of the arguments of a tool call.
    pub tokens: Vec<String>,
    /// Whether the output limit cut the tokens short.
    pub is_truncated: bool,
}

/// The tokens of one stream event.
#[derive(Debug)]
pub struct TextDelta {
    pub text: String,
    /// Number of tokens in `text`.
    pub tokens: u64,
}

/// Reported usage of all choices together.
#[derive(Debug, Clone, Copy)]
pub struct ReportedUsage {
    /// Input tokens, including cached ones.
    pub input: u64,
    /// Input tokens read from a cache.
    pub cached: u64,
    /// Hidden reasoning tokens.
    pub reasoning: u64,
    /// All other output tokens.
    pub visible: u64,
}

/// Number of tokens per stream event, repeated as a cycle.
const TOKENS_PER_DELTA: [usize; 4] = [1, 2, 3, 2];

impl Generation {
    /// Generates the output. Reasoning comes first and counts towards the output limit.
    pub fn generate(request: &DemoRequest<GenerationParams>) -> Self {
        let (params, script) = (&request.params, &request.script);
        let bound = params.output_bound.unwrap_or(2 * TOKENS_MAX);
        let default = params.reasoning_tokens.min(bound / 2);
        let reasoning_tokens = script.reasoning_tokens.unwrap_or(default).min(bound);
        let mut tokens = match &params.tool {
            Some(tool) => canned_text::split_tokens(&tool.arguments),
            None => canned_text::tokens(script.tokens.unwrap_or_else(canned_text::default_tokens))
                .collect(),
        };
        let available = usize::try_from(bound - reasoning_tokens).unwrap_or(usize::MAX);
        let is_truncated = available < tokens.len();
        tokens.truncate(available);
        Self { reasoning_tokens, tokens, is_truncated }
    }

    pub fn text(&self) -> String {
        self.tokens.concat()
    }

    /// Splits the text into stream events.
    pub fn deltas(&self) -> Vec<TextDelta> {
        let mut rest = &self.tokens[..];
        let mut deltas = Vec::new();
        for count in TOKENS_PER_DELTA.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (delta, remaining) = rest.split_at(count.min(rest.len()));
            deltas.push(TextDelta { text: delta.concat(), tokens: delta.len() as u64 });
            rest = remaining;
        }
        deltas
    }
}

impl ReportedUsage {
    /// Sums the usage of all generations. `None` if the script turns usage off.
    pub fn of(request: &DemoRequest<GenerationParams>, generation: &Generation) -> Option<Self> {
        let (params, script) = (&request.params, &request.script);
        let input = script.input_tokens.unwrap_or(params.input_tokens);
        let used = Self {
            input,
            cached: script.cached_tokens.min(input),
            reasoning: params.generations * generation.reasoning_tokens,
            visible: params.generations * generation.tokens.len() as u64,
        };
        script.reports_usage.then_some(used)
    }

    pub const fn output(&self) -> u64 {
        self.reasoning + self.visible
    }
}
