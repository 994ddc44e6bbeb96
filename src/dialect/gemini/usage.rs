//! Reads the usage objects of Gemini. Each is cumulative, so the last one of a stream applies.

use crate::dialect::json;
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::{Unit, Usage};

/// Returns the usage that an object reports; none if it has no counts, but only a traffic type for
/// example.
///
/// Thoughts are billed as output, and the tokens of the candidates exclude them. Tokens that hosted
/// tools add to the prompt are billed as input, and the tokens of the prompt exclude them. An
/// object may lack the tokens of the prompt: then the input is 0, and the gateway's own count
/// replaces it. The modalities of the prompt include cached tokens.
pub fn read(object: &[u8]) -> Option<Usage> {
    let mut counts = Counts::default();
    json::fields(object, |key, value| counts.field(&key, &object[value])).ok()?;
    let input = counts.prompt + counts.tool_use;
    let output = counts.candidates + counts.thoughts;
    if input == 0 && output == 0 {
        return None;
    }
    let usage = counts
        .parts
        .with(Unit::InputTokens, input)
        .with(Unit::OutputTokens, output)
        .with(Unit::CachedInputTokens, counts.cached.min(counts.prompt))
        .with(Unit::ToolUseInputTokens, counts.tool_use)
        .with(Unit::ReasoningTokens, counts.thoughts);
    let usage = usage
        .capped(Unit::InputAudioTokens, input)
        .capped(Unit::InputImageTokens, input)
        .capped(Unit::OutputAudioTokens, counts.candidates)
        .capped(Unit::OutputImageTokens, counts.candidates);
    Some(usage.cap_cached_modalities())
}

/// Returns the service tier that an object names, as a tier or as a traffic type.
pub fn service_tier(object: &[u8]) -> Option<ServiceTier> {
    let mut tier = None;
    json::each_named(object, &["serviceTier", "service_tier", "trafficType"], |value| {
        let name = json::string_of(value).unwrap_or_default().to_ascii_lowercase();
        // On-demand traffic has the regular price, unless a tier follows: `ON_DEMAND_PRIORITY`.
        let name = name.strip_prefix("on_demand").map_or(&*name, |tier| tier.trim_matches('_'));
        let name = name.trim_start_matches("service_tier_");
        tier = ServiceTier::new(name).filter(|tier| !tier.is_default()).or(tier);
    });
    tier
}

#[derive(Default)]
struct Counts {
    prompt: u64,
    tool_use: u64,
    cached: u64,
    candidates: u64,
    thoughts: u64,
    parts: Usage,
}

impl Counts {
    fn field(&mut self, key: &str, value: &[u8]) {
        match key {
            "promptTokenCount" => self.prompt = json::count_of(value).unwrap_or_default(),
            "toolUsePromptTokenCount" => self.tool_use = json::count_of(value).unwrap_or_default(),
            "cachedContentTokenCount" => self.cached = json::count_of(value).unwrap_or_default(),
            "candidatesTokenCount" => self.candidates = json::count_of(value).unwrap_or_default(),
            "thoughtsTokenCount" => self.thoughts = json::count_of(value).unwrap_or_default(),
            "promptTokensDetails" | "promptTokenDetails" | "toolUsePromptTokensDetails" => {
                self.details(value, Unit::InputAudioTokens, Unit::InputImageTokens);
            }
            "cacheTokensDetails" => {
                self.details(value, Unit::CachedInputAudioTokens, Unit::CachedInputImageTokens);
            }
            "candidatesTokensDetails" => {
                self.details(value, Unit::OutputAudioTokens, Unit::OutputImageTokens);
            }
            _ => {}
        }
    }

    fn details(&mut self, list: &[u8], audio: Unit, image: Unit) {
        json::elements(list, |detail| {
            let (mut unit, mut tokens) = (None, 0);
            // A malformed detail is ignored; the totals still apply.
            let _ = json::fields(detail, |key, value| match (&*key, &detail[value]) {
                // Clients can request enums as numbers.
                ("modality", b"\"IMAGE\"" | b"2") => unit = Some(image),
                ("modality", b"\"AUDIO\"" | b"4") => unit = Some(audio),
                ("tokenCount", value) => tokens = json::count_of(value).unwrap_or_default(),
                _ => {}
            });
            if let Some(unit) = unit {
                self.parts = self.parts.with(unit, self.parts.get(unit) + tokens);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_output_and_tool_use_is_input() {
        let usage = read(
            br#"{"promptTokenCount":32,"candidatesTokenCount":25,"totalTokenCount":4704,
                "toolUsePromptTokenCount":4610,"thoughtsTokenCount":37,
                "cachedContentTokenCount":8,"trafficType":"ON_DEMAND"}"#,
        );
        let expected = Usage::from_tokens(4642, 62)
            .with(Unit::ToolUseInputTokens, 4610)
            .with(Unit::CachedInputTokens, 8)
            .with(Unit::ReasoningTokens, 37);
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn modalities_are_read_by_name_and_by_number() {
        for (image, audio) in [("\"IMAGE\"", "\"AUDIO\""), ("2", "4")] {
            for key in ["promptTokensDetails", "promptTokenDetails"] {
                let object = format!(
                    r#"{{"promptTokenCount":300,"{key}":[{{"modality":1,"tokenCount":9}},
                       {{"modality":{image},"tokenCount":258}},
                       {{"tokenCount":33,"modality":{audio}}}],
                       "candidatesTokenCount":10,
                       "candidatesTokensDetails":[{{"modality":{image},"tokenCount":99}}]}}"#
                );
                let expected = Usage::from_tokens(300, 10)
                    .with(Unit::InputImageTokens, 258)
                    .with(Unit::InputAudioTokens, 33)
                    .with(Unit::OutputImageTokens, 10);
                assert_eq!(read(object.as_bytes()), Some(expected), "{object}");
            }
        }
    }

    #[test]
    fn cached_tokens_have_modalities_that_the_prompt_includes() {
        let object = r#"{"promptTokenCount":373,"candidatesTokenCount":9,"cachedContentTokenCount":204,
            "cacheTokensDetails":[{"modality":"TEXT","tokenCount":3},
            {"modality":"AUDIO","tokenCount":60},{"modality":"IMAGE","tokenCount":141}],
            "promptTokensDetails":[{"modality":"IMAGE","tokenCount":258},
            {"modality":"AUDIO","tokenCount":90}]}"#;
        let expected = Usage::from_tokens(373, 9)
            .with(Unit::CachedInputTokens, 204)
            .with(Unit::CachedInputAudioTokens, 60)
            .with(Unit::CachedInputImageTokens, 141)
            .with(Unit::InputImageTokens, 258)
            .with(Unit::InputAudioTokens, 90);
        assert_eq!(read(object.as_bytes()), Some(expected));
        let fewer =
            object.replace("\"cachedContentTokenCount\":204", "\"cachedContentTokenCount\":100");
        let usage = read(fewer.as_bytes()).expect("reported");
        assert_eq!(usage.get(Unit::CachedInputAudioTokens), 60);
        assert_eq!(usage.get(Unit::CachedInputImageTokens), 40, "no more than was cached");
    }

    #[test]
    fn a_tier_is_named_directly_or_by_the_traffic_type() {
        for (object, named) in [
            (r#"{"serviceTier":"flex"}"#, Some("flex")),
            (r#"{"serviceTier":"SERVICE_TIER_PRIORITY"}"#, Some("priority")),
            (r#"{"trafficType":"ON_DEMAND_PRIORITY","promptTokenCount":1}"#, Some("priority")),
            (r#"{"trafficType":"ON_DEMAND_FLEX","serviceTier":"standard"}"#, Some("flex")),
            (r#"{"trafficType":"ON_DEMAND"}"#, None),
            (r#"{"trafficType":"PROVISIONED_THROUGHPUT"}"#, None),
            (r#"{"serviceTier":1}"#, None),
        ] {
            let tier = service_tier(object.as_bytes());
            assert_eq!(tier.as_ref().map(ServiceTier::name), named, "{object}");
        }
    }

    #[test]
    fn a_traffic_type_alone_is_no_report_and_the_prompt_may_be_missing() {
        for object in [r#"{"trafficType":"ON_DEMAND"}"#, "{}", "null", r#"{"totalTokenCount":0}"#] {
            assert_eq!(read(object.as_bytes()), None, "{object}");
        }
        let partial = read(br#"{"candidatesTokenCount":7,"totalTokenCount":7}"#);
        assert_eq!(partial, Some(Usage::from_tokens(0, 7)));
    }
}
