//! Estimates tokens without a vocabulary, for calls whose response reports no usage.

/// Estimates the tokens of `text`, rather too high than too low: one token per 4 letters of a word
/// and per 3 digits of a number, rounded up, and one per other visible character.
pub fn tokens(text: &str) -> u64 {
    let (mut tokens, mut letters, mut digits) = (0_u64, 0_u64, 0_u64);
    for char in text.chars() {
        if !char.is_ascii_alphabetic() {
            tokens += letters.div_ceil(4);
            letters = 0;
        }
        if !char.is_ascii_digit() {
            tokens += digits.div_ceil(3);
            digits = 0;
        }
        match char {
            'a'..='z' | 'A'..='Z' => letters += 1,
            '0'..='9' => digits += 1,
            ' ' | '\n' | '\r' | '\t' => {}
            _ => tokens += 1,
        }
    }
    tokens + letters.div_ceil(4) + digits.div_ceil(3)
}

/// Estimates the tokens of a JSON text without parsing it: one per 3 ASCII bytes, and 2 per 3 other
/// bytes. Most texts have fewer tokens; no known language has many more.
pub fn tokens_of_bytes(text: &[u8]) -> u64 {
    if text.is_ascii() {
        return (text.len() as u64).div_ceil(3);
    }
    let other = text.iter().filter(|byte| !byte.is_ascii()).count() as u64;
    let ascii = text.len() as u64 - other;
    ascii.div_ceil(3) + (other * 2).div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_is_estimated_with_a_margin() {
        let text = "The quick brown fox jumps over the lazy dog, and 1234 others.";
        let exact = 16; // o200k
        assert!((exact..=exact * 2).contains(&tokens(text)), "{}", tokens(text));
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("日本語"), 3);
        assert_eq!(tokens_of_bytes("日本語 four".as_bytes()), 6 + 2);
    }
}
