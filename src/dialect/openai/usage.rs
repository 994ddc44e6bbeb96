//! Reads the usage objects of OpenAI and of those who speak its dialect.

use crate::dialect::json;
use crate::domain::usage::{Unit, Usage};

/// What a field of a usage object counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// All input, what was cached or written to a cache included.
    Input,
    /// The output, at most providers with all its hidden parts.
    Output,
    /// Input and output. Where it is more than both, the output had parts that were left out.
    Total,
    /// A part of the input or the output. Said twice, it is the larger of both.
    Part(Unit),
    /// What is counted by itself. Said in several fields, it is their sum.
    Additive(Unit),
}

/// Where the parts of the input stand, and those of the output.
const INPUT_DETAILS: [&str; 4] = [
    "prompt_tokens_details",
    "input_tokens_details",
    // At Mistral and Writer.
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
/// Within those of the input: of what kinds the cached tokens are.
const CACHED_DETAILS: [&str; 1] = ["cached_tokens_details"];

/// What each field counts, by where it stands: this is all that is known of what the providers'
/// totals include. Whoever is not named says it as OpenAI does.
const FIELDS: [(&[&str], &str, Count); 22] = [
    (&TOP_LEVEL, "prompt_tokens", Count::Input),
    // Of responses.
    (&TOP_LEVEL, "input_tokens", Count::Input),
    // Without thoughts at xAI's chats and in Gemini's imitation: the total tells of them.
    (&TOP_LEVEL, "completion_tokens", Count::Output),
    (&TOP_LEVEL, "output_tokens", Count::Output),
    // At Voyage that is all there is.
    (&TOP_LEVEL, "total_tokens", Count::Total),
    // At DeepSeek; what missed its cache is the rest of the input.
    (&TOP_LEVEL, "prompt_cache_hit_tokens", Count::Part(Unit::CachedInputTokens)),
    // At Together, Moonshot and Hugging Face.
    (&TOP_LEVEL, "cached_tokens", Count::Part(Unit::CachedInputTokens)),
    // At Mistral.
    (&TOP_LEVEL, "num_cached_tokens", Count::Part(Unit::CachedInputTokens)),
    // At Perplexity.
    (&TOP_LEVEL, "reasoning_tokens", Count::Part(Unit::ReasoningTokens)),
    (&TOP_LEVEL, "num_search_queries", Count::Additive(Unit::WebSearches)),
    // At xAI.
    (&TOOL_DETAILS, "web_search_calls", Count::Additive(Unit::WebSearches)),
    (&TOOL_DETAILS, "x_search_calls", Count::Additive(Unit::WebSearches)),
    // At xAI more than the input, now and then.
    (&INPUT_DETAILS, "cached_tokens", Count::Part(Unit::CachedInputTokens)),
    // At OpenRouter the very same tokens as those that were read.
    (&INPUT_DETAILS, "cache_write_tokens", Count::Part(Unit::CacheWriteTokens)),
    // At Alibaba.
    (&INPUT_DETAILS, "cache_creation_input_tokens", Count::Part(Unit::CacheWriteTokens)),
    // What was cached included.
    (&INPUT_DETAILS, "audio_tokens", Count::Part(Unit::InputAudioTokens)),
    (&INPUT_DETAILS, "image_tokens", Count::Part(Unit::InputImageTokens)),
    (&CACHED_DETAILS, "audio_tokens", Count::Part(Unit::CachedInputAudioTokens)),
    (&CACHED_DETAILS, "image_tokens", Count::Part(Unit::CachedInputImageTokens)),
    (&OUTPUT_DETAILS, "reasoning_tokens", Count::Part(Unit::ReasoningTokens)),
    // Predicted words that were not used are output as any: they are not told apart.
    (&OUTPUT_DETAILS, "audio_tokens", Count::Part(Unit::OutputAudioTokens)),
    (&OUTPUT_DETAILS, "image_tokens", Count::Part(Unit::OutputImageTokens)),
];

/// The usage that an object reports; `None` when it reports nothing or only zeros.
///
/// Rules that hold for all providers seen: output is the larger of its own count and total −
/// input (some leave hidden reasoning out); cached and written input never exceed the input.
pub fn read(object: &[u8]) -> Option<Usage> {
    let mut counts = Counts::default();
    counts.fields("", object)?;
    if counts.input == 0 && counts.output == 0 {
        // Some embedders say the total only.
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
    /// Takes the fields of an object, and of those that stand in it. `None` of what is malformed.
    fn fields(&mut self, place: &str, object: &[u8]) -> Option<()> {
        let fields = json::fields(object, |key, value| {
            let value = &object[value];
            let is_known = place.is_empty()
                || CACHED_DETAILS.contains(&&*key) && INPUT_DETAILS.contains(&place);
            if !value.starts_with(b"{") {
                self.field(place, &key, value);
            } else if is_known {
                // Details that are malformed say nothing; the totals stand.
                let _ = self.fields(&key, value);
            }
        });
        fields.ok()
    }

    fn field(&mut self, place: &str, key: &str, value: &[u8]) {
        let is_it =
            |(places, its, _): &&(&[&str], &str, Count)| *its == key && places.contains(&place);
        let Some((_, _, what)) = FIELDS.iter().find(is_it) else { return };
        // Null is nothing.
        let count = json::count_of(value).unwrap_or_default();
        match *what {
            Count::Input => self.input = count,
            Count::Output => self.output = count,
            Count::Total => self.total = count,
            Count::Part(unit) => {
                self.parts = self.parts.with(unit, self.parts.get(unit).max(count));
            }
            Count::Additive(unit) => {
                self.parts = self.parts.with(unit, self.parts.get(unit) + count)
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

    /// A test for each way to say it.
    macro_rules! said {
        ($($name:ident: $object:expr => $input:expr, $output:expr, $parts:expr;)*) => {
            $(#[test]
            fn $name() {
                assert_eq!(read($object.as_bytes()), Some(tokens($input, $output, &$parts)));
            })*

            const EXAMPLES: &[&str] = &[$($object),*];
        };
    }

    said! {
        openai_has_all_in_its_totals: r#"{"prompt_tokens":100,"completion_tokens":20,
            "total_tokens":120,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":3,
            "image_tokens":4,"cache_write_tokens":5},"completion_tokens_details":
            {"reasoning_tokens":12,"audio_tokens":2,"image_tokens":1,
            "accepted_prediction_tokens":3,"rejected_prediction_tokens":4}}"# => 100, 20, [
            (Unit::CachedInputTokens, 64), (Unit::InputAudioTokens, 3),
            (Unit::InputImageTokens, 4), (Unit::CacheWriteTokens, 5),
            (Unit::ReasoningTokens, 12), (Unit::OutputAudioTokens, 2),
            (Unit::OutputImageTokens, 1)];
        images_tell_the_kinds_of_what_was_cached: r#"{"input_tokens":100,"output_tokens":20,
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
        edge_11_reasoning_stands_beside_the_completion_at_xai: r#"{"prompt_tokens":9,
            "completion_tokens":1,"total_tokens":300,"completion_tokens_details":
            {"reasoning_tokens":290},"cost_in_usd_ticks":15}"# => 9, 291,
            [(Unit::ReasoningTokens, 290)];
        xai_counts_its_searches: r#"{"input_tokens":100,"output_tokens":50,
            "server_side_tool_usage_details":{"web_search_calls":2,"x_search_calls":1,
            "code_interpreter_calls":4},"num_server_side_tools_used":7}"# => 100, 50,
            [(Unit::WebSearches, 3)];
        xai_may_have_more_from_its_cache_than_came_in: r#"{"prompt_tokens":5,
            "prompt_tokens_details":{"cached_tokens":9}}"# => 5, 0, [(Unit::CachedInputTokens, 5)];
        edge_12_hidden_thoughts_are_in_the_total_only: r#"{"prompt_tokens":66,
            "completion_tokens":6,"total_tokens":100}"# => 66, 34, [];
        deepseek_tells_hits_and_misses: r#"{"prompt_tokens":30,"completion_tokens":4,
            "total_tokens":34,"prompt_cache_hit_tokens":20,"prompt_cache_miss_tokens":10}"#
            => 30, 4, [(Unit::CachedInputTokens, 20)];
        mistral_tells_the_cached_twice: r#"{"prompt_tokens":30,"completion_tokens":4,
            "total_tokens":34,"num_cached_tokens":16,"prompt_audio_seconds":null,
            "prompt_token_details":{"cached_tokens":16}}"#
            => 30, 4, [(Unit::CachedInputTokens, 16)];
        edge_37_counts_may_be_floats_and_null: r#"{"queue_time":0.02,"prompt_tokens":30.0,
            "completion_tokens":4.0,"total_tokens":34,"total_time":0.5,
            "prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":null}}"#
            => 30, 4, [];
        edge_13_openrouter_calls_the_same_tokens_read_and_written: r#"{"prompt_tokens":2168,
            "completion_tokens":5,"total_tokens":2173,"cost":0.01,"is_byok":false,
            "prompt_tokens_details":{"cached_tokens":2161,"cache_write_tokens":2161}}"#
            => 2168, 5, [(Unit::CachedInputTokens, 2161), (Unit::CacheWriteTokens, 7)];
        perplexity_searches_and_thinks_within_its_totals: r#"{"prompt_tokens":30,
            "completion_tokens":14,"total_tokens":44,"search_context_size":"low",
            "reasoning_tokens":8,"num_search_queries":3,"cost":{"total_cost":0.1}}"# => 30, 14, [
            (Unit::ReasoningTokens, 8), (Unit::WebSearches, 3)];
        together_and_moonshot_tell_the_cached_at_the_top: r#"{"prompt_tokens":30,
            "completion_tokens":4,"total_tokens":34,"cached_tokens":16}"#
            => 30, 4, [(Unit::CachedInputTokens, 16)];
        edge_38_writer_has_details_of_one_token: r#"{"prompt_tokens":30,"completion_tokens":4,
            "total_tokens":34,"prompt_token_details":{"cached_tokens":8},
            "completion_tokens_details":{"reasoning_tokens":2}}"# => 30, 4, [
            (Unit::CachedInputTokens, 8), (Unit::ReasoningTokens, 2)];
        alibaba_writes_its_cache_within_the_input: r#"{"prompt_tokens":30,"completion_tokens":4,
            "prompt_tokens_details":{"cached_tokens":8,"cache_creation_input_tokens":9}}"#
            => 30, 4, [(Unit::CachedInputTokens, 8), (Unit::CacheWriteTokens, 9)];
        voyage_tells_the_total_only: r#"{"total_tokens":7}"# => 7, 0, [];
        bedrock_writes_its_cache_within_the_input: r#"{"input_tokens":30,"output_tokens":4,
            "total_tokens":34,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":20}}"#
            => 30, 4, [(Unit::CacheWriteTokens, 20)];
        what_gateways_add_is_passed_over: r#"{"prompt_tokens":3,"completion_tokens":4,
            "total_tokens":7,"cost_details":{"cached_tokens":9},"details":{"prompt_tokens":5},
            "pricing":[1]}"# => 3, 4, [];
    }

    #[test]
    fn every_row_of_the_table_has_an_example() {
        for (places, key, _) in FIELDS {
            let is_said = |example: &&&str| {
                let named = |name: &str| example.contains(&format!("\"{name}\":"));
                named(key) && places.iter().any(|place| place.is_empty() || named(place))
            };
            assert!(EXAMPLES.iter().find(is_said).is_some(), "{key} in {places:?}");
        }
    }

    #[test]
    fn nothing_reported_is_no_report() {
        for object in
            ["{}", "null", r#"{"prompt_tokens":0,"completion_tokens":0}"#, "{\"prompt_tokens\":"]
        {
            assert_eq!(read(object.as_bytes()), None, "{object}");
        }
    }
}
