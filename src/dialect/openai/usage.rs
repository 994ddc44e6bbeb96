//! Reads the usage objects of OpenAI and of compatible providers.

use crate::dialect::json;
use crate::domain::usage::{Unit, Usage};

/// What a field of a usage object counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// All input, including tokens read from or written to a cache.
    Input,
    /// The output, at almost all providers including hidden reasoning.
    Output,
    /// Input and output. An excess over both counts is output that the other count excludes.
    Total,
    /// A part of the input or output. Of several fields the largest count applies.
    Part(Unit),
    /// A unit of its own. The counts of several fields are added.
    Additive(Unit),
}

/// The objects with the parts of the input and of the output.
const INPUT_DETAILS: [&str; 4] = [
    "prompt_tokens_details",
    "input_tokens_details",
    // Mistral and Writer.
    "prompt_token_details",
    "input_token_details",
];
const OUTPUT_DETAILS: [&str; 4] = [
    "completion_tokens_details",
    "output_tokens_details",
    "completion_token_details",
    "output_token_details",
];
const TOP_LEVEL: [&str; 1] = [""];
const TOOL_DETAILS: [&str; 1] = ["server_side_tool_usage_details"];
/// The object in the input details with the modalities of the cached tokens.
const CACHED_DETAILS: [&str; 1] = ["cached_tokens_details"];

/// What each field of each object counts. This table is all that the gateway knows of what the
/// totals of a provider include. Providers that no comment names report as OpenAI does.
const FIELDS: [(&[&str], &str, Count); 22] = [
    (&TOP_LEVEL, "prompt_tokens", Count::Input),
    // Responses API.
    (&TOP_LEVEL, "input_tokens", Count::Input),
    // Excludes reasoning at xAI chats and at Gemini's OpenAI-compatible endpoint; the total
    // includes it.
    (&TOP_LEVEL, "completion_tokens", Count::Output),
    (&TOP_LEVEL, "output_tokens", Count::Output),
    // The only count of Voyage.
    (&TOP_LEVEL, "total_tokens", Count::Total),
    // DeepSeek; the cache misses are the remaining input.
    (&TOP_LEVEL, "prompt_cache_hit_tokens", Count::Part(Unit::CachedInputTokens)),
    // Together, Moonshot and Hugging Face.
    (&TOP_LEVEL, "cached_tokens", Count::Part(Unit::CachedInputTokens)),
    // Mistral.
    (&TOP_LEVEL, "num_cached_tokens", Count::Part(Unit::CachedInputTokens)),
    // Perplexity.
    (&TOP_LEVEL, "reasoning_tokens", Count::Part(Unit::ReasoningTokens)),
    (&TOP_LEVEL, "num_search_queries", Count::Additive(Unit::WebSearches)),
    // xAI.
    (&TOOL_DETAILS, "web_search_calls", Count::Additive(Unit::WebSearches)),
    (&TOOL_DETAILS, "x_search_calls", Count::Additive(Unit::WebSearches)),
    // Sometimes more than the input at xAI.
    (&INPUT_DETAILS, "cached_tokens", Count::Part(Unit::CachedInputTokens)),
    // The same tokens as those read from the cache at OpenRouter.
    (&INPUT_DETAILS, "cache_write_tokens", Count::Part(Unit::CacheWriteTokens)),
    // Alibaba.
    (&INPUT_DETAILS, "cache_creation_input_tokens", Count::Part(Unit::CacheWriteTokens)),
    // Includes cached tokens.
    (&INPUT_DETAILS, "audio_tokens", Count::Part(Unit::InputAudioTokens)),
    (&INPUT_DETAILS, "image_tokens", Count::Part(Unit::InputImageTokens)),
    (&CACHED_DETAILS, "audio_tokens", Count::Part(Unit::CachedInputAudioTokens)),
    (&CACHED_DETAILS, "image_tokens", Count::Part(Unit::CachedInputImageTokens)),
    (&OUTPUT_DETAILS, "reasoning_tokens", Count::Part(Unit::ReasoningTokens)),
    // Rejected prediction tokens are billed as output, so they need no unit of their own.
    (&OUTPUT_DETAILS, "audio_tokens", Count::Part(Unit::OutputAudioTokens)),
    (&OUTPUT_DETAILS, "image_tokens", Count::Part(Unit::OutputImageTokens)),
];

/// Returns the usage that an object reports; none if it has no count above zero.
///
/// For all known providers, the output is the larger of its own count and total − input, because
/// some exclude hidden reasoning from their count; cached and written input never exceed the input.
pub fn read(object: &[u8]) -> Option<Usage> {
    let mut counts = Counts::default();
    counts.fields("", object)?;
    if counts.input == 0 && counts.output == 0 {
        // Some embedding providers report only the total.
        counts.input = counts.total;
    }
    let output = counts.output.max(counts.total.saturating_sub(counts.input));
    if counts.input == 0 && output == 0 {
        return None;
    }
    let usage = counts.parts.with(Unit::InputTokens, counts.input).with(Unit::OutputTokens, output);
    let usage = usage.capped(Unit::CachedInputTokens, counts.input);
    let uncached = counts.input - usage.get(Unit::CachedInputTokens);
    let usage =
        usage.capped(Unit::CacheWriteTokens, uncached).capped(Unit::ReasoningTokens, output);
    Some(usage.cap_cached_modalities())
}

#[derive(Default)]
struct Counts {
    input: u64,
    output: u64,
    total: u64,
    parts: Usage,
}

impl Counts {
    /// Reads the fields of an object and of the details in it. `object_name` is empty at the top
    /// level. Returns none if the object is malformed.
    fn fields(&mut self, object_name: &str, object: &[u8]) -> Option<()> {
        let fields = json::fields(object, |key, value| {
            let value = &object[value];
            let has_counts = object_name.is_empty()
                || CACHED_DETAILS.contains(&&*key) && INPUT_DETAILS.contains(&object_name);
            if !value.starts_with(b"{") {
                self.field(object_name, &key, value);
            } else if has_counts {
                // Malformed details are ignored; the totals still apply.
                let _ = self.fields(&key, value);
            }
        });
        fields.ok()
    }

    fn field(&mut self, object_name: &str, key: &str, value: &[u8]) {
        let is_row = |(objects, name, _): &&(&[&str], &str, Count)| {
            *name == key && objects.contains(&object_name)
        };
        let Some((_, _, counted)) = FIELDS.iter().find(is_row) else { return };
        // A null counts as 0.
        let count = json::count_of(value).unwrap_or_default();
        match *counted {
            Count::Input => self.input = count,
            Count::Output => self.output = count,
            Count::Total => self.total = count,
            Count::Part(unit) => {
                self.parts = self.parts.with(unit, self.parts.get(unit).max(count));
            }
            Count::Additive(unit) => {
                self.parts = self.parts.with(unit, self.parts.get(unit) + count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, output: u64, parts: &[(Unit, u64)]) -> Usage {
        let all = Usage::from_tokens(input, output);
        parts.iter().fold(all, |usage, (unit, count)| usage.with(*unit, *count))
    }

    /// A test for the usage object of each provider.
    macro_rules! examples {
        ($($name:ident: $object:expr => $input:expr, $output:expr, $parts:expr;)*) => {
            $(#[test]
            fn $name() {
                assert_eq!(read($object.as_bytes()), Some(tokens($input, $output, &$parts)));
            })*

            const EXAMPLES: &[&str] = &[$($object),*];
        };
    }

    examples! {
        openai_includes_all_parts_in_its_totals: r#"{"prompt_tokens":100,"completion_tokens":20,
            "total_tokens":120,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":3,
            "image_tokens":4,"cache_write_tokens":5},"completion_tokens_details":
            {"reasoning_tokens":12,"audio_tokens":2,"image_tokens":1,
            "accepted_prediction_tokens":3,"rejected_prediction_tokens":4}}"# => 100, 20, [
            (Unit::CachedInputTokens, 64), (Unit::InputAudioTokens, 3),
            (Unit::InputImageTokens, 4), (Unit::CacheWriteTokens, 5),
            (Unit::ReasoningTokens, 12), (Unit::OutputAudioTokens, 2),
            (Unit::OutputImageTokens, 1)];
        image_usage_has_the_modalities_of_cached_tokens: r#"{"input_tokens":100,"output_tokens":20,
            "input_tokens_details":{"text_tokens":10,"image_tokens":60,"audio_tokens":30,
            "cached_tokens":50,"cached_tokens_details":{"text_tokens":5,"image_tokens":40,
            "audio_tokens":15,"cached_tokens_details":{"audio_tokens":30}}}}"# => 100, 20, [
            (Unit::InputImageTokens, 60), (Unit::InputAudioTokens, 30),
            (Unit::CachedInputTokens, 50), (Unit::CachedInputAudioTokens, 15),
            (Unit::CachedInputImageTokens, 35)];
        responses_have_other_names: r#"{"input_tokens":36,"input_tokens_details":
            {"cached_tokens":7},"output_tokens":87,"output_tokens_details":
            {"reasoning_tokens":80},"total_tokens":123}"# => 36, 87, [
            (Unit::CachedInputTokens, 7), (Unit::ReasoningTokens, 80)];
        xai_excludes_reasoning_from_the_completion: r#"{"prompt_tokens":9,
            "completion_tokens":1,"total_tokens":300,"completion_tokens_details":
            {"reasoning_tokens":290},"cost_in_usd_ticks":15}"# => 9, 291,
            [(Unit::ReasoningTokens, 290)];
        xai_counts_its_searches: r#"{"input_tokens":100,"output_tokens":50,
            "server_side_tool_usage_details":{"web_search_calls":2,"x_search_calls":1,
            "code_interpreter_calls":4},"num_server_side_tools_used":7}"# => 100, 50,
            [(Unit::WebSearches, 3)];
        xai_may_report_more_cached_tokens_than_input: r#"{"prompt_tokens":5,
            "prompt_tokens_details":{"cached_tokens":9}}"# => 5, 0, [(Unit::CachedInputTokens, 5)];
        hidden_reasoning_may_be_in_the_total_only: r#"{"prompt_tokens":66,
            "completion_tokens":6,"total_tokens":100}"# => 66, 34, [];
        deepseek_reports_hits_and_misses: r#"{"prompt_tokens":30,"completion_tokens":4,
            "total_tokens":34,"prompt_cache_hit_tokens":20,"prompt_cache_miss_tokens":10}"#
            => 30, 4, [(Unit::CachedInputTokens, 20)];
        mistral_reports_cached_tokens_twice: r#"{"prompt_tokens":30,"completion_tokens":4,
            "total_tokens":34,"num_cached_tokens":16,"prompt_audio_seconds":null,
            "prompt_token_details":{"cached_tokens":16}}"#
            => 30, 4, [(Unit::CachedInputTokens, 16)];
        counts_may_be_floats_and_null: r#"{"queue_time":0.02,"prompt_tokens":30.0,
            "completion_tokens":4.0,"total_tokens":34,"total_time":0.5,
            "prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":null}}"#
            => 30, 4, [];
        openrouter_counts_the_same_tokens_as_read_and_written: r#"{"prompt_tokens":2168,
            "completion_tokens":5,"total_tokens":2173,"cost":0.01,"is_byok":false,
            "prompt_tokens_details":{"cached_tokens":2161,"cache_write_tokens":2161}}"#
            => 2168, 5, [(Unit::CachedInputTokens, 2161), (Unit::CacheWriteTokens, 7)];
        perplexity_reports_searches_and_reasoning_at_the_top: r#"{"prompt_tokens":30,
            "completion_tokens":14,"total_tokens":44,"search_context_size":"low",
            "reasoning_tokens":8,"num_search_queries":3,"cost":{"total_cost":0.1}}"# => 30, 14, [
            (Unit::ReasoningTokens, 8), (Unit::WebSearches, 3)];
        together_and_moonshot_report_cached_tokens_at_the_top: r#"{"prompt_tokens":30,
            "completion_tokens":4,"total_tokens":34,"cached_tokens":16}"#
            => 30, 4, [(Unit::CachedInputTokens, 16)];
        writer_names_its_details_in_the_singular: r#"{"prompt_tokens":30,"completion_tokens":4,
            "total_tokens":34,"prompt_token_details":{"cached_tokens":8},
            "completion_tokens_details":{"reasoning_tokens":2}}"# => 30, 4, [
            (Unit::CachedInputTokens, 8), (Unit::ReasoningTokens, 2)];
        alibaba_includes_cache_writes_in_the_input: r#"{"prompt_tokens":30,"completion_tokens":4,
            "prompt_tokens_details":{"cached_tokens":8,"cache_creation_input_tokens":9}}"#
            => 30, 4, [(Unit::CachedInputTokens, 8), (Unit::CacheWriteTokens, 9)];
        voyage_reports_the_total_only: r#"{"total_tokens":7}"# => 7, 0, [];
        bedrock_includes_cache_writes_in_the_input: r#"{"input_tokens":30,"output_tokens":4,
            "total_tokens":34,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":20}}"#
            => 30, 4, [(Unit::CacheWriteTokens, 20)];
        fields_of_other_gateways_are_ignored: r#"{"prompt_tokens":3,"completion_tokens":4,
            "total_tokens":7,"cost_details":{"cached_tokens":9},"details":{"prompt_tokens":5},
            "pricing":[1]}"# => 3, 4, [];
    }

    #[test]
    fn every_row_of_the_table_has_an_example() {
        for (objects, key, _) in FIELDS {
            let has_row = |example: &&&str| {
                let named = |name: &str| example.contains(&format!("\"{name}\":"));
                named(key) && objects.iter().any(|object| object.is_empty() || named(object))
            };
            assert!(EXAMPLES.iter().find(has_row).is_some(), "{key} in {objects:?}");
        }
    }

    #[test]
    fn reports_without_counts_are_ignored() {
        for object in
            ["{}", "null", r#"{"prompt_tokens":0,"completion_tokens":0}"#, "{\"prompt_tokens\":"]
        {
            assert_eq!(read(object.as_bytes()), None, "{object}");
        }
    }
}
