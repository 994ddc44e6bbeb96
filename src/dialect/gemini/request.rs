//! The policy fields of Gemini requests. Each may be written in camel case and in snake case.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::call_facts::{
    CallFacts, Edit, GEMINI_MODEL_PREFIX, ParseError, PolicyFields, insert_first_field,
};
use crate::dialect::external_refs::TOOLS_TOKENS;
use crate::dialect::gemini::{external_refs, usage};
use crate::dialect::json;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

const POLICY_FIELDS: [&str; 12] = [
    "background",
    "generationConfig",
    "generation_config",
    "cachedContent",
    "cached_content",
    "tools",
    "model",
    "requests",
    "generateContentRequest",
    "generate_content_request",
    "serviceTier",
    "service_tier",
];

const CONFIG_FIELDS: [&str; 4] =
    ["maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count"];

/// The most choices that a request may ask for.
const CHOICES_MAX: u64 = 128;

/// Reads the policy fields of a request for content from the model that the path names, and checks
/// that the body is JSON.
pub fn content(model: &str, body: &[u8], stream: bool) -> Result<CallFacts, ParseError> {
    let (request, fields) = read(model, body)?;
    let configs = [(fields.value(1), POLICY_FIELDS[1]), (fields.value(2), POLICY_FIELDS[2])];
    // The outer says whether there is a configuration, the inner whether each names a bound.
    let mut bound: Option<Option<u64>> = None;
    let mut choices = 1;
    for (config, name) in configs {
        let Some(config) = config else { continue };
        let (its_bound, its_choices) = read_config(config, name)?;
        // Of two, one without a bound is the larger.
        bound = Some(bound.map_or(its_bound, |other| other.zip(its_bound).map(|(a, b)| a.max(b))));
        choices = choices.max(its_choices);
    }
    Ok(CallFacts { stream, choices, output_tokens_max: bound.flatten(), ..request })
}

/// Reads the same of a request that has no output: it counts or embeds.
pub fn input_only(model: &str, body: &[u8]) -> Result<CallFacts, ParseError> {
    read(model, body).map(|(request, _)| request)
}

fn read<'a>(model: &str, body: &'a [u8]) -> Result<(CallFacts, PolicyFields<'a, 12>), ParseError> {
    let fields = PolicyFields::from_json(body, POLICY_FIELDS)?;
    fields.reject_background(0)?;
    let is_cached = fields.value(3).or(fields.value(4)).is_some();
    let holds_requests = (7..10).any(|at| fields.value(at).is_some());
    let mut outside = external_refs::find(body, fields.value(5), is_cached, holds_requests);
    if fields.non_empty(5).is_some() {
        outside.unseen_tokens += TOOLS_TOKENS;
    }
    let request = CallFacts {
        model_spans: model_spans(model, body, &fields)?,
        item_units_max: UnitCounts::of(Unit::WebSearches, outside.searches),
        service_tier: usage::service_tier(body).unwrap_or_default(),
        ..CallFacts::without_output(model.to_owned(), None, outside)
    };
    Ok((request, fields))
}

/// Where the body, and the requests in it, name the model: it must be that of the path.
fn model_spans(
    model: &str,
    body: &[u8],
    fields: &PolicyFields<'_, 12>,
) -> Result<Vec<Range<usize>>, ParseError> {
    let mut places: Vec<_> = fields.span(6).into_iter().collect();
    for list in (7..10).filter_map(|at| fields.span(at)) {
        json::element_spans(&body[list.clone()], |place| {
            let start = list.start + place.start;
            // The body was checked; what is no request has no fields.
            let _ = json::fields(&body[start..list.start + place.end], |key, value| {
                if key == "model" {
                    places.push(start + value.start..start + value.end);
                }
            });
        });
    }
    places.retain(|place| &body[place.clone()] != b"null");
    let is_it = |place: &Range<usize>| {
        let said = json::string_of(&body[place.clone()]);
        said.is_some_and(|said| {
            said == model || said.strip_prefix(GEMINI_MODEL_PREFIX) == Some(model)
        })
    };
    if places.iter().all(is_it) {
        return Ok(places);
    }
    Err(ParseError::for_field("model", "is not that of the path; name the same in both"))
}

/// The bound of one candidate, and how many there are.
fn read_config(config: &[u8], name: &'static str) -> Result<(Option<u64>, u64), ParseError> {
    if !config.starts_with(b"{") {
        return Err(ParseError::for_field(name, "must be an object"));
    }
    let fields = PolicyFields::from_json(config, CONFIG_FIELDS)?;
    let bound = fields.bound(0)?.max(fields.bound(1)?);
    // A zero is what this dialect writes for nothing.
    let choices = fields.count(2)?.max(fields.count(3)?).unwrap_or(1).max(1);
    if CHOICES_MAX < choices {
        return Err(ParseError::for_field("candidateCount", "must be from 1 to 128"));
    }
    Ok((bound, choices))
}

/// The edit that bounds the output in a body that names no bound. Where two configurations stand,
/// no single edit does.
pub fn clamp(body: &[u8], tokens: u64) -> Option<Edit> {
    let (mut nulls, mut configs) = (Vec::new(), Vec::new());
    json::fields(body, |key, value| {
        if key == POLICY_FIELDS[1] || key == POLICY_FIELDS[2] {
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
    let mut places = Vec::new();
    json::fields(config, |key, value| {
        if key == CONFIG_FIELDS[0] || key == CONFIG_FIELDS[1] {
            places.push(value);
        }
    })
    .ok()?;
    if places.iter().any(|place| &config[place.clone()] != b"null") {
        return None;
    }
    match places.first() {
        None => insert_first_field(config, start, bound),
        Some(place) => {
            let range = start + place.start..start + place.end;
            Some(Edit { range, text: Cow::Owned(tokens.to_string()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::HOSTED_CALLS_MAX;

    fn asked_of(body: &str) -> CallFacts {
        content("m", body.as_bytes(), true).expect(body)
    }

    fn asked(body: &str) -> (Option<u64>, u64) {
        let request = asked_of(body);
        (request.output_tokens_max, request.choices)
    }

    #[test]
    fn a_search_is_bound_and_the_tier_read() {
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
            assert_eq!(asked(body), (bound, choices), "{body}");
        }
    }

    #[test]
    fn faults_name_the_field() {
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
            let fault = content("m", body.as_bytes(), false).expect_err(body);
            assert_eq!(fault.param, Some(param), "{body}");
        }
    }

    #[test]
    fn the_model_comes_from_the_path_whose_escapes_were_resolved() {
        for model in ["gemini-2.5-flash", "a%2Fb", "50%"] {
            assert_eq!(input_only(model, b"{}").expect(model).model, model);
        }
    }

    #[test]
    fn a_body_names_no_other_model_than_the_path() {
        let places = |body: &str| {
            let request = input_only("m", body.as_bytes()).map_err(|fault| fault.param)?;
            let said = request.model_spans.into_iter().map(|place| body[place].to_owned());
            Ok(said.collect::<Vec<_>>())
        };
        for (body, said) in [
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
            assert_eq!(places(body), Ok(said.into_iter().map(str::to_owned).collect()), "{body}");
        }
        for other in [
            r#"{"model":"dear"}"#,
            r#"{"model":["m"]}"#,
            r#"{"requests":[{"model":"m"},{"model":"models/dear"}]}"#,
            r#"{"generate_content_request":{"model":"m","model":"dear"}}"#,
        ] {
            assert_eq!(places(other), Err(Some("model")), "{other}");
        }
    }

    #[test]
    fn tools_cost_what_no_byte_shows() {
        let hidden = |body: &str| asked_of(body).external_refs.unseen_tokens;
        assert_eq!(hidden(r#"{"tools":[{"functionDeclarations":[]}]}"#), TOOLS_TOKENS);
        assert_eq!(hidden(r#"{"tools":[]}"#), 0);
    }
}
