//! Reads the policy fields of requests of the Responses API.

use crate::dialect::call_facts::{CallFacts, Edit, ParseError};
use crate::dialect::external_refs::{HOSTED_CALLS_MAX, TOOLS_TOKENS};
use crate::dialect::field_kinds::{
    Background, Count, Flag, Json, ModelName, ModelOverride, OutputBound,
};
use crate::dialect::json;
use crate::dialect::openai::request::clamp as clamp_field;
use crate::dialect::openai::{external_refs, state_refs};
use crate::dialect::policy_fields::policy_fields;
use crate::dialect::tier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

policy_fields! {
    struct ResponseFields from json {
        model: ModelName = "model",
        background: Background = "background",
        stream: Flag = "stream",
        max_output_tokens: OutputBound = "max_output_tokens",
        input: Json = "input",
        tools: Json = "tools",
        previous_response_id: Json = "previous_response_id",
        conversation: Json = "conversation",
        prompt: Json = "prompt",
        reasoning: Json = "reasoning",
        max_tool_calls: Count = "max_tool_calls",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
        service_tier: Json = "service_tier",
    }
}

/// The smallest bound that OpenAI accepts, in tokens.
const BOUND_MIN: u64 = 16;

/// Reads a request for a response.
pub fn response(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = ResponseFields::from_json(body)?;
    let model = fields.model().name()?;
    let stream = fields.stream().get()?;
    // The gateway reads a background stream to its end even if the client disconnects. Without a
    // stream nothing would meter the response.
    let is_background_stream = stream && fields.background().get()?;
    if !is_background_stream {
        fields.background().reject()?;
    }
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let tools = fields.tools();
    let mut external_refs = external_refs::find(body, tools.value())?;
    state_refs::collect(body, fields.input().value(), tools.value(), &mut external_refs);
    let previous = fields.previous_response_id().value();
    state_refs::collect_field("previous_response_id", previous, &mut external_refs);
    let conversation = fields.conversation().value();
    state_refs::collect_field("conversation", conversation, &mut external_refs);
    if fields.prompt().value().is_some() {
        external_refs.add_state_ref("prompt");
    }
    if tools.non_empty().is_some() {
        external_refs.unseen_tokens += TOOLS_TOKENS;
    }
    let tool_calls_max = fields.max_tool_calls().get()?.unwrap_or(HOSTED_CALLS_MAX);
    Ok(CallFacts {
        stream,
        output_tokens_max: fields.max_output_tokens().get()?,
        hides_output: is_background_stream || has_hidden_reasoning(fields.reasoning().value()),
        item_units_max: item_units_max(tools.value(), tool_calls_max),
        service_tier: fields.service_tier().value().and_then(tier::parse).unwrap_or_default(),
        ..CallFacts::without_output(model, fields.model().span(), external_refs)
    })
}

/// Reads a request to compact a conversation, whose output the client cannot bound.
pub fn compact(body: &[u8]) -> Result<CallFacts, ParseError> {
    Ok(CallFacts { output_tokens_max: None, ..response(body)? })
}

/// Reads a request to count input tokens.
pub fn count(body: &[u8]) -> Result<CallFacts, ParseError> {
    Ok(CallFacts { output_tokens_max: Some(0), ..response(body)? })
}

/// Returns the maximum of the units that `calls` calls of the hosted tools can use.
fn item_units_max(tools: Option<&[u8]>, calls: u64) -> UnitCounts {
    let mut units = UnitCounts::default();
    json::elements(tools.unwrap_or(b"null"), |tool| {
        json::each_named(tool, &["type"], |kind| {
            let (unit, count) = match &*json::string_of(kind).unwrap_or_default() {
                kind if kind.starts_with("web_search") || kind.starts_with("x_search") => {
                    (Unit::WebSearches, calls)
                }
                "image_generation" => (Unit::Images, calls),
                "file_search" => (Unit::FileSearches, calls),
                "code_interpreter" => (Unit::CodeSessions, calls.min(1)),
                _ => return,
            };
            units = units.with(unit, count);
        });
    });
    units
}

/// Whether the model reasons. The response shows a summary of the reasoning at most.
fn has_hidden_reasoning(reasoning: Option<&[u8]>) -> bool {
    let mut is_hidden = false;
    json::each_named(reasoning.unwrap_or_default(), &["effort"], |effort| {
        let effort = json::string_of(effort);
        is_hidden = effort.is_some_and(|effort| !matches!(&*effort, "none" | "minimal"));
    });
    is_hidden
}

/// Returns the edit that bounds the output, by at least the minimum that OpenAI accepts.
pub fn clamp(body: &[u8], tokens: u64) -> Option<Edit> {
    clamp_field(body, "max_output_tokens", tokens.max(BOUND_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::ExternalRefs;

    fn read(rest: &str) -> Result<CallFacts, ParseError> {
        response(format!(r#"{{"model":"a",{rest}}}"#).as_bytes())
    }

    fn outside(rest: &str) -> ExternalRefs {
        read(rest).expect(rest).external_refs
    }

    /// Returns the field and the id of the reference.
    fn state(rest: &str) -> Option<(&'static str, Option<String>)> {
        outside(rest).state.map(|state| (state.field, state.id.map(String::from)))
    }

    #[test]
    fn policy_fields_are_read() {
        let request = read(r#""stream":true,"max_output_tokens":20,"input":"x""#).expect("valid");
        assert_eq!((request.stream, request.output_tokens_max), (true, Some(20)));
        assert_eq!((request.choices, request.include_usage), (1, None));
        assert_eq!(request.external_refs, ExternalRefs::default());
        let unbound = read(r#""input":"x","stream_options":{"include_obfuscation":false}"#);
        assert_eq!(unbound.expect("valid").output_tokens_max, None);
        let body = br#"{"model":"a","input":"x","max_output_tokens":20}"#;
        assert_eq!(compact(body).expect("valid").output_tokens_max, None);
        assert_eq!(count(body).expect("valid").output_tokens_max, Some(0));
    }

    #[test]
    fn errors_name_the_field() {
        for (rest, param) in [
            (r#""background":true"#, "background"),
            (r#""max_output_tokens":1.5"#, "max_output_tokens"),
            (r#""MAX_OUTPUT_TOKENS":1"#, "max_output_tokens"),
            (r#""stream":1"#, "stream"),
            (r#""models":["dear"]"#, "models"),
            (r#""tools":[{"type":"image_generation","model":"dear"}]"#, "tools"),
            (r#""previous_response_id":"a","previous_response_id":"b""#, "previous_response_id"),
        ] {
            assert_eq!(read(rest).expect_err(rest).param, Some(param), "{rest}");
        }
        assert_eq!(response(br#"{"prompt":{"id":"p"}}"#).expect_err("none").param, Some("model"));
    }

    #[test]
    fn reasoning_hides_output() {
        for (rest, hides) in [
            (r#""background":true,"stream":true"#, true),
            (r#""reasoning":{"effort":"high"}"#, true),
            (r#""reasoning":{"effort":"low","summary":"auto"}"#, true),
            (r#""reasoning":{"effort":"minimal"}"#, false),
            (r#""reasoning":{"effort":"none"}"#, false),
            (r#""reasoning":{"effort":null}"#, false),
            (r#""reasoning":null"#, false),
        ] {
            assert_eq!(read(rest).expect(rest).hides_output, hides, "{rest}");
        }
    }

    #[test]
    fn hosted_tools_are_bound_by_max_tool_calls() {
        let searches = |rest: &str| read(rest).expect(rest).item_units_max.get(Unit::WebSearches);
        let tools = r#""tools":[{"type":"function"},{"type":"web_search_preview"}]"#;
        assert_eq!(searches(tools), HOSTED_CALLS_MAX);
        assert_eq!(searches(&format!(r#"{tools},"max_tool_calls":3"#)), 3);
        assert_eq!(searches(r#""tools":[{"type":"function","name":"web_search"}]"#), 0);
        assert_eq!(searches(r#""max_tool_calls":3"#), 0);
        let hosted = read(
            r#""tools":[{"type":"image_generation"},{"type":"file_search"},
            {"type":"code_interpreter"}],"max_tool_calls":4"#,
        );
        let units =
            UnitCounts::of(Unit::Images, 4).with(Unit::FileSearches, 4).with(Unit::CodeSessions, 1);
        assert_eq!(hosted.expect("valid").item_units_max, units);
        let tier = read(r#""service_tier":"flex""#).expect("valid").service_tier;
        assert_eq!(tier.name(), "flex");
    }

    #[test]
    fn bounds_below_the_minimum_of_the_provider_are_raised() {
        let text = |tokens| clamp(b"{}", tokens).map(|edit| edit.text.into_owned());
        assert_eq!(text(15).as_deref(), Some(r#""max_output_tokens":16"#));
        assert_eq!(text(17).as_deref(), Some(r#""max_output_tokens":17"#));
        assert_eq!(clamp(br#"{"max_output_tokens":1}"#, 20), None);
    }

    #[test]
    fn references_have_the_id_that_a_response_reported() {
        let by = |field: &'static str, id: &str| Some((field, Some(id.to_owned())));
        for (rest, named) in [
            (r#""previous_response_id":"resp_1""#, by("previous_response_id", "resp_1")),
            (r#""conversation":"conv_1""#, by("conversation", "conv_1")),
            (r#""conversation":{"id":"conv_1"}"#, by("conversation", "conv_1")),
            (r#""conversation":{}"#, Some(("conversation", None))),
            (r#""input":[{"type":"item_reference","id":"msg_1"}]"#, by("input", "msg_1")),
            (r#""input":[{"id":"msg_1"}]"#, by("input", "msg_1")),
            (r#""input":[{"id":"msg_1","type":null}]"#, by("input", "msg_1")),
            (r#""input":[{"type":"reasoning","id":"rs_1","summary":[]}]"#, by("input", "rs_1")),
            (r#""input":[{"type":"image_generation_call","id":"ig_1"}]"#, by("input", "ig_1")),
            (
                r#""input":[{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1"}]"#,
                by("input", "cntr_1"),
            ),
            (
                r#""tools":[{"type":"code_interpreter","container":"cntr_1"}]"#,
                by("tools", "cntr_1"),
            ),
            (
                r#""tools":[{"type":"shell","environment":{"container_id":"cntr_1"}}]"#,
                by("tools", "cntr_1"),
            ),
        ] {
            assert_eq!(state(rest), named, "{rest}");
        }
    }

    #[test]
    fn references_without_a_reported_id_have_none() {
        for (rest, field) in [
            (r#""prompt":{"id":"pmpt_1"}"#, "prompt"),
            (
                r#""input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]"#,
                "file_id",
            ),
            (r#""input":[{"type":"function_call_output","output":[{"file_id":"f"}]}]"#, "file_id"),
            (
                r#""input":[{"output":{"type":"computer_screenshot","file\u005fid":"f"}}]"#,
                "file_id",
            ),
            (r#""tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]"#, "tools"),
            (
                r#""tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["f"]}}]"#,
                "tools",
            ),
            (r#""previous_response_id":"a","conversation":"b""#, "conversation"),
        ] {
            assert_eq!(state(rest), Some((field, None)), "{rest}");
        }
    }

    #[test]
    fn objects_in_the_body_are_no_references() {
        for rest in [
            r#""previous_response_id":null,"conversation":null,"prompt":null"#,
            r#""input":"send the \"id\": 7""#,
            r#""input":[{"type":"message","id":"msg_1","role":"assistant","content":[]}]"#,
            r#""input":[{"id":"msg_1","role":"assistant","content":"a"}]"#,
            r#""input":[{"type":"function_call","id":"fc_1","call_id":"c","arguments":"{}"}]"#,
            r#""input":[{"type":"function_call_output","call_id":"c","output":"\"file_id\":1"}]"#,
            r#""input":[{"type":"reasoning","id":"rs_1","encrypted_content":"gAAA","summary":[]}]"#,
            r#""tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":[]}}]"#,
            r#""tools":[{"type":"function","name":"f","parameters":{"properties":{"id":{}}}}]"#,
        ] {
            assert_eq!(state(rest), None, "{rest}");
        }
    }

    #[test]
    fn tools_add_tokens_and_hosted_tools_add_content() {
        let function = outside(r#""tools":[{"type":"function","name":"f"}]"#);
        assert_eq!((function.has_external_content, function.unseen_tokens), (false, TOOLS_TOKENS));
        let search = outside(r#""tools":[{"type":"web_search"}]"#);
        assert_eq!((search.has_external_content, search.unseen_tokens), (true, TOOLS_TOKENS));
        assert!(
            outside(r#""input":[{"content":[{"image_url":"https://a/b"}]}]"#).has_external_content
        );
    }
}
