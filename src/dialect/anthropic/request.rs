//! Reads the policy fields of Anthropic requests.

use crate::dialect::anthropic::external_refs;
use crate::dialect::anthropic::tier::ServedTier;
use crate::dialect::call_facts::{CallFacts, ParseError};
use crate::dialect::external_refs::OTHER_MODELS_MAX;
use crate::dialect::field_kinds::{Background, Flag, Json, ModelName, ModelOverride, OutputBound};
use crate::dialect::json;
use crate::dialect::policy_fields::policy_fields;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

policy_fields! {
    struct MessageFields from json {
        model: ModelName = "model",
        background: Background = "background",
        stream: Flag = "stream",
        max_tokens: OutputBound = "max_tokens",
        container: Json = "container",
        mcp_servers: Json = "mcp_servers",
        tools: Json = "tools",
        fallbacks: Json = "fallbacks",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        thinking: Json = "thinking",
        service_tier: Json = "service_tier",
        speed: Json = "speed",
        inference_geo: Json = "inference_geo",
    }
}

/// Reads a request for a message, and checks that the body is JSON.
///
/// The provider requires `max_tokens`; without it the model's maximum applies.
pub fn message(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = MessageFields::from_json(body)?;
    let model = fields.model().name()?;
    fields.background().reject()?;
    let (container, tools) = (fields.container().value(), fields.tools().non_empty());
    let mut external_refs = external_refs::find(body, container, tools);
    if let Some(fallbacks) = fields.fallbacks().non_empty() {
        external_refs::add_fallbacks(fallbacks, &mut external_refs)?;
    }
    fields.models().reject()?;
    fields.route().reject()?;
    external_refs.other_models.retain(|other| *other != model);
    if OTHER_MODELS_MAX < external_refs.other_models.len() {
        let what = "and tools select too many models; select at most 8";
        return Err(ParseError::for_field("fallbacks", what));
    }
    external_refs.has_external_content |= fields.mcp_servers().value().is_some();
    let web_searches = external_refs.searches;
    Ok(CallFacts {
        stream: fields.stream().get()?,
        output_tokens_max: fields.max_tokens().get()?,
        item_units_max: UnitCounts::of(Unit::WebSearches, web_searches),
        service_tier: served_tier(&fields).tier().unwrap_or_default(),
        hides_output: fields.thinking().value().is_some_and(is_thinking_enabled),
        ..CallFacts::without_output(model, fields.model().span(), external_refs)
    })
}

fn served_tier(fields: &MessageFields<'_>) -> ServedTier {
    let mut tier = ServedTier::default();
    tier.field("service_tier", fields.service_tier().value().unwrap_or_default());
    tier.field("speed", fields.speed().value().unwrap_or_default());
    tier.field("inference_geo", fields.inference_geo().value().unwrap_or_default());
    tier
}

/// Whether the model thinks. The provider bills the thinking, and shows a summary of it at most.
fn is_thinking_enabled(thinking: &[u8]) -> bool {
    let mut is_disabled = false;
    json::each_named(thinking, &["type"], |kind| is_disabled = kind == b"\"disabled\"");
    !is_disabled
}

/// Reads a request to count tokens: it is never a stream and has no output.
pub fn count(body: &[u8]) -> Result<CallFacts, ParseError> {
    Ok(CallFacts { stream: false, output_tokens_max: Some(0), ..message(body)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::HOSTED_CALLS_MAX;

    fn read(body: &str) -> Result<CallFacts, ParseError> {
        message(body.as_bytes())
    }

    #[test]
    fn searches_are_bound_by_max_uses_and_the_tier_has_speed_and_region() {
        let searches = |tools: &str| {
            let read = read(&format!(r#"{{"model":"m","tools":[{tools}]}}"#)).expect(tools);
            read.item_units_max.get(Unit::WebSearches)
        };
        let tool = r#"{"type":"web_search_20250305","name":"w"}"#;
        let bound = r#"{"max_uses":3,"type":"web_search_20250305","name":"w"}"#;
        assert_eq!((searches(tool), searches(bound)), (HOSTED_CALLS_MAX, 3));
        assert_eq!(searches(&format!("{tool},{bound}")), HOSTED_CALLS_MAX + 3);
        assert_eq!(searches(r#"{"type":"web_fetch_20250910","max_uses":3}"#), 0);
        for (rest, tier) in [
            (r#""speed":"fast","service_tier":"auto""#, "fast"),
            (r#""speed":"standard","service_tier":"auto""#, "auto"),
            (r#""inference_geo":"us","speed":"fast""#, "fast-us"),
            (r#""inference_geo":"global""#, ""),
            (r#""speed":null"#, ""),
        ] {
            let read = read(&format!(r#"{{"model":"m",{rest}}}"#)).expect(rest);
            assert_eq!(read.service_tier.name(), tier, "{rest}");
        }
    }

    #[test]
    fn policy_fields_are_read() {
        let request = read(r#"{"model":"claude","stream":true,"max_tokens":9,"messages":[]}"#);
        let request = request.expect("valid");
        assert_eq!((request.model.as_str(), request.stream), ("claude", true));
        assert_eq!((request.output_tokens_max, request.choices), (Some(9), 1));
        for unbound in [r#"{"model":"claude"}"#, r#"{"model":"claude","max_tokens":0}"#] {
            assert_eq!(read(unbound).expect("valid").output_tokens_max, None, "{unbound}");
        }
        let counted = count(br#"{"model":"claude","max_tokens":9}"#).expect("valid");
        assert_eq!(counted.output_tokens_max, Some(0));
    }

    #[test]
    fn errors_name_the_field() {
        for (body, param) in [
            (r#"{"max_tokens":1}"#, "model"),
            (r#"{"model":"a","max_tokens":"1"}"#, "max_tokens"),
            (r#"{"model":"a","max_tokens":1,"max_tokens":1}"#, "max_tokens"),
            (r#"{"model":"a","stream":1}"#, "stream"),
            (r#"{"model":"a","background":true}"#, "background"),
        ] {
            assert_eq!(read(body).expect_err(body).param, Some(param), "{body}");
        }
    }

    #[test]
    fn thinking_hides_output() {
        for (thinking, hides) in [
            ("null", false),
            (r#"{"type":"disabled"}"#, false),
            (r#"{"type":"enabled","budget_tokens":1024}"#, true),
            (r#"{"type":"adaptive","display":"omitted"}"#, true),
            (r#"{"type":"of tomorrow"}"#, true),
            ("{}", true),
        ] {
            let request = read(&format!(r#"{{"model":"a","thinking":{thinking}}}"#));
            assert_eq!(request.expect("valid").hides_output, hides, "{thinking}");
        }
        assert!(!read(r#"{"model":"a"}"#).expect("valid").hides_output);
    }

    #[test]
    fn other_models_are_collected() {
        let others = |body| read(body).expect("valid").external_refs.other_models;
        let none = r#"{"model":"a","fallbacks":[],"tools":[{"name":"t","input_schema":{}}]}"#;
        assert!(others(none).is_empty());
        let two = r#"{"model":"a","fallbacks":[{"model":"b"}],
            "tools":[{"type":"advisor_20260301","model":"c"}]}"#;
        assert_eq!(others(two), ["c", "b"]);
        let itself = r#"{"model":"a","fallbacks":[{"model":"a"},{"model":"b"},{"model":"b"}]}"#;
        assert_eq!(others(itself), ["b"]);
        let name = |at: usize| format!(r#"{{"model":"m{at}"}}"#);
        let many: Vec<String> = (0..100_000).map(name).collect();
        for fallbacks in [
            format!("[{}]", many.join(",")),
            r#"["b"]"#.to_owned(),
            r#"[{"Model":"b"}]"#.to_owned(),
            r#"{"model":"b"}"#.to_owned(),
        ] {
            let error = read(&format!(r#"{{"model":"a","fallbacks":{fallbacks}}}"#));
            assert_eq!(error.expect_err("unclear").param, Some("fallbacks"));
        }
    }
}
