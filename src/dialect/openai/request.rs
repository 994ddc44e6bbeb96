//! Reads the policy fields of OpenAI requests: chats, completions, moderations and embeddings.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::call_facts::{CallFacts, Edit, ParseError, insert_first_field};
use crate::dialect::external_refs::{ExternalRefs, TOOLS_TOKENS};
use crate::dialect::field_kinds::{
    Background, Choices, Flag, Json, ModelName, ModelOverride, OutputBound,
};
use crate::dialect::json;
use crate::dialect::openai::external_refs;
use crate::dialect::policy_fields::policy_fields;
use crate::dialect::tier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

policy_fields! {
    struct ChatFields from json {
        model: ModelName = "model",
        background: Background = "background",
        stream: Flag = "stream",
        stream_options: Json = "stream_options",
        max_tokens: OutputBound = "max_tokens",
        max_completion_tokens: OutputBound = "max_completion_tokens",
        choices: Choices = "n",
        tools: Json = "tools",
        functions: Json = "functions",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
        service_tier: Json = "service_tier",
        web_search_options: Json = "web_search_options",
    }
}

policy_fields! {
    struct CompletionFields from json {
        model: ModelName = "model",
        background: Background = "background",
        stream: Flag = "stream",
        stream_options: Json = "stream_options",
        max_tokens: OutputBound = "max_tokens",
        choices: Choices = "n",
        best_of: Choices = "best_of",
        prompt: Json = "prompt",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
    }
}

policy_fields! {
    struct ModerationFields from json {
        model: ModelName = "model",
    }
}

policy_fields! {
    struct EmbeddingFields from json {
        model: ModelName = "model",
        background: Background = "background",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
    }
}

/// OpenAI's bound of a completion without `max_tokens`.
const COMPLETION_TOKENS: u64 = 16;

/// OpenAI's default model for moderations.
const MODERATION_MODEL: &str = "omni-moderation-latest";

const BOUNDS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Reads a chat completion request, and checks that the body is JSON.
pub fn chat(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = ChatFields::from_json(body)?;
    let model = fields.model().name()?;
    fields.background().reject()?;
    let stream = fields.stream().get()?;
    let choices = fields.choices().get()?.unwrap_or(1);
    let options = fields.stream_options().span();
    let include_usage = if stream { include_usage(body, options)? } else { None };
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let mut external_refs = external_refs::find(body, fields.tools().value())?;
    if fields.tools().non_empty().or(fields.functions().non_empty()).is_some() {
        external_refs.unseen_tokens += TOOLS_TOKENS;
    }
    // A chat with search options searches at most once.
    let web_searches = u64::from(fields.web_search_options().value().is_some());
    Ok(CallFacts {
        stream,
        output_tokens_max: fields.max_tokens().get()?.max(fields.max_completion_tokens().get()?),
        choices,
        item_units_max: UnitCounts::of(Unit::WebSearches, web_searches),
        service_tier: fields.service_tier().value().and_then(tier::parse).unwrap_or_default(),
        include_usage,
        ..CallFacts::without_output(model, fields.model().span(), external_refs)
    })
}

/// Reads a request of the legacy completions endpoint. Each prompt has choices of its own, and
/// `best_of` generates choices of which only the best are returned.
pub fn completion(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = CompletionFields::from_json(body)?;
    let model = fields.model().name()?;
    fields.background().reject()?;
    let stream = fields.stream().get()?;
    let per_prompt = fields.choices().get()?.max(fields.best_of().get()?).unwrap_or(1);
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let bound = fields.max_tokens();
    let options = fields.stream_options().span();
    Ok(CallFacts {
        stream,
        output_tokens_max: if bound.is_set() { bound.get()? } else { Some(COMPLETION_TOKENS) },
        choices: per_prompt.saturating_mul(fields.prompt().value().map_or(1, count_prompts)),
        include_usage: if stream { include_usage(body, options)? } else { None },
        ..CallFacts::without_output(model, fields.model().span(), external_refs::find(body, None)?)
    })
}

/// Counts the prompts: a string and an array of tokens are one each.
fn count_prompts(prompt: &[u8]) -> u64 {
    let (mut prompts, mut is_tokens) = (0, true);
    json::elements(prompt, |element| {
        prompts += 1;
        is_tokens &= element.first().is_some_and(u8::is_ascii_digit);
    });
    if is_tokens { 1 } else { prompts }
}

/// Reads a moderation request, whose model is optional.
pub fn moderation(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = ModerationFields::from_json(body)?;
    let (model, span) = match fields.model().optional_name()? {
        Some(model) => (model, fields.model().span()),
        // A null is not a name that could be replaced by another.
        None => (MODERATION_MODEL.to_owned(), None),
    };
    Ok(CallFacts::without_output(model, span, ExternalRefs::default()))
}

/// Reads an embeddings request, which has no output to bound.
pub fn embeddings(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = EmbeddingFields::from_json(body)?;
    fields.background().reject()?;
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let model = fields.model().name()?;
    Ok(CallFacts::without_output(model, fields.model().span(), external_refs::find(body, None)?))
}

/// Returns the edit that sets the output bound `field`; none if the body has a bound, 0 included.
pub fn clamp(body: &[u8], field: &'static str, tokens: u64) -> Option<Edit> {
    let (mut span, mut is_bound) = (None, false);
    json::fields(body, |key, value| {
        let is_field = key == field;
        is_bound |= (is_field || BOUNDS.contains(&&*key)) && &body[value.clone()] != b"null";
        if is_field {
            span = Some(value);
        }
    })
    .ok()?;
    match span {
        _ if is_bound => None,
        None => insert_first_field(body, 0, format!("\"{field}\":{tokens}")),
        Some(range) => Some(Edit { range, text: Cow::Owned(tokens.to_string()) }),
    }
}

/// Returns the edit that sets `stream_options.include_usage`; none if the client set it.
fn include_usage(body: &[u8], options: Option<Range<usize>>) -> Result<Option<Edit>, ParseError> {
    let edit = |range, text| Ok(Some(Edit { range, text: Cow::Borrowed(text) }));
    let Some(options) = options else {
        let start = body.iter().position(|byte| *byte == b'{').unwrap_or_default() + 1;
        return edit(start..start, r#""stream_options":{"include_usage":true},"#);
    };
    let object = &body[options.clone()];
    if object == b"null" {
        return edit(options, r#"{"include_usage":true}"#);
    }
    let (mut values, mut fields) = (Vec::new(), 0);
    let read = json::fields(object, |key, value| {
        fields += 1;
        if key == "include_usage" {
            values.push(value);
        }
    });
    let inside = options.start + 1;
    match (read, values.as_slice()) {
        (Err(_), _) => Err(ParseError::for_field("stream_options", "must be an object")),
        (Ok(()), []) if fields == 0 => edit(inside..inside, r#""include_usage":true"#),
        (Ok(()), []) => edit(inside..inside, r#""include_usage":true,"#),
        (Ok(()), [value]) if &object[value.clone()] == b"true" => Ok(None),
        (Ok(()), [value]) => edit(options.start + value.start..options.start + value.end, "true"),
        (Ok(()), _) => Err(ParseError::for_field(
            "stream_options",
            "contains `include_usage` more than once; send it once",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<CallFacts, ParseError> {
        chat(body.as_bytes())
    }

    fn spliced(body: &str) -> String {
        let edit = read(body).expect("valid").include_usage.expect("an edit");
        format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..])
    }

    #[test]
    fn policy_fields_are_read_and_the_larger_bound_wins() {
        let request = read(
            r#"{"messages":[{"model":"no"}],"model":"gpt\u002d4o","n":2,"max_tokens":5,
               "max_completion_tokens":7,"stream":null}"#,
        )
        .expect("valid");
        assert_eq!((request.model.as_str(), request.choices), ("gpt-4o", 2));
        assert_eq!((request.output_tokens_max, request.stream), (Some(7), false));
        assert_eq!(request.include_usage, None);
        assert_eq!((request.item_units_max, request.service_tier), Default::default());
        let priority = read(r#"{"model":"a","service_tier":"priority","web_search_options":{}}"#);
        let priority = priority.expect("valid");
        assert_eq!(
            (priority.service_tier.name(), priority.item_units_max.get(Unit::WebSearches)),
            ("priority", 1)
        );
        assert!(priority.external_refs.has_external_content);
    }

    #[test]
    fn duplicate_policy_fields_are_refused() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","\u006dodel":"b"}"#,
            r#"{"model":"a","max_tokens":1,"max\u005ftokens":2}"#,
        ] {
            assert!(read(body).expect_err(body).message.contains("more than once"));
        }
        assert!(read(r#"{"model":"a","temperature":1,"temperature":2}"#).is_ok());
    }

    #[test]
    fn errors_name_the_field() {
        for (body, param) in [
            (r#"{"messages":[]}"#, "model"),
            (r#"{"model":7}"#, "model"),
            (r#"{"model":"a","stream":"yes"}"#, "stream"),
            (r#"{"model":"a","background":true}"#, "background"),
            (r#"{"model":"a","n":0}"#, "n"),
            (r#"{"model":"a","max_tokens":-1}"#, "max_tokens"),
            (r#"{"model":"a","max_tokens":1.5}"#, "max_tokens"),
            (r#"{"model":"a","stream":true,"stream_options":1}"#, "stream_options"),
            (r#"{"model":"a","models":["dear"]}"#, "models"),
            (r#"{"model":"a","route":"fallback"}"#, "route"),
            (r#"{"model":"a","fallbacks":["dear"]}"#, "fallbacks"),
            (r#"{"model":"a","tools":[{"type":"advisor","model":"dear"}]}"#, "tools"),
            (r#"{"model":"a","tools":[{"type":"x:y","parameters":{"model":"dear"}}]}"#, "tools"),
        ] {
            assert_eq!(read(body).expect_err(body).param, Some(param), "{body}");
        }
        let empty = br#"{"model":"a","models":[ ],"route":null,"fallbacks":""}"#;
        assert!(chat(empty).is_ok() && embeddings(empty).is_ok());
        let other = br#"{"model":"a","input":"x","models":["dear"]}"#;
        assert_eq!(embeddings(other).expect_err("another model").param, Some("models"));
        let function = r#"{"model":"a","tools":[{"type":"function","function":{"model":"b"}}]}"#;
        assert!(read(function).is_ok());
    }

    #[test]
    fn tools_add_unseen_tokens() {
        for (rest, tokens) in [
            (r#""tools":[{"type":"function"}],"functions":[{}]"#, TOOLS_TOKENS),
            (r#""functions":[{}]"#, TOOLS_TOKENS),
            (r#""tools":[ ],"functions":null"#, 0),
        ] {
            let body = format!(r#"{{"model":"a",{rest}}}"#);
            assert_eq!(read(&body).expect("valid").external_refs.unseen_tokens, tokens, "{rest}");
        }
    }

    #[test]
    fn a_completion_is_bound_for_every_prompt_and_choice() {
        for (rest, bound, choices) in [
            ("", Some(16), 1),
            (r#""prompt":"a","max_tokens":null"#, Some(16), 1),
            (r#""prompt":["a","b"],"max_tokens":7"#, Some(7), 2),
            (r#""prompt":[1,2,3],"n":2"#, Some(16), 2),
            (r#""prompt":[[1,2],[3],[4]],"n":2,"best_of":5"#, Some(16), 15),
            (r#""prompt":[],"best_of":3"#, Some(16), 3),
            (r#""prompt":"a","max_tokens":0"#, None, 1),
        ] {
            let comma = if rest.is_empty() { "" } else { "," };
            let body = format!(r#"{{"model":"a"{comma}{rest}}}"#);
            let read = completion(body.as_bytes()).expect("valid");
            assert_eq!((read.output_tokens_max, read.choices), (bound, choices), "{body}");
        }
        for (rest, param) in [
            (r#""n":129"#, "n"),
            (r#""best_of":0"#, "best_of"),
            (r#""models":["dear"]"#, "models"),
            (r#""stream":true,"stream_options":1"#, "stream_options"),
        ] {
            let body = format!(r#"{{"model":"a",{rest}}}"#);
            let error = completion(body.as_bytes()).expect_err(&body);
            assert_eq!(error.param, Some(param), "{body}");
        }
        let streams = completion(br#"{"model":"a","stream":true}"#).expect("valid");
        assert!(streams.stream && streams.include_usage.is_some());
    }

    #[test]
    fn the_model_of_a_moderation_is_optional() {
        let read = |body: &str| {
            moderation(body.as_bytes())
                .map(|read| (read.model, read.model_spans.into_iter().next()))
        };
        let default = Ok((MODERATION_MODEL.to_owned(), None));
        assert_eq!(read(r#"{"input":"x"}"#), default);
        assert_eq!(read(r#"{"input":"x","model":null}"#), default);
        assert_eq!(read(r#"{"model":"m"}"#), Ok(("m".to_owned(), Some(9..12))));
        assert!(read(r#"{"model":7}"#).is_err());
    }

    #[test]
    fn a_bound_of_zero_is_none() {
        for (bounds, expected) in [
            (r#""max_tokens":0"#, None),
            (r#""max_completion_tokens":0"#, None),
            (r#""max_tokens":0,"max_completion_tokens":5"#, Some(5)),
        ] {
            let body = format!(r#"{{"model":"a",{bounds}}}"#);
            assert_eq!(read(&body).expect("valid").output_tokens_max, expected, "{bounds}");
        }
    }

    #[test]
    fn include_usage_is_set_by_the_smallest_edit() {
        for (options, expected) in [
            ("", r#""stream_options":{"include_usage":true},"#),
            (r#""stream_options":null,"#, r#""stream_options":{"include_usage":true},"#),
            (r#""stream_options":{},"#, r#""stream_options":{"include_usage":true},"#),
            (
                r#""stream_options":{"include_obfuscation":false},"#,
                r#""stream_options":{"include_usage":true,"include_obfuscation":false},"#,
            ),
            (
                r#""stream_options":{"include_usage": false},"#,
                r#""stream_options":{"include_usage": true},"#,
            ),
        ] {
            let body = |options: &str| format!(r#"{{{options}"model":"a","stream":true}}"#);
            assert_eq!(spliced(&body(options)), body(expected));
        }
        let requested = r#"{"model":"a","stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(read(requested).expect("valid").include_usage, None);
    }
}
