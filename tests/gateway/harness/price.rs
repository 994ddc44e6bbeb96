//! The expected cost of a call from public list prices, computed independently in integers.

use crate::harness::json::Json;
use crate::harness::openai::Usage;

/// Nano-units of the currency per million tokens.
pub struct Price {
    pub model: &'static str,
    input: i128,
    cached: i128,
    output: i128,
}

/// List prices in USD per million tokens: input, cached input, output.
pub const GPT_4O_MINI: Price = usd("gpt-4o-mini", "0.15", "0.075", "0.60");
pub const GPT_4O: Price = usd("gpt-4o", "2.50", "1.25", "10.00");
pub const O4_MINI: Price = usd("o4-mini", "1.10", "0.275", "4.40");
pub const CLAUDE_HAIKU: Price = usd("claude-haiku-4-5", "1.00", "0.10", "5.00");
pub const GEMINI_FLASH: Price = usd("gemini-2.5-flash", "0.30", "0.03", "2.50");

impl Price {
    /// Reads the first row of a price list from the admin API.
    pub fn from_list(list: &Json) -> Self {
        let prices = list.at("rows").list()[0].at("prices");
        let price = |unit: &str| prices.find(unit).map(|price| nano(&price.text()));
        let (input, output) = (price("inputTokens"), price("outputTokens"));
        let (input, output) = (input.expect("an input price"), output.expect("an output price"));
        Self { model: "", input, cached: price("cachedInputTokens").unwrap_or(input), output }
    }
}

const fn usd(model: &'static str, input: &str, cached: &str, output: &str) -> Price {
    Price { model, input: nano(input), cached: nano(cached), output: nano(output) }
}

/// Parses decimal text exactly; a float would lose precision.
const fn nano(text: &str) -> i128 {
    let text = text.as_bytes();
    let (mut value, mut decimals, mut index) = (0, -1, 0);
    while index < text.len() {
        if text[index] == b'.' {
            decimals = 0;
        } else {
            value = value * 10 + (text[index] - b'0') as i128;
            decimals += if decimals < 0 { 0 } else { 1 };
        }
        index += 1;
    }
    while decimals < 9 {
        value *= 10;
        decimals += 1;
    }
    value
}

impl Price {
    /// Rounded up. Cached input is priced separately and subtracted from the input; reasoning has
    /// no price of its own and is part of the output.
    pub fn cost(&self, usage: Usage) -> i128 {
        let full = i128::from(usage.prompt - usage.cached) * self.input;
        let cached = i128::from(usage.cached) * self.cached;
        let output = i128::from(usage.completion) * self.output;
        (full + cached + output + 999_999) / 1_000_000
    }
}

#[test]
fn costs_match_a_manual_calculation() {
    assert_eq!(GPT_4O_MINI.cost(Usage::of(1_000_000, 1_000_000)), 750_000_000);
    assert_eq!(GPT_4O_MINI.cost(Usage { cached: 4, ..Usage::of(10, 1) }), 6 * 150 + 4 * 75 + 600);
    assert_eq!(O4_MINI.cost(Usage::of(1, 1)), 1_100 + 4_400);
}
