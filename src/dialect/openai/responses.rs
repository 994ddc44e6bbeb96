//! The policy fields of requests of the Responses API.

use crate::dialect::call_facts::{CallFacts, Edit, ParseError, PolicyFields};
use crate::dialect::external_refs::{HOSTED_CALLS_MAX, TOOLS_TOKENS};
use crate::dialect::json;
use crate::dialect::openai::request::clamp as clamp_field;
use crate::dialect::openai::{external_refs, state_refs};
use crate::dialect::tier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

const FIELDS: [&str; 15] = [
    "model",
    "background",
    "stream",
    BOUND,
    "input",
    "tools",
    "previous_response_id",
    "conversation",
    "prompt",
    "reasoning",
    "max_tool_calls",
    "models",
    "route",
    "fallbacks",
    "service_tier",
];

const BOUND: &str = "max_output_tokens";

/// The least bound that OpenAI accepts, in tokens.
const BOUND_MIN: u64 = 16;

/// Reads a request for a response.
pub fn response(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = PolicyFields::from_json(body, FIELDS)?;
    let model = fields.required_text(0, "must be the name of a model, a string")?;
    let stream = fields.flag(2)?;
    // A stream is heard out, whatever becomes of its client; nothing else would be metered.
    let goes_on = stream && fields.flag(1)?;
    if !goes_on {
        fields.reject_background(1)?;
    }
    (11..14).try_for_each(|at| fields.reject_model_override(at))?;
    let mut outside = external_refs::find(body, fields.value(5))?;
    state_refs::collect(body, fields.value(4), fields.value(5), &mut outside);
    state_refs::collect_field("previous_response_id", fields.value(6), &mut outside);
    state_refs::collect_field("conversation", fields.value(7), &mut outside);
    if fields.value(8).is_some() {
        outside.add_state_ref("prompt");
    }
    if fields.non_empty(5).is_some() {
        outside.unseen_tokens += TOOLS_TOKENS;
    }
    Ok(CallFacts {
        stream,
        output_tokens_max: fields.bound(3)?,
        hides_output: goes_on || has_hidden_reasoning(fields.value(9)),
        item_units_max: item_units_max(
            fields.value(5),
            fields.count(10)?.unwrap_or(HOSTED_CALLS_MAX),
        ),
        service_tier: fields.value(14).and_then(tier::parse).unwrap_or_default(),
        ..CallFacts::without_output(model, fields.span(0), outside)
    })
}

/// Reads a request for a shorter form of what was said: it takes no bound of its output.
pub fn compact(body: &[u8]) -> Result<CallFacts, ParseError> {
    Ok(CallFacts { output_tokens_max: None, ..response(body)? })
}

/// Reads a request for a count of the input.
pub fn count(body: &[u8]) -> Result<CallFacts, ParseError> {
    Ok(CallFacts { output_tokens_max: Some(0), ..response(body)? })
}

/// What the tools may do by the piece, with so many calls at most.
fn item_units_max(tools: Option<&[u8]>, calls: u64) -> UnitCounts {
    let mut counts = UnitCounts::default();
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
            counts = counts.with(unit, count);
        });
    });
    counts
}

/// Whether it asks for thoughts, of which the answer shows a summary at most.
fn has_hidden_reasoning(reasoning: Option<&[u8]>) -> bool {
    let mut reasons = false;
    json::each_named(reasoning.unwrap_or_default(), &["effort"], |effort| {
        let effort = json::string_of(effort);
        reasons = effort.is_some_and(|effort| !matches!(&*effort, "none" | "minimal"));
    });
    reasons
}

/// The edit that bounds the output; by no less than OpenAI accepts.
pub fn clamp(body: &[u8], tokens: u64) -> Option<Edit> {
    clamp_field(body, BOUND, tokens.max(BOUND_MIN))
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

    /// The field that names state, and the id by which it does.
    fn state(rest: &str) -> Option<(&'static str, Option<String>)> {
        outside(rest).state.map(|state| (state.field, state.id.map(String::from)))
    }

    #[test]
    fn policy_fields_are_read_and_nothing_is_asked_for_on_top() {
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
    fn faults_name_the_field() {
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
    fn a_call_that_asks_for_thoughts_hides_output() {
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
    fn searches_are_bound_by_the_calls_of_tools_and_the_tier_is_read() {
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
        let counts =
            UnitCounts::of(Unit::Images, 4).with(Unit::FileSearches, 4).with(Unit::CodeSessions, 1);
        assert_eq!(hosted.expect("valid").item_units_max, counts);
        let tier = read(r#""service_tier":"flex""#).expect("valid").service_tier;
        assert_eq!(tier.name(), "flex");
    }

    #[test]
    fn no_bound_is_put_that_the_provider_would_refuse() {
        let text = |tokens| clamp(b"{}", tokens).map(|edit| edit.text.into_owned());
        assert_eq!(text(15).as_deref(), Some(r#""max_output_tokens":16"#));
        assert_eq!(text(17).as_deref(), Some(r#""max_output_tokens":17"#));
        assert_eq!(clamp(br#"{"max_output_tokens":1}"#, 20), None);
    }

    #[test]
    fn state_is_named_by_the_id_that_an_answer_gave() {
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
    fn what_no_answer_gave_an_id_of_is_state_without_one() {
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
    fn what_stands_in_the_body_is_no_state() {
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
    fn tools_cost_what_no_byte_shows_and_those_of_the_provider_bring_in_content() {
        let function = outside(r#""tools":[{"type":"function","name":"f"}]"#);
        assert_eq!((function.has_external_content, function.unseen_tokens), (false, TOOLS_TOKENS));
        let search = outside(r#""tools":[{"type":"web_search"}]"#);
        assert_eq!((search.has_external_content, search.unseen_tokens), (true, TOOLS_TOKENS));
        assert!(
            outside(r#""input":[{"content":[{"image_url":"https://a/b"}]}]"#).has_external_content
        );
    }
}
