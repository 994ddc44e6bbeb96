//! Counts the tokens of a prompt: exactly for OpenAI's models, with a margin for others.
//!
//! The first use of a vocabulary in a process unpacks it, which takes some 50 ms.

use crate::dialect::endpoint::Dialect;
use crate::dialect::prompt_text::PromptText;

/// The vocabulary with which the tokens of a model are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vocabulary {
    encoding: &'static str,
    /// Percentage of the count that bounds the tokens of the model.
    percent: u64,
    /// Whether OpenAI serves the model, so that its prompt template is known.
    is_openai: bool,
}

const O200K: Vocabulary = Vocabulary { encoding: "o200k_base", percent: 100, is_openai: true };
const CL100K: Vocabulary = Vocabulary { encoding: "cl100k_base", percent: 100, is_openai: true };
const OPEN_WEIGHTS: Vocabulary = Vocabulary { is_openai: false, ..O200K };

// Tokens that other vocabularies need for 100 tokens of o200k, with a margin.
const CLAUDE: Vocabulary = Vocabulary { percent: 135, ..OPEN_WEIGHTS };
const GEMINI: Vocabulary = Vocabulary { percent: 125, ..OPEN_WEIGHTS };
const OTHER: Vocabulary = Vocabulary { percent: 130, ..OPEN_WEIGHTS };

/// Returns the tokens of a prompt for `model`, the name of the model at its provider; at least 1.
///
/// The result is an upper bound if the vocabulary is that of the model and the prompt is text. For
/// other models it is an empirical bound, with one token per letter of non-Latin scripts.
pub fn count(model: &str, dialect: Dialect, prompt: &PromptText<'_>) -> u64 {
    let vocabulary = vocabulary(model, dialect);
    let encoding = tiktoken::get_encoding(vocabulary.encoding);
    let hundredths = prompt.texts.iter().map(|text| {
        // Without a vocabulary, one token per byte is an upper bound.
        let tokens = encoding.map_or(text.len(), |encoding| encoding.count(text)) as u64;
        let is_exact = vocabulary.percent == 100;
        let tokens_min =
            if is_exact { 0 } else { text.chars().filter(|char| !char.is_ascii()).count() };
        (tokens * vocabulary.percent).max(tokens_min as u64 * 100)
    });
    let overhead =
        prompt.overhead + if vocabulary.is_openai { 0 } else { prompt.non_openai_overhead };
    (hundredths.sum::<u64>().div_ceil(100) + overhead).max(1)
}

fn vocabulary(model: &str, dialect: Dialect) -> Vocabulary {
    // Resellers prefix names with the vendor, and fine-tuned models with `ft:`.
    let name = model.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let name = name.strip_prefix("ft:").unwrap_or(&name);
    let has_prefix = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match dialect {
        Dialect::Anthropic => CLAUDE,
        Dialect::Gemini => GEMINI,
        Dialect::OpenAi if name.contains("claude") => CLAUDE,
        Dialect::OpenAi if name.contains("gemini") => GEMINI,
        Dialect::OpenAi if name.starts_with("gpt-oss") => OPEN_WEIGHTS,
        Dialect::OpenAi if name == "gpt-4" => CL100K,
        Dialect::OpenAi
            if has_prefix(&[
                "gpt-4-",
                "gpt-3.5",
                "gpt-35",
                "text-embedding-3",
                "text-embedding-ada",
            ]) =>
        {
            CL100K
        }
        Dialect::OpenAi if has_prefix(&["gpt-", "chatgpt-", "o1", "o3", "o4"]) => O200K,
        Dialect::OpenAi => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::endpoint::Endpoint;
    use crate::dialect::prompt;

    #[test]
    fn models_are_counted_with_their_vocabulary_or_a_margin() {
        for (model, dialect, expected) in [
            ("gpt-4o-mini", Dialect::OpenAi, O200K),
            ("openai/gpt-4.1", Dialect::OpenAi, O200K),
            ("ft:gpt-4o:acme", Dialect::OpenAi, O200K),
            ("o3-mini", Dialect::OpenAi, O200K),
            ("chatgpt-4o-latest", Dialect::OpenAi, O200K),
            ("gpt-4", Dialect::OpenAi, CL100K),
            ("gpt-4-turbo", Dialect::OpenAi, CL100K),
            ("gpt-3.5-turbo", Dialect::OpenAi, CL100K),
            ("text-embedding-3-small", Dialect::OpenAi, CL100K),
            ("openai/gpt-oss-120b", Dialect::OpenAi, OPEN_WEIGHTS),
            ("text-embedding-v4", Dialect::OpenAi, OTHER),
            ("llama-3.3-70b", Dialect::OpenAi, OTHER),
            ("anthropic/claude-opus", Dialect::OpenAi, CLAUDE),
            ("gemini-2.5-flash", Dialect::OpenAi, GEMINI),
            ("anything", Dialect::Anthropic, CLAUDE),
            ("text-embedding-004", Dialect::Gemini, GEMINI),
        ] {
            assert_eq!(vocabulary(model, dialect), expected, "{model}");
        }
    }

    #[test]
    fn counts_are_those_of_the_vocabulary() {
        let prompt = |text: &'static str| PromptText {
            texts: vec![text.into()],
            overhead: 7,
            non_openai_overhead: 100,
            is_text_only: true,
        };
        let hello = prompt("hello world");
        assert_eq!(count("gpt-4o", Dialect::OpenAi, &hello), 2 + 7);
        assert_eq!(count("llama", Dialect::OpenAi, &hello), 3 + 7 + 100, "2.6 is rounded up");
        // The vocabularies differ in Chinese text.
        let chinese = prompt("你好,世界");
        assert_eq!(count("gpt-4o", Dialect::OpenAi, &chinese), 3 + 7);
        assert_eq!(count("gpt-4", Dialect::OpenAi, &chinese), 6 + 7);
        let special = prompt("<|endoftext|>");
        assert!(7 + 1 < count("gpt-4o", Dialect::OpenAi, &special), "special tokens are text");
    }

    #[test]
    fn non_latin_letters_cost_a_token_each_at_other_providers() {
        let text = "\u{4f60}\u{597d}\u{4e16}\u{754c}".repeat(10);
        let of = |text: String| PromptText { texts: vec![text.into()], ..PromptText::default() };
        let prompt = of(text);
        assert!(count("gpt-4o", Dialect::OpenAi, &prompt) < 30);
        for (model, dialect) in
            [("c", Dialect::Anthropic), ("g", Dialect::Gemini), ("llama", Dialect::OpenAi)]
        {
            assert_eq!(count(model, dialect, &prompt), 40, "{model}");
        }
    }

    #[test]
    fn an_empty_prompt_is_one_token() {
        assert_eq!(count("gpt-4o", Dialect::OpenAi, &PromptText::default()), 1);
    }

    #[test]
    fn a_plain_chat_is_counted_exactly() {
        let body = br#"{"messages":[{"role":"system","content":"You are a helpful assistant."},
            {"role":"user","content":"What is the capital of France?"}]}"#;
        let prompt = prompt::extract(Endpoint::ChatCompletions, body);
        assert_eq!(count("gpt-4o", Dialect::OpenAi, &prompt), 24);
    }
}
