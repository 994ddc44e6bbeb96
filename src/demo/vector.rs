//! Embeddings: vectors that depend only on the text.

use crate::demo::canned_text;
use crate::demo::request::{DemoRequest, OutOfRange, positive_integer};

/// Parameters of an embedding request.
#[derive(Debug)]
pub struct EmbeddingParams {
    pub texts: Vec<String>,
    /// Estimated input tokens, at least 1.
    pub input_tokens: u64,
    /// Numbers per vector.
    pub dimensions: u64,
    /// Whether vectors are returned as base64 of their bytes.
    pub as_base64: bool,
}

const SMALL_DIMENSIONS: u64 = 1536;
const LARGE_DIMENSIONS: u64 = 3072;

/// Parses the requested dimensions. The default is the largest number that the model allows.
pub fn dimensions(
    model: &str,
    request: &serde_json::Value,
    name: &'static str,
) -> Result<u64, OutOfRange> {
    let max = if model.contains("-small") || model.contains("ada") {
        SMALL_DIMENSIONS
    } else {
        LARGE_DIMENSIONS
    };
    Ok(positive_integer(request, name, max)?.unwrap_or(max))
}

/// Returns the reported input tokens. `None` if the script turns usage off.
pub fn reported_tokens(request: &DemoRequest<EmbeddingParams>) -> Option<u64> {
    let used = request.script.input_tokens.unwrap_or(request.params.input_tokens);
    request.script.reports_usage.then_some(used)
}

/// Estimates the tokens of the texts, at least 1.
pub fn text_tokens(texts: &[String]) -> u64 {
    texts.iter().map(|text| canned_text::estimate_tokens(text)).sum::<u64>().max(1)
}

/// Returns the vector of a text. The absolute values are from 1/64 to 1/32.
pub fn embed(text: &str, dimensions: u64) -> Vec<f32> {
    const EXPONENT: u32 = 121 << 23;
    const SIGN_AND_FRACTION: u32 = 0x807f_ffff;
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325, |state: u64, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let high = u32::try_from(state >> 32).unwrap_or_default();
        f32::from_bits(high & SIGN_AND_FRACTION | EXPONENT)
    };
    (0..dimensions).map(number).collect()
}

/// Encodes the little-endian bytes of the numbers as base64.
pub fn base64(numbers: &[f32]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| three.get(at).copied().map_or(0, usize::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[bits >> (18 - 6 * at) & 63];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_depends_on_its_text_alone() {
        let numbers = embed("hello", 64);
        assert_eq!(numbers, embed("hello", 64));
        assert_ne!(numbers, embed("hallo", 64));
        assert_eq!(numbers[..8], embed("hello", 8));
        let in_range = |number: &f32| (0.015_625..=0.031_25).contains(&number.abs());
        assert!(numbers.iter().all(in_range), "{numbers:?}");
        assert!(numbers.iter().any(|number| number.is_sign_negative()));
    }

    #[test]
    fn base64_is_that_of_everybody() {
        // The bytes of 1.0 are 00 00 80 3f.
        assert_eq!(base64(&[]), "");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, 1.0]), "AACAPwAAgD8=");
        assert_eq!(base64(&[1.0, 1.0, 1.0]), "AACAPwAAgD8AAIA/");
    }
}
