//! The fixed text that the demo provider generates, so that responses are predictable.

/// One token per word. Tells a new user what to try next.
const WORDS: &str = "Hello from the provider that is built into Meteor Gateway. \
    It responds to every request with this text, and counts each word as one token. \
    Start a message with /slow 500ms, /chunk 50ms, /tokens 200, /error 429, /error 500, /cut, \
    /stall or /nousage, or with several of them, to simulate a slow or faulty provider. \
    Then see the request log, the wallet and the metrics.";

/// Number of tokens of a response if the request asks for no other.
pub fn default_tokens() -> u64 {
    WORDS.split(' ').count() as u64
}

/// Returns `tokens` words, repeating the text if necessary. All but the first start with a space,
/// like real tokens.
pub fn tokens(tokens: u64) -> impl Iterator<Item = String> {
    let words = WORDS.split(' ').cycle().enumerate();
    let token = |(index, word): (usize, &str)| match index {
        0 => word.to_owned(),
        _ => format!(" {word}"),
    };
    words.map(token).take(usize::try_from(tokens).unwrap_or(usize::MAX))
}

/// Estimates the tokens of any text: four bytes per token, as in English.
pub fn estimate_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}

/// Splits any text into tokens of four characters.
pub fn split_tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(4).map(|token| token.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_requested_number_of_tokens() {
        for count in [0, 1, 3, default_tokens(), 1_000] {
            assert_eq!(tokens(count).count() as u64, count);
        }
        assert_eq!(tokens(3).collect::<String>(), "Hello from the");
        let whole: String = tokens(default_tokens()).collect();
        assert!(whole.ends_with("metrics."), "{whole}");
    }

    #[test]
    fn a_text_has_at_most_one_token_per_byte() {
        assert_eq!(
            (estimate_tokens(""), estimate_tokens("a"), estimate_tokens("Say hello.")),
            (0, 1, 3)
        );
        assert_eq!(split_tokens(r#"{"city":1}"#), [r#"{"ci"#, r#"ty":"#, "1}"]);
    }
}
