//! Parses the requests of all endpoints.

use crate::dialect::call_facts::{CallFacts, Edit, ParseError};
use crate::dialect::endpoint::Endpoint;

/// Parses a JSON request. `model` is the model that the path names, without escapes.
pub fn parse_json(
    endpoint: Endpoint,
    model: Option<&str>,
    body: &[u8],
) -> Result<CallFacts, ParseError> {
    match endpoint.spec().parse_json {
        Some(parse) => parse(model.unwrap_or_default(), body),
        None => Err(wrong_content_type("multipart/form-data")),
    }
}

/// Parses a request that is a form with this boundary.
pub fn parse_form(
    endpoint: Endpoint,
    boundary: &str,
    body: &[u8],
) -> Result<CallFacts, ParseError> {
    match endpoint.spec().parse_form {
        Some(parse) => parse(boundary, body),
        None => Err(wrong_content_type("application/json")),
    }
}

fn wrong_content_type(expected: &str) -> ParseError {
    let message = format!("the header `content-type` must be {expected}");
    ParseError { param: None, message }
}

/// Returns the smallest edit that bounds the output of one choice to `tokens`. `field` is the name
/// of the bound in the OpenAI dialect, which depends on the model.
///
/// Returns none if the endpoint has no output, if the body has a bound, or if no single edit can
/// bound the output.
pub fn output_clamp_edit(
    endpoint: Endpoint,
    field: &'static str,
    body: &[u8],
    tokens: u64,
) -> Option<Edit> {
    endpoint.spec().clamp.and_then(|clamp| clamp(body, field, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clamped(endpoint: Endpoint, field: &'static str, body: &str) -> Option<String> {
        let edit = output_clamp_edit(endpoint, field, body.as_bytes(), 64)?;
        Some(format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..]))
    }

    #[test]
    fn a_missing_bound_is_added() {
        for (endpoint, field, body, expected) in [
            (
                Endpoint::ChatCompletions,
                "max_completion_tokens",
                r#" {"model":"a"}"#,
                r#" {"max_completion_tokens":64,"model":"a"}"#,
            ),
            (
                Endpoint::ChatCompletions,
                "max_tokens",
                r#"{"model":"a","max_tokens": null}"#,
                r#"{"model":"a","max_tokens": 64}"#,
            ),
            (Endpoint::Messages, "other", r#"{"model":"a"}"#, r#"{"max_tokens":64,"model":"a"}"#),
            (
                Endpoint::Responses,
                "other",
                r#"{"model":"a"}"#,
                r#"{"max_output_tokens":64,"model":"a"}"#,
            ),
            (
                Endpoint::GenerateContent,
                "other",
                "{}",
                r#"{"generationConfig":{"maxOutputTokens":64}}"#,
            ),
            (
                Endpoint::GenerateContent,
                "other",
                r#"{"contents":[]}"#,
                r#"{"generationConfig":{"maxOutputTokens":64},"contents":[]}"#,
            ),
            (
                Endpoint::StreamGenerateContent,
                "other",
                r#"{"generation_config": { }}"#,
                r#"{"generation_config": {"maxOutputTokens":64 }}"#,
            ),
            (
                Endpoint::StreamGenerateContent,
                "other",
                r#"{"a":1,"generationConfig":{"topK":1}}"#,
                r#"{"a":1,"generationConfig":{"maxOutputTokens":64,"topK":1}}"#,
            ),
            (
                Endpoint::GenerateContent,
                "other",
                r#"{"generationConfig":{"max_output_tokens":null}}"#,
                r#"{"generationConfig":{"max_output_tokens":64}}"#,
            ),
            (
                Endpoint::GenerateContent,
                "other",
                r#"{"generation_config":null}"#,
                r#"{"generation_config":{"maxOutputTokens":64}}"#,
            ),
        ] {
            let edited = clamped(endpoint, field, body).expect(body);
            assert_eq!(edited, expected);
            let read = parse_json(endpoint, Some("m"), edited.as_bytes()).expect("still valid");
            assert_eq!(read.output_tokens_max, Some(64), "{edited}");
        }
    }

    #[test]
    fn each_endpoint_accepts_the_body_formats_of_its_row() {
        let json = r#"{"model":"m","prompt":"p","input":"i","image":"data:,"}"#;
        let form = ["name=model", "name=prompt", "name=file; filename=x"]
            .map(|head| format!("--B\r\ncontent-disposition: form-data; {head}\r\n\r\nm\r\n"));
        let form = form.concat() + "--B--\r\n";
        for endpoint in Endpoint::ALL {
            let by_json = parse_json(endpoint, Some("m"), json.as_bytes()).is_ok();
            let by_form = parse_form(endpoint, "B", form.as_bytes()).is_ok();
            assert_eq!(by_json, !endpoint.accepts_only_forms(), "{endpoint:?}");
            assert_eq!(by_form, endpoint.accepts_forms(), "{endpoint:?}");
            assert!(by_json || by_form, "{endpoint:?}");
        }
    }

    #[test]
    fn no_bound_is_added_to_a_bounded_or_empty_output() {
        for (endpoint, body) in [
            (Endpoint::ChatCompletions, r#"{"max_tokens":1}"#),
            (Endpoint::ChatCompletions, r#"{"max_tokens":0}"#),
            (Endpoint::ChatCompletions, r#"{"max_completion_tokens":0}"#),
            (Endpoint::Messages, r#"{"max_tokens":0}"#),
            (Endpoint::Completions, r#"{"max_tokens":0}"#),
            (Endpoint::Responses, r#"{"max_output_tokens":0}"#),
            (Endpoint::CompactResponses, r#"{"model":"a"}"#),
            (Endpoint::CountResponseTokens, r#"{"model":"a"}"#),
            (Endpoint::Moderations, r#"{"model":"a"}"#),
            (Endpoint::GenerateContent, r#"{"generationConfig":{"maxOutputTokens":0}}"#),
            (Endpoint::GenerateContent, r#"{"generationConfig":{"maxOutputTokens":1}}"#),
            (Endpoint::GenerateContent, r#"{"generationConfig":{},"generation_config":{}}"#),
            (Endpoint::Embeddings, r#"{"model":"a"}"#),
            (Endpoint::CountMessageTokens, r#"{"model":"a"}"#),
            (Endpoint::CountTokens, "{}"),
            (Endpoint::BatchEmbedContents, "{}"),
        ] {
            assert_eq!(clamped(endpoint, "max_tokens", body), None, "{body}");
        }
    }

    #[test]
    fn endpoints_without_output_are_bound_by_zero() {
        let body = br#"{"model":"a","input":"x"}"#;
        for endpoint in [
            Endpoint::CountResponseTokens,
            Endpoint::Embeddings,
            Endpoint::Moderations,
            Endpoint::CountMessageTokens,
            Endpoint::CountTokens,
            Endpoint::EmbedContent,
            Endpoint::BatchEmbedContents,
        ] {
            let read = parse_json(endpoint, Some("a"), body).expect("valid");
            assert_eq!((read.output_tokens_max, read.choices, read.stream), (Some(0), 1, false));
        }
    }
}
