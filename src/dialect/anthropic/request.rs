//! The policy fields of Anthropic requests.

use crate::dialect::anthropic::external_refs;
use crate::dialect::anthropic::tier::{self, ServedTier};
use crate::dialect::call_facts::{CallFacts, ParseError, PolicyFields};
use crate::dialect::external_refs::OTHER_MODELS_MAX;
use crate::dialect::json;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

const POLICY_FIELDS: [&str; 14] = [
    "model",
    "background",
    "stream",
    "max_tokens",
    "container",
    "mcp_servers",
    "tools",
    "fallbacks",
    "models",
    "route",
    "thinking",
    tier::FIELDS[0],
    tier::FIELDS[1],
    tier::FIELDS[2],
];

/// Reads the policy fields of a request for a message, and checks that the body is JSON.
///
/// The provider demands `max_tokens`; without it the model's maximum applies.
pub fn message(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = PolicyFields::from_json(body, POLICY_FIELDS)?;
    let model = fields.required_text(0, "must be the name of a model, a string")?;
    fields.reject_background(1)?;
    let mut outside = external_refs::find(body, fields.value(4), fields.non_empty(6));
    if let Some(fallbacks) = fields.non_empty(7) {
        external_refs::add_fallbacks(fallbacks, &mut outside)?;
    }
    fields.reject_model_override(8)?;
    fields.reject_model_override(9)?;
    outside.other_models.retain(|other| *other != model);
    if OTHER_MODELS_MAX < outside.other_models.len() {
        let what = "names too many models; name eight at most";
        return Err(ParseError::for_field("fallbacks", what));
    }
    let mut served = ServedTier::default();
    for (at, field) in (11..).zip(tier::FIELDS) {
        served.field(field, fields.value(at).unwrap_or_default());
    }
    outside.has_external_content |= fields.value(5).is_some();
    Ok(CallFacts {
        stream: fields.flag(2)?,
        output_tokens_max: fields.bound(3)?,
        item_units_max: UnitCounts::of(Unit::WebSearches, outside.searches),
        service_tier: served.tier().unwrap_or_default(),
        hides_output: fields.value(10).is_some_and(thinks),
        ..CallFacts::without_output(model, fields.span(0), outside)
    })
}

/// Whether the model is asked to think. Of what it thinks, and bills, it shows a summary or nothing.
fn thinks(thinking: &[u8]) -> bool {
    let mut is_off = false;
    json::each_named(thinking, &["type"], |kind| is_off = kind == b"\"disabled\"");
    !is_off
}

/// Reads the same of a request that only counts: it is never a stream and has no output.
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
    fn searches_are_bound_by_the_uses_of_their_tool_and_a_speed_and_a_place_are_tiers() {
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
    fn faults_name_the_field() {
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
    fn a_model_that_is_asked_to_think_hides_output() {
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
    fn models_beside_the_first_are_named() {
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
            let fault = read(&format!(r#"{{"model":"a","fallbacks":{fallbacks}}}"#));
            assert_eq!(fault.expect_err("unclear").param, Some("fallbacks"));
        }
    }
}
