//! Reads a request of any endpoint.

use crate::dialect::call_facts::{CallFacts, Edit, ParseError};
use crate::dialect::endpoint::Endpoint;
use crate::dialect::{anthropic, gemini, media, openai};

/// Reads what the gateway must know of a request; `model` is the one that the path names.
pub fn parse_json(
    endpoint: Endpoint,
    model: Option<&str>,
    body: &[u8],
) -> Result<CallFacts, ParseError> {
    let model = model.unwrap_or_default();
    match endpoint {
        Endpoint::Completions => openai::request::completion(body),
        Endpoint::Responses => openai::responses::response(body),
        Endpoint::CompactResponses => openai::responses::compact(body),
        Endpoint::CountResponseTokens => openai::responses::count(body),
        Endpoint::Embeddings => openai::request::embeddings(body),
        Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::ImageVariations
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations => media::request::json(endpoint, body),
        Endpoint::Moderations => openai::request::moderation(body),
        Endpoint::Messages => anthropic::request::message(body),
        Endpoint::CountMessageTokens => anthropic::request::count(body),
        Endpoint::StreamGenerateContent => gemini::request::content(model, body, true),
        Endpoint::GenerateContent => gemini::request::content(model, body, false),
        Endpoint::CountTokens | Endpoint::EmbedContent | Endpoint::BatchEmbedContents => {
            gemini::request::input_only(model, body)
        }
        Endpoint::ChatCompletions
        | Endpoint::Models
        | Endpoint::GeminiModels
        | Endpoint::Limits
        | Endpoint::Health => openai::request::chat(body),
    }
}

/// Reads the same of a request that came as a form with that boundary.
pub fn parse_form(
    endpoint: Endpoint,
    boundary: &str,
    body: &[u8],
) -> Result<CallFacts, ParseError> {
    media::request::form(endpoint, boundary, body)
}

/// The smallest edit that bounds the output of one choice to `tokens`, in a body that names no
/// bound; `field` is what the model calls the bound in the OpenAI dialect.
///
/// `None` where there is no output, where a bound is named, and where no single edit would do.
pub fn output_clamp_edit(
    endpoint: Endpoint,
    field: &'static str,
    body: &[u8],
    tokens: u64,
) -> Option<Edit> {
    match endpoint {
        Endpoint::ChatCompletions => openai::request::clamp(body, field, tokens),
        Endpoint::Responses => openai::responses::clamp(body, tokens),
        // They have the same name for it.
        Endpoint::Completions | Endpoint::Messages => {
            openai::request::clamp(body, "max_tokens", tokens)
        }
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => {
            gemini::request::clamp(body, tokens)
        }
        Endpoint::Embeddings
        | Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::ImageVariations
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations
        | Endpoint::CompactResponses
        | Endpoint::CountResponseTokens
        | Endpoint::Moderations
        | Endpoint::CountMessageTokens
        | Endpoint::CountTokens
        | Endpoint::EmbedContent
        | Endpoint::BatchEmbedContents
        | Endpoint::Models
        | Endpoint::GeminiModels
        | Endpoint::Limits
        | Endpoint::Health => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clamped(endpoint: Endpoint, field: &'static str, body: &str) -> Option<String> {
        let edit = output_clamp_edit(endpoint, field, body.as_bytes(), 64)?;
        Some(format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..]))
    }

    #[test]
    fn a_bound_is_put_where_none_is() {
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
    fn no_bound_is_put_where_one_is_or_where_nothing_comes_out() {
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
    fn what_has_no_output_is_bound_by_nothing() {
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
