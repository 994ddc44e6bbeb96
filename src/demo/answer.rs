//! What an answer says, how long it is, and the usage that is reported for it.

use crate::demo::ask::{Asked, Talk};
use crate::demo::prose;
use crate::demo::script::TOKENS_MAX;

/// What each choice says, and how much thought comes before it.
#[derive(Debug)]
pub struct Answer {
    /// Tokens that nobody sees.
    pub thought: u64,
    /// The tokens of the text, or of the arguments that a tool is called with.
    pub tokens: Vec<String>,
    /// Whether the bound came before the end.
    pub is_short: bool,
}

/// A few tokens of an answer, as a stream carries them.
#[derive(Debug)]
pub struct Portion {
    /// Their text.
    pub text: String,
    /// How many they are.
    pub tokens: u64,
}

/// What the provider says that was used, over all choices.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Input tokens, those from a cache included.
    pub input: u64,
    /// How many of them came from a cache.
    pub cached: u64,
    /// Hidden output tokens.
    pub thought: u64,
    /// All other output tokens.
    pub said: u64,
}

/// How many tokens come in each portion, over and over.
const TOKENS_OF_PORTIONS: [usize; 4] = [1, 2, 3, 2];

impl Answer {
    /// A reasoning model thinks before it says a word, and its bound counts the thoughts too.
    pub fn to(asked: &Asked<Talk>) -> Self {
        let (talk, script) = (&asked.wish, &asked.script);
        let bound = talk.output_bound.unwrap_or(2 * TOKENS_MAX);
        let usual = talk.thought_tokens.min(bound / 2);
        let thought = script.reasoning_tokens.unwrap_or(usual).min(bound);
        let mut tokens = match &talk.tool {
            Some(tool) => prose::cut_up(&tool.arguments),
            None => prose::tokens(script.tokens.unwrap_or_else(prose::usual_tokens)).collect(),
        };
        let left = usize::try_from(bound - thought).unwrap_or(usize::MAX);
        let is_short = left < tokens.len();
        tokens.truncate(left);
        Self { thought, tokens, is_short }
    }

    /// All that it says.
    pub fn text(&self) -> String {
        self.tokens.concat()
    }

    /// The same a few tokens at a time.
    pub fn portions(&self) -> Vec<Portion> {
        let mut rest = &self.tokens[..];
        let mut portions = Vec::new();
        for count in TOKENS_OF_PORTIONS.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (portion, later) = rest.split_at(count.min(rest.len()));
            portions.push(Portion { text: portion.concat(), tokens: portion.len() as u64 });
            rest = later;
        }
        portions
    }
}

impl Used {
    /// All drafts together; none if the script says that it is not told.
    pub fn of(asked: &Asked<Talk>, answer: &Answer) -> Option<Self> {
        let (talk, script) = (&asked.wish, &asked.script);
        let input = script.input_tokens.unwrap_or(talk.input_tokens);
        let used = Self {
            input,
            cached: script.cached_tokens.min(input),
            thought: talk.drafts * answer.thought,
            said: talk.drafts * answer.tokens.len() as u64,
        };
        script.reports_usage.then_some(used)
    }

    /// All output tokens.
    pub const fn output(&self) -> u64 {
        self.thought + self.said
    }
}
