//! Reads the policy fields of Gemini requests. The provider accepts each name in camel case and in
//! snake case.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::call_facts::{
    CallFacts, Edit, GEMINI_MODEL_PREFIX, ParseError, insert_first_field,
};
use crate::dialect::external_refs::TOOLS_TOKENS;
use crate::dialect::field_kinds::{Background, CHOICES_MAX, Count, Json, OutputBound};
use crate::dialect::gemini::{external_refs, usage};
use crate::dialect::json;
use crate::dialect::policy_fields::policy_fields;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

policy_fields! {
    struct ContentFields from json {
        background: Background = "background",
        generation_config: Json = "generationConfig",
        generation_config_snake: Json = "generation_config",
        cached_content: Json = "cachedContent",
        cached_content_snake: Json = "cached_content",
        tools: Json = "tools",
        model: Json = "model",
        requests: Json = "requests",
        content_request: Json = "generateContentRequest",
        content_request_snake: Json = "generate_content_request",
        service_tier: Json = "serviceTier",
        service_tier_snake: Json = "service_tier",
    }
}

policy_fields! {
    struct ConfigFields from json {
        max_tokens: OutputBound = "maxOutputTokens",
        max_tokens_snake: OutputBound = "max_output_tokens",
        candidates: Count = "candidateCount",
        candidates_snake: Count = "candidate_count",
    }
}

const CONFIG_NAMES: [&str; 2] = ["generationConfig", "generation_config"];
const BOUND_NAMES: [&str; 2] = ["maxOutputTokens", "max_output_tokens"];

/// Reads a request for content from the model that the path names, and checks that the body is
/// JSON.
pub fn content(model: &str, body: &[u8], stream: bool) -> Result<CallFacts, ParseError> {
    let (facts, fields) = read(model, body)?;
    let configs = [fields.generation_config(), fields.generation_config_snake()];
    // The outer option is none without a configuration, the inner one without a bound.
    let mut bound: Option<Option<u64>> = None;
    let mut choices = 1;
    for config in configs {
        let Some(object) = config.value() else { continue };
        if !object.starts_with(b"{") {
            return Err(config.error("must be an object"));
        }
        let (config_bound, config_choices) = read_config(object)?;
        // If either configuration has no bound, the provider may apply none.
        bound = Some(match bound {
            None => config_bound,
            Some(other) => other.zip(config_bound).map(|(a, b)| a.max(b)),
        });
        choices = choices.max(config_choices);
    }
    Ok(CallFacts { stream, choices, output_tokens_max: bound.flatten(), ..facts })
}

/// Reads a request that has no output: it counts tokens or embeds.
pub fn input_only(model: &str, body: &[u8]) -> Result<CallFacts, ParseError> {
    read(model, body).map(|(facts, _)| facts)
}

fn read<'a>(model: &str, body: &'a [u8]) -> Result<(CallFacts, ContentFields<'a>), ParseError> {
    let fields = ContentFields::from_json(body)?;
    fields.background().reject()?;
    let cached = fields.cached_content().value().or(fields.cached_content_snake().value());
    let has_nested_requests = nested_requests(&fields).iter().any(|list| list.value().is_some());
    let tools = fields.tools();
    let mut external_refs =
        external_refs::find(body, tools.value(), cached.is_some(), has_nested_requests);
    if tools.non_empty().is_some() {
        external_refs.unseen_tokens += TOOLS_TOKENS;
    }
    let web_searches = external_refs.searches;
    let tier = fields.service_tier().value().or(fields.service_tier_snake().value());
    let facts = CallFacts {
        model_spans: model_spans(model, body, &fields)?,
        item_units_max: UnitCounts::of(Unit::WebSearches, web_searches),
        service_tier: tier.and_then(|_| usage::service_tier(body)).unwrap_or_default(),
        ..CallFacts::without_output(model.to_owned(), None, external_refs)
    };
    Ok((facts, fields))
}

/// Returns the fields that contain other requests.
fn nested_requests<'a>(fields: &ContentFields<'a>) -> [Json<'a>; 3] {
    [fields.requests(), fields.content_request(), fields.content_request_snake()]
}

/// Returns the positions at which the body and the requests in it name the model, which must be
/// the model of the path.
fn model_spans(
    model: &str,
    body: &[u8],
    fields: &ContentFields<'_>,
) -> Result<Vec<Range<usize>>, ParseError> {
    let mut spans: Vec<_> = fields.model().span().into_iter().collect();
    for list in nested_requests(fields).iter().filter_map(Json::span) {
        json::element_spans(&body[list.clone()], |element| {
            let start = list.start + element.start;
            // The body is valid JSON, so this fails only for an element that is not an object.
            let _ = json::fields(&body[start..list.start + element.end], |key, value| {
                if key == "model" {
                    spans.push(start + value.start..start + value.end);
                }
            });
        });
    }
    spans.retain(|span| &body[span.clone()] != b"null");
    let is_path_model = |span: &Range<usize>| {
        let name = json::string_of(&body[span.clone()]);
        name.is_some_and(|name| {
            name == model || name.strip_prefix(GEMINI_MODEL_PREFIX) == Some(model)
        })
    };
    if spans.iter().all(is_path_model) {
        return Ok(spans);
    }
    let what = "differs from the model in the request path; use the same name in both";
    Err(ParseError::for_field("model", what))
}

/// Returns the bound of one candidate, and the number of candidates.
fn read_config(config: &[u8]) -> Result<(Option<u64>, u64), ParseError> {
    let fields = ConfigFields::from_json(config)?;
    let bound = fields.max_tokens().get()?.max(fields.max_tokens_snake().get()?);
    // In this dialect 0 means that the field is not set.
    let candidates = fields.candidates().get()?.max(fields.candidates_snake().get()?);
    let choices = candidates.unwrap_or(1).max(1);
    if CHOICES_MAX < choices {
        return Err(ParseError::for_field("candidateCount", "must be from 1 to 128"));
    }
    Ok((bound, choices))
}

/// Returns the edit that bounds the output; none if the body has a bound, or two configurations,
/// which no single edit can bound.
pub fn clamp(body: &[u8], tokens: u64) -> Option<Edit> {
    let (mut nulls, mut configs) = (Vec::new(), Vec::new());
    json::fields(body, |key, value| {
        if CONFIG_NAMES.contains(&&*key) {
            let list = if &body[value.clone()] == b"null" { &mut nulls } else { &mut configs };
            list.push(value);
        }
    })
    .ok()?;
    let bound = format!("\"maxOutputTokens\":{}", tokens.min(Usage::COUNT_MAX));
    match (configs.as_slice(), nulls.as_slice()) {
        ([config], _) => clamp_config(&body[config.clone()], config.start, bound, tokens),
        ([], [null, ..]) => {
            Some(Edit { range: null.clone(), text: Cow::Owned(format!("{{{bound}}}")) })
        }
        ([], []) => insert_first_field(body, 0, format!("\"generationConfig\":{{{bound}}}")),
        _ => None,
    }
}

fn clamp_config(config: &[u8], start: usize, bound: String, tokens: u64) -> Option<Edit> {
    let mut spans = Vec::new();
    json::fields(config, |key, value| {
        if BOUND_NAMES.contains(&&*key) {
            spans.push(value);
        }
    })
    .ok()?;
    if spans.iter().any(|span| &config[span.clone()] != b"null") {
        return None;
    }
    match spans.first() {
        None => insert_first_field(config, start, bound),
        Some(span) => {
            let range = start + span.start..start + span.end;
            Some(Edit { range, text: Cow::Owned(tokens.to_string()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::HOSTED_CALLS_MAX;

    fn read_content(body: &str) -> CallFacts {
        content("m", body.as_bytes(), true).expect(body)
    }

    fn bound_and_choices(body: &str) -> (Option<u64>, u64) {
        let request = read_content(body);
        (request.output_tokens_max, request.choices)
    }

    #[test]
    fn searches_are_bound_and_the_tier_is_read() {
        for (rest, searches, tier) in [
            (
                r#""tools":[{"googleSearch":{}}],"serviceTier":"PRIORITY""#,
                HOSTED_CALLS_MAX,
                "priority",
            ),
            (r#""tools":[{"google_search":{}}],"service_tier":"flex""#, HOSTED_CALLS_MAX, "flex"),
            (r#""tools":[{"urlContext":{}}]"#, 0, ""),
        ] {
            let body = format!(r#"{{"contents":[],{rest}}}"#);
            let read = content("m", body.as_bytes(), false).expect(rest);
            assert_eq!(
                (read.item_units_max.get(Unit::WebSearches), read.service_tier.name()),
                (searches, tier)
            );
        }
    }

    #[test]
    fn the_larger_of_both_spellings_counts() {
        for (body, bound, choices) in [
            ("{}", None, 1),
            (r#"{"generationConfig":null}"#, None, 1),
            (r#"{"generationConfig":{"maxOutputTokens":5,"candidateCount":2}}"#, Some(5), 2),
            (r#"{"generation_config":{"max_output_tokens":5,"candidate_count":2}}"#, Some(5), 2),
            (
                r#"{"generationConfig":{"maxOutputTokens":5,"max_output_tokens":7,
                   "candidateCount":3,"candidate_count":2}}"#,
                Some(7),
                3,
            ),
            (
                r#"{"generationConfig":{"maxOutputTokens":9},
                   "generation_config":{"max_output_tokens":7,"candidateCount":4}}"#,
                Some(9),
                4,
            ),
            (r#"{"generationConfig":{"maxOutputTokens":9},"generation_config":{}}"#, None, 1),
            (r#"{"generationConfig":{"maxOutputTokens":0,"candidateCount":0}}"#, None, 1),
            (r#"{"tools":[{"maxOutputTokens":1}],"maxOutputTokens":2}"#, None, 1),
        ] {
            assert_eq!(bound_and_choices(body), (bound, choices), "{body}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (body, param) in [
            (r#"{"generationConfig":{},"generationConfig":{}}"#, "generationConfig"),
            (
                r#"{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":2}}"#,
                "maxOutputTokens",
            ),
            (
                r#"{"generation_config":{"candidate_count":1,"candidate\u005fcount":2}}"#,
                "candidate_count",
            ),
            (r#"{"generationConfig":[]}"#, "generationConfig"),
            (r#"{"generationConfig":{"maxOutputTokens":-1}}"#, "maxOutputTokens"),
            (r#"{"generationConfig":{"candidateCount":129}}"#, "candidateCount"),
            (r#"{"background":true}"#, "background"),
        ] {
            let error = content("m", body.as_bytes(), false).expect_err(body);
            assert_eq!(error.param, Some(param), "{body}");
        }
    }

    #[test]
    fn the_model_comes_from_the_path() {
        for model in ["gemini-2.5-flash", "a%2Fb", "50%"] {
            assert_eq!(input_only(model, b"{}").expect(model).model, model);
        }
    }

    #[test]
    fn the_body_must_name_the_model_of_the_path() {
        let names = |body: &str| {
            let request = input_only("m", body.as_bytes()).map_err(|error| error.param)?;
            let names = request.model_spans.into_iter().map(|span| body[span].to_owned());
            Ok(names.collect::<Vec<_>>())
        };
        for (body, expected) in [
            (r#"{"model":null,"requests":[]}"#, vec![]),
            (r#"{"model" : "m"}"#, vec![r#""m""#]),
            (r#"{"model":"\u006dodels/m"}"#, vec![r#""\u006dodels/m""#]),
            (
                r#"{"requests":[ {"model":"models/m"},{"a":"model","model": "m"}]}"#,
                vec![r#""models/m""#, r#""m""#],
            ),
            (r#"{"generateContentRequest": {"model":"m"}}"#, vec![r#""m""#]),
            (r#"{"contents":[{"parts":[{"model":"dear"}]}]}"#, vec![]),
        ] {
            assert_eq!(
                names(body),
                Ok(expected.into_iter().map(str::to_owned).collect()),
                "{body}"
            );
        }
        for other in [
            r#"{"model":"dear"}"#,
            r#"{"model":["m"]}"#,
            r#"{"requests":[{"model":"m"},{"model":"models/dear"}]}"#,
            r#"{"generate_content_request":{"model":"m","model":"dear"}}"#,
        ] {
            assert_eq!(names(other), Err(Some("model")), "{other}");
        }
    }

    #[test]
    fn tools_add_unseen_tokens() {
        let hidden = |body: &str| read_content(body).external_refs.unseen_tokens;
        assert_eq!(hidden(r#"{"tools":[{"functionDeclarations":[]}]}"#), TOOLS_TOKENS);
        assert_eq!(hidden(r#"{"tools":[]}"#), 0);
    }
}
