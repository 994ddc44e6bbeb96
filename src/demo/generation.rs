//! What an answer says, how long it is, and the usage that is reported for it.

use crate::demo::canned_text;
use crate::demo::request::{DemoRequest, GenerationParams};
use crate::demo::script::TOKENS_MAX;

/// What each choice says, and how much thought comes before it.
#[derive(Debug)]
pub struct Generation {
    /// Tokens that nobody sees.
    pub reasoning_tokens: u64,
    /// The tokens of the text, or of the arguments that a tool is called with.
    pub tokens: Vec<String>,
    /// Whether the bound came before the end.
    pub is_truncated: bool,
}

/// A few tokens of an answer, as a stream carries them.
#[derive(Debug)]
pub struct TextDelta {
    /// Their text.
    pub text: String,
    /// How many they are.
    pub tokens: u64,
}

/// What the provider says that was used, over all choices.
#[derive(Debug, Clone, Copy)]
pub struct ReportedUsage {
    /// Input tokens, those from a cache included.
    pub input: u64,
    /// How many of them came from a cache.
    pub cached: u64,
    /// Hidden output tokens.
    pub reasoning: u64,
    /// All other output tokens.
    pub visible: u64,
}

/// How many tokens come in each portion, over and over.
const TOKENS_PER_DELTA: [usize; 4] = [1, 2, 3, 2];

impl Generation {
    /// A reasoning model thinks before it says a word, and its bound counts the thoughts too.
    pub fn generate(asked: &DemoRequest<GenerationParams>) -> Self {
        let (talk, script) = (&asked.params, &asked.script);
        let bound = talk.output_bound.unwrap_or(2 * TOKENS_MAX);
        let usual = talk.reasoning_tokens.min(bound / 2);
        let reasoning_tokens = script.reasoning_tokens.unwrap_or(usual).min(bound);
        let mut tokens = match &talk.tool {
            Some(tool) => canned_text::split_tokens(&tool.arguments),
            None => canned_text::tokens(script.tokens.unwrap_or_else(canned_text::default_tokens))
                .collect(),
        };
        let left = usize::try_from(bound - reasoning_tokens).unwrap_or(usize::MAX);
        let is_truncated = left < tokens.len();
        tokens.truncate(left);
        Self { reasoning_tokens, tokens, is_truncated }
    }

    /// All that it says.
    pub fn text(&self) -> String {
        self.tokens.concat()
    }

    /// The same a few tokens at a time.
    pub fn deltas(&self) -> Vec<TextDelta> {
        let mut rest = &self.tokens[..];
        let mut portions = Vec::new();
        for count in TOKENS_PER_DELTA.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (portion, later) = rest.split_at(count.min(rest.len()));
            portions.push(TextDelta { text: portion.concat(), tokens: portion.len() as u64 });
            rest = later;
        }
        portions
    }
}

impl ReportedUsage {
    /// All drafts together; none if the script says that it is not told.
    pub fn of(asked: &DemoRequest<GenerationParams>, answer: &Generation) -> Option<Self> {
        let (talk, script) = (&asked.params, &asked.script);
        let input = script.input_tokens.unwrap_or(talk.input_tokens);
        let used = Self {
            input,
            cached: script.cached_tokens.min(input),
            reasoning: talk.generations * answer.reasoning_tokens,
            visible: talk.generations * answer.tokens.len() as u64,
        };
        script.reports_usage.then_some(used)
    }

    /// All output tokens.
    pub const fn output(&self) -> u64 {
        self.reasoning + self.visible
    }
}
