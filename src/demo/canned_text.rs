//! What the provider says: always the same words, so that an answer can be foretold.

/// One token a word. It tells a newcomer what to try next.
const WORDS: &str = "Hello from the provider that is built into Meteor Gateway. \
    It says these words whatever it is asked, and counts a token for each. \
    Begin a message with /slow 500ms, /chunk 50ms, /tokens 200, /error 429, /error 500, /cut, \
    /stall or /nousage, or with several of them, to see what a gateway has to bear. \
    Then look at the request log, the wallet and the metrics.";

/// How many words an answer has when nobody asks for more.
pub fn default_tokens() -> u64 {
    WORDS.split(' ').count() as u64
}

/// The first `tokens` words, again from the start where more are asked for. Each but the first
/// begins with its blank, as tokens do.
pub fn tokens(tokens: u64) -> impl Iterator<Item = String> {
    let words = WORDS.split(' ').cycle().enumerate();
    let token = |(at, word): (usize, &str)| match at {
        0 => word.to_owned(),
        _ => format!(" {word}"),
    };
    words.map(token).take(usize::try_from(tokens).unwrap_or(usize::MAX))
}

/// How many tokens a text of somebody else's may be: four bytes each, as in English.
pub fn estimate_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}

/// A text of somebody else's, a token at a time.
pub fn split_tokens(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(4).map(|token| token.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_it_was_asked_for() {
        for count in [0, 1, 3, default_tokens(), 1_000] {
            assert_eq!(tokens(count).count() as u64, count);
        }
        assert_eq!(tokens(3).collect::<String>(), "Hello from the");
        let whole: String = tokens(default_tokens()).collect();
        assert!(whole.ends_with("metrics."), "{whole}");
    }

    #[test]
    fn a_text_never_counts_more_tokens_than_bytes() {
        assert_eq!(
            (estimate_tokens(""), estimate_tokens("a"), estimate_tokens("Say hello.")),
            (0, 1, 3)
        );
        assert_eq!(split_tokens(r#"{"city":1}"#), [r#"{"ci"#, r#"ty":"#, "1}"]);
    }
}
