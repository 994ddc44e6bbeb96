//! Counting tokens without a vocabulary, for calls that end without a report.

/// An estimate of the tokens of `text` that leans to too many: a word costs one token per four
/// letters begun, a number one per three digits begun, any other visible character one of its own,
/// and what is not ASCII one a character.
pub fn tokens(text: &str) -> u64 {
    let (mut tokens, mut letters, mut digits) = (0_u64, 0_u64, 0_u64);
    for letter in text.chars() {
        if !letter.is_ascii_alphabetic() {
            tokens += letters.div_ceil(4);
            letters = 0;
        }
        if !letter.is_ascii_digit() {
            tokens += digits.div_ceil(3);
            digits = 0;
        }
        match letter {
            'a'..='z' | 'A'..='Z' => letters += 1,
            '0'..='9' => digits += 1,
            ' ' | '\n' | '\r' | '\t' => {}
            _ => tokens += 1,
        }
    }
    tokens + letters.div_ceil(4) + digits.div_ceil(3)
}

/// An estimate of the tokens in a JSON text that is not looked into: three ASCII bytes make one,
/// or one and a half of others. Most texts have fewer; none of a known language has many more.
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
    fn english_is_counted_with_a_margin() {
        let text = "The quick brown fox jumps over the lazy dog, and 1234 others.";
        let known = 16; // o200k
        assert!((known..=known * 2).contains(&tokens(text)), "{}", tokens(text));
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("日本語"), 3);
        assert_eq!(tokens_of_bytes("日本語 four".as_bytes()), 6 + 2);
    }
}
