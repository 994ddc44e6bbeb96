//! Reads the usage objects of OpenAI and of those who speak its dialect.

use crate::dialect::json;
use crate::domain::usage::{Unit, Usage};

/// The usage that an object reports; `None` when it reports nothing or only zeros.
///
/// Rules that hold for all providers seen: output is the larger of its own count and total −
/// input (some leave hidden reasoning out); cached and written input never exceed the input.
pub fn read(object: &[u8]) -> Option<Usage> {
    let mut counts = Counts::default();
    json::fields(object, |key, value| counts.field(&key, &object[value])).ok()?;
    if counts.input == 0 && counts.output == 0 {
        // Some embedders say the total only.
        counts.input = counts.total;
    }
    let output = counts.output.max(counts.total.saturating_sub(counts.input));
    if counts.input == 0 && output == 0 {
        return None;
    }
    let usage = counts.parts.with(Unit::InputTokens, counts.input).with(Unit::OutputTokens, output);
    let cached = usage.get(Unit::CachedInputTokens).min(counts.input);
    let written = usage.get(Unit::CacheWriteTokens).min(counts.input - cached);
    let reasoning = usage.get(Unit::ReasoningTokens).min(output);
    Some(
        usage
            .with(Unit::CachedInputTokens, cached)
            .with(Unit::CacheWriteTokens, written)
            .with(Unit::ReasoningTokens, reasoning),
    )
}

#[derive(Default)]
struct Counts {
    input: u64,
    output: u64,
    total: u64,
    parts: Usage,
}

impl Counts {
    fn field(&mut self, key: &str, value: &[u8]) {
        match key {
            "prompt_tokens" | "input_tokens" => {
                self.input = json::count_of(value).unwrap_or_default();
            }
            "completion_tokens" | "output_tokens" => {
                self.output = json::count_of(value).unwrap_or_default();
            }
            "total_tokens" => self.total = json::count_of(value).unwrap_or_default(),
            "prompt_cache_hit_tokens" | "cached_tokens" | "num_cached_tokens" => {
                self.part(Unit::CachedInputTokens, value);
            }
            "prompt_tokens_details"
            | "prompt_token_details"
            | "input_tokens_details"
            | "input_token_details" => self.details(value, input_part),
            "completion_tokens_details"
            | "completion_token_details"
            | "output_tokens_details"
            | "output_token_details" => self.details(value, output_part),
            _ => {}
        }
    }

    fn details(&mut self, object: &[u8], unit_of: fn(&str) -> Option<Unit>) {
        // Details that are null or malformed say nothing; the totals stand.
        let _ = json::fields(object, |key, value| {
            if let Some(unit) = unit_of(&key) {
                self.part(unit, &object[value]);
            }
        });
    }

    fn part(&mut self, unit: Unit, value: &[u8]) {
        let most = self.parts.get(unit).max(json::count_of(value).unwrap_or_default());
        self.parts = self.parts.with(unit, most);
    }
}

fn input_part(key: &str) -> Option<Unit> {
    match key {
        "cached_tokens" => Some(Unit::CachedInputTokens),
        "cache_write_tokens" | "cache_creation_input_tokens" => Some(Unit::CacheWriteTokens),
        "audio_tokens" => Some(Unit::InputAudioTokens),
        "image_tokens" => Some(Unit::InputImageTokens),
        _ => None,
    }
}

fn output_part(key: &str) -> Option<Unit> {
    match key {
        "reasoning_tokens" => Some(Unit::ReasoningTokens),
        "audio_tokens" => Some(Unit::OutputAudioTokens),
        "image_tokens" => Some(Unit::OutputImageTokens),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_parts_are_read() {
        let usage = read(
            br#"{"prompt_tokens":100,"completion_tokens":20.0,"total_tokens":120,
                "prompt_tokens_details":{"cached_tokens":64,"audio_tokens":null},
                "completion_tokens_details":{"reasoning_tokens":12},"cost":0.1}"#,
        );
        let expected = Usage::tokens_of(100, 20)
            .with(Unit::CachedInputTokens, 64)
            .with(Unit::ReasoningTokens, 12);
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn hidden_output_is_found_in_the_total() {
        let usage = read(br#"{"prompt_tokens":6,"completion_tokens":28,"total_tokens":100}"#);
        assert_eq!(usage, Some(Usage::tokens_of(6, 94)));
    }

    #[test]
    fn reasoning_beside_the_completion_is_output() {
        let usage = read(
            br#"{"prompt_tokens":9,"completion_tokens":1,"total_tokens":300,
                "completion_tokens_details":{"reasoning_tokens":290}}"#,
        );
        let expected = Usage::tokens_of(9, 291).with(Unit::ReasoningTokens, 290);
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn cached_and_written_are_within_the_input() {
        let usage = read(
            br#"{"prompt_tokens":2168,"completion_tokens":5,
                "prompt_token_details":{"cached_tokens":2161,"cache_write_tokens":2161}}"#,
        )
        .expect("reported");
        assert_eq!(usage.get(Unit::CachedInputTokens), 2161);
        assert_eq!(usage.get(Unit::CacheWriteTokens), 7);
    }

    #[test]
    fn a_total_alone_is_input() {
        assert_eq!(read(br#"{"total_tokens":7}"#), Some(Usage::tokens_of(7, 0)));
    }

    #[test]
    fn nothing_reported_is_no_report() {
        for object in
            ["{}", "null", r#"{"prompt_tokens":0,"completion_tokens":0}"#, "{\"prompt_tokens\":"]
        {
            assert_eq!(read(object.as_bytes()), None, "{object}");
        }
        let clamped = read(br#"{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":9}}"#);
        assert_eq!(clamped.map(|usage| usage.get(Unit::CachedInputTokens)), Some(5));
    }
}
