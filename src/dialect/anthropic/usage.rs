//! Reads the usage objects of Anthropic. Those of a stream complement each other.

use std::borrow::Cow;

use crate::dialect::anthropic::tier::ServedTier;
use crate::dialect::json;
use crate::domain::call_pricing::ModelUsageShare;
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::{Unit, Usage};

/// The usage reported so far. Later reports are cumulative, so each field replaces the earlier one.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    uncached: u64,
    cache_write: u64,
    cache_write_5m: u64,
    cache_write_1h: u64,
    cache_read: u64,
    output: u64,
    thinking: u64,
    searches: u64,
    /// Usage of iterations that the totals exclude, and that is billed in addition.
    extra_shares: Vec<ModelUsageShare>,
    /// The model of the totals, if a fallback responded instead of the requested model.
    serving_model: Option<Box<str>>,
    served_tier: ServedTier,
}

/// Maximum number of separate shares, and of characters in the name of a model.
const SHARES_MAX: usize = 16;
const MODEL_LETTERS_MAX: usize = 128;

impl Counts {
    /// Reads the fields of a usage object. Missing fields keep their values.
    pub fn read(&mut self, object: &[u8]) {
        // A malformed object leaves the earlier values.
        let _ = json::fields(object, |key, value| self.field(&key, &object[value]));
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        match key {
            "input_tokens" => set(&mut self.uncached, value),
            "output_tokens" => set(&mut self.output, value),
            "cache_creation_input_tokens" => set(&mut self.cache_write, value),
            "cache_read_input_tokens" => set(&mut self.cache_read, value),
            "cache_creation" => {
                json::each_named(value, &["ephemeral_5m_input_tokens"], |count| {
                    set(&mut self.cache_write_5m, count);
                });
                json::each_named(value, &["ephemeral_1h_input_tokens"], |count| {
                    set(&mut self.cache_write_1h, count);
                });
            }
            "output_tokens_details" => {
                json::each_named(value, &["thinking_tokens"], |count| {
                    set(&mut self.thinking, count);
                });
            }
            "server_tool_use" => {
                json::each_named(value, &["web_search_requests"], |count| {
                    set(&mut self.searches, count);
                });
            }
            "iterations" if value != b"null" => {
                (self.extra_shares, self.serving_model) = (Vec::new(), None);
                json::elements(value, |iteration| self.iteration(iteration));
            }
            _ => self.served_tier.field(key, value),
        }
    }

    /// Returns the service tier that the reports name.
    pub fn service_tier(&self) -> Option<ServiceTier> {
        self.served_tier.tier()
    }

    /// Returns the usage so far; none if no report has a count above zero.
    pub fn usage(&self) -> Option<Usage> {
        let all = self.extra_shares.iter().fold(self.totals(), |all, share| all.plus(&share.usage));
        (0 < all.tokens()).then_some(all)
    }

    /// Returns the shares of other models.
    pub fn shares(&self) -> Vec<ModelUsageShare> {
        let served = self
            .serving_model
            .iter()
            .map(|model| ModelUsageShare { model: model.clone(), usage: self.totals() });
        let is_other = |share: &&ModelUsageShare| !share.model.is_empty();
        self.extra_shares.iter().filter(is_other).cloned().chain(served).collect()
    }

    /// Returns the totals. Anthropic's input excludes tokens read from or written to the cache; the
    /// input here includes them.
    fn totals(&self) -> Usage {
        let cache_write = self.cache_write.max(self.cache_write_5m + self.cache_write_1h);
        Usage::from_tokens(self.uncached + cache_write + self.cache_read, self.output)
            .with(Unit::CachedInputTokens, self.cache_read)
            .with(Unit::CacheWriteTokens, cache_write)
            .with(Unit::CacheWrite5mTokens, self.cache_write_5m)
            .with(Unit::CacheWrite1hTokens, self.cache_write_1h)
            .with(Unit::ReasoningTokens, self.thinking.min(self.output))
            .with(Unit::WebSearches, self.searches)
    }

    /// Reads an iteration. The totals exclude advisor messages and compactions; those of a response
    /// by a fallback are the fallback's.
    fn iteration(&mut self, iteration: &[u8]) {
        let (mut kind, mut model, mut counts) = (None, Cow::default(), Self::default());
        // A malformed iteration is ignored.
        let _ = json::fields(iteration, |key, value| match (&*key, &iteration[value]) {
            ("type", value) => kind = json::string_of(value),
            ("model", value) => model = json::string_of(value).unwrap_or_default(),
            // Iterations are not nested.
            ("iterations", _) => {}
            (_, value) => counts.field(&key, value),
        });
        let model: String = model.chars().take(MODEL_LETTERS_MAX).collect();
        match kind.as_deref() {
            Some("advisor_message" | "compaction") => {
                self.add_extra_share(ModelUsageShare {
                    model: model.into(),
                    usage: counts.totals(),
                });
            }
            Some("fallback_message") => self.serving_model = Some(model.into()),
            _ => {}
        }
    }

    /// Adds the share of an iteration. The last share collects the usage of all further ones.
    fn add_extra_share(&mut self, share: ModelUsageShare) {
        match self.extra_shares.get_mut(SHARES_MAX - 1) {
            Some(last) => last.usage = last.usage.plus(&share.usage),
            None => self.extra_shares.push(share),
        }
    }
}

fn set(field: &mut u64, value: &[u8]) {
    if value != b"null" {
        *field = json::count_of(value).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(objects: &[&str]) -> Option<Usage> {
        let mut counts = Counts::default();
        for object in objects {
            counts.read(object.as_bytes());
        }
        counts.usage()
    }

    #[test]
    fn the_cache_is_part_of_the_input() {
        let usage = read_all(&[r#"{"input_tokens":4,"output_tokens":30,
            "cache_creation_input_tokens":50,"cache_read_input_tokens":600,
            "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":30},
            "output_tokens_details":{"thinking_tokens":12},
            "server_tool_use":{"web_search_requests":2}}"#]);
        let expected = Usage::from_tokens(654, 30)
            .with(Unit::CachedInputTokens, 600)
            .with(Unit::CacheWriteTokens, 50)
            .with(Unit::CacheWrite5mTokens, 20)
            .with(Unit::CacheWrite1hTokens, 30)
            .with(Unit::ReasoningTokens, 12)
            .with(Unit::WebSearches, 2);
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn later_reports_replace_field_by_field() {
        let start = r#"{"input_tokens":2039,"output_tokens":1,"cache_read_input_tokens":7,
            "cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":0}}"#;
        let only_output = read_all(&[start, r#"{"output_tokens":18}"#]).expect("reported");
        assert_eq!(only_output.get(Unit::InputTokens), 2039 + 3 + 7);
        assert_eq!(only_output.get(Unit::OutputTokens), 18);
        let all = r#"{"input_tokens":10423,"output_tokens":510,"cache_read_input_tokens":null}"#;
        let usage = read_all(&[start, all]).expect("reported");
        assert_eq!(usage.get(Unit::InputTokens), 10423 + 3 + 7);
        assert_eq!(usage.get(Unit::CacheWrite5mTokens), 3);
    }

    #[test]
    fn iterations_outside_of_the_totals_are_billed_in_addition() {
        let object = |kind: &str| {
            format!(
                r#"{{"input_tokens":10,"output_tokens":5,"iterations":[
                   {{"type":"message","input_tokens":10,"output_tokens":5}},
                   {{"type":"{kind}","input_tokens":7,"cache_read_input_tokens":1,"output_tokens":2}}]}}"#
            )
        };
        for (kind, input, output) in
            [("advisor_message", 18, 7), ("compaction", 18, 7), ("fallback_message", 10, 5)]
        {
            let (start, last) = (object(kind), object(kind));
            let usage = read_all(&[&start, &last]).expect("reported");
            assert_eq!((usage.input_tokens(), usage.tokens() - input), (input, output), "{kind}");
        }
    }

    #[test]
    fn other_models_have_their_own_share() {
        let shares = |kind: &str, model: &str| {
            let mut counts = Counts::default();
            let object = format!(
                r#"{{"input_tokens":10,"output_tokens":5,"iterations":[
                   {{"type":"message","model":"a","input_tokens":4,"output_tokens":5}},
                   {{"type":"{kind}",{model}"input_tokens":7,"cache_read_input_tokens":1,"output_tokens":2}}]}}"#
            );
            counts.read(object.as_bytes());
            counts.read(object.as_bytes());
            counts.shares()
        };
        let extra = Usage::from_tokens(8, 2).with(Unit::CachedInputTokens, 1);
        let share = |usage| vec![ModelUsageShare { model: "b".into(), usage }];
        let named = r#""model":"b","#;
        assert_eq!(shares("advisor_message", named), share(extra));
        assert_eq!(shares("compaction", named), share(extra));
        assert_eq!(shares("compaction", ""), [], "the requested model did it");
        assert_eq!(shares("fallback_message", named), share(Usage::from_tokens(10, 5)));
        assert_eq!(shares("message", named), []);
    }

    #[test]
    fn the_number_of_shares_is_limited() {
        let one = r#"{"type":"compaction","model":"b","input_tokens":2,"output_tokens":1}"#;
        let within = |inner: &str| one.replacen('{', &format!(r#"{{"iterations":{inner},"#), 1);
        let many = [one; 1_000].join(",");
        let mut counts = Counts::default();
        counts.read(format!(r#"{{"iterations":[{many},{}]}}"#, within(&within(one))).as_bytes());
        assert_eq!(counts.usage(), Some(Usage::from_tokens(2_002, 1_001)));
        assert_eq!(counts.shares().len(), SHARES_MAX);
    }

    #[test]
    fn reports_without_counts_are_ignored() {
        for object in ["{}", "null", r#"{"input_tokens":0}"#, "{\"input_tokens\":"] {
            assert_eq!(read_all(&[object]), None, "{object}");
        }
    }

    #[test]
    fn the_tier_is_that_of_the_response() {
        for (objects, tier) in [
            (&[r#"{"service_tier":"priority"}"#, r#"{"output_tokens":1}"#][..], Some("priority")),
            (&[r#"{"service_tier":"standard","speed":"fast"}"#], Some("fast")),
            (
                &[r#"{"inference_geo":"us","speed":"fast"}"#, r#"{"inference_geo":null}"#],
                Some("fast-us"),
            ),
            (&[r#"{"service_tier":null,"speed":null,"inference_geo":null}"#], None),
        ] {
            let mut counts = Counts::default();
            for object in objects {
                counts.read(object.as_bytes());
            }
            let named = counts.service_tier();
            assert_eq!(named.as_ref().map(ServiceTier::name), tier, "{objects:?}");
        }
    }
}
