//! The facts about a call that its request contains and that routing, limits and prices need.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::external_refs::ExternalRefs;
use crate::dialect::json::{DEPTH_MAX, JsonError};
use crate::dialect::{json, multipart};
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;

/// A replacement of a range of bytes in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Range in the client's body.
    pub range: Range<usize>,
    /// The new text.
    pub text: Cow<'static, str>,
}

/// What the gateway reads from a request. It passes everything else to the upstream unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFacts {
    /// Name of the requested model.
    pub model: String,
    /// Positions of the model's name in the body, quotes included. They change if the upstream
    /// has another name for the model. An empty range is where the gateway adds the name to a body
    /// without one.
    pub model_spans: Vec<Range<usize>>,
    /// Whether the client requests a stream.
    pub stream: bool,
    /// Maximum output tokens of one choice, if the client sets a bound.
    pub output_tokens_max: Option<u64>,
    /// Number of choices.
    pub choices: u64,
    /// Maximum of the units that are billed per item.
    pub item_units_max: UnitCounts,
    /// The requested service tier.
    pub service_tier: ServiceTier,
    /// The edit that makes the upstream report usage at the end of a stream. None if the client
    /// requests the report.
    pub include_usage: Option<Edit>,
    /// Whether the response shows only a part of the billed output, or none.
    pub hides_output: bool,
    pub external_refs: ExternalRefs,
}

impl CallFacts {
    /// Returns the facts of a request that generates nothing. `model_span` is the position of the
    /// model's name in the body.
    pub fn without_output(
        model: String,
        model_span: Option<Range<usize>>,
        external_refs: ExternalRefs,
    ) -> Self {
        Self {
            model,
            model_spans: model_span.into_iter().collect(),
            stream: false,
            output_tokens_max: Some(0),
            choices: 1,
            item_units_max: UnitCounts::default(),
            service_tier: ServiceTier::DEFAULT,
            include_usage: None,
            hides_output: false,
            external_refs,
        }
    }

    /// Whether the gateway adds the model's name, because the body has none.
    pub fn model_missing_in_body(&self) -> bool {
        self.model_spans.iter().any(Range::is_empty)
    }

    /// Returns the edits that rename the model to `name`, a JSON string. The prefix of a Gemini
    /// model name stays.
    pub fn model_edits(&self, body: &[u8], name: &str) -> impl Iterator<Item = Edit> {
        self.model_spans.iter().map(move |span| {
            let text = match json::string_of(&body[span.clone()]) {
                Some(current) if current == self.model => name.to_owned(),
                Some(_) => format!("\"{GEMINI_MODEL_PREFIX}{}", &name[1..]),
                None => bare_model_text(body, span, name),
            };
            Edit { range: span.clone(), text: Cow::Owned(text) }
        })
    }
}

/// Returns the text that names the model where the body has no JSON string: the part of a form, a
/// new field, or the value of a form field.
fn bare_model_text(body: &[u8], span: &Range<usize>, name: &str) -> String {
    let bare = json::string_of(name.as_bytes()).unwrap_or_default();
    match multipart::delimiter(body).filter(|_| span.start == 0) {
        Some(line) => {
            format!("{line}\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{bare}\r\n")
        }
        None if span.is_empty() => format!("\"model\":{name},"),
        None => bare.into_owned(),
    }
}

/// Optional prefix of Gemini model names.
pub const GEMINI_MODEL_PREFIX: &str = "models/";

/// An error in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The field with the error, if it is in one field.
    pub param: Option<&'static str>,
    /// The error and its remedy.
    pub message: String,
}

impl ParseError {
    /// Returns an error whose message begins with the name of the field.
    pub fn for_field(param: &'static str, what: &str) -> Self {
        Self { param: Some(param), message: format!("`{param}` {what}") }
    }

    /// Returns the error about a field that selects a model other than the one in `model`.
    pub fn model_override(param: &'static str) -> Self {
        Self::for_field(
            param,
            "selects another model, which is not supported; remove it and set only `model`",
        )
    }
}

impl From<JsonError> for ParseError {
    fn from(error: JsonError) -> Self {
        let message = match error {
            JsonError::NotUtf8 => "the body is not valid UTF-8".to_owned(),
            JsonError::Malformed(at) => {
                format!("the body is not valid JSON: syntax error at byte {at}")
            }
            JsonError::TooDeep => {
                format!("the body is nested more than {DEPTH_MAX} levels deep; flatten it")
            }
            JsonError::NotAnObject => "the body must be a JSON object".to_owned(),
        };
        Self { param: None, message }
    }
}

/// Returns the edit that inserts `field` before the other fields of `object`, which begins at
/// `start` in the body. Returns none if it is not an object.
pub fn insert_first_field(object: &[u8], start: usize, field: String) -> Option<Edit> {
    let mut fields = 0;
    json::fields(object, |_, _| fields += 1).ok()?;
    let inside = start + object.iter().position(|byte| *byte == b'{')? + 1;
    let text = if fields == 0 { field } else { field + "," };
    Some(Edit { range: inside..inside, text: Cow::Owned(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_the_model_are_replaced_and_keep_their_prefix() {
        let body = br#"{"a":"models/m","b":"m"}"#;
        let facts = CallFacts::without_output("m".to_owned(), None, ExternalRefs::default());
        let request = CallFacts { model_spans: vec![5..15, 20..23], ..facts };
        let texts: Vec<_> = request.model_edits(body, "\"n\"").map(|edit| edit.text).collect();
        assert_eq!(texts, ["\"models/n\"", "\"n\""]);
    }

    #[test]
    fn a_field_is_inserted_first_with_a_comma_if_needed() {
        let inserted = |object: &str| {
            let edit = insert_first_field(object.as_bytes(), 0, r#""a":1"#.to_owned())?;
            Some(format!(
                "{}{}{}",
                &object[..edit.range.start],
                edit.text,
                &object[edit.range.end..]
            ))
        };
        assert_eq!(inserted("{ }").as_deref(), Some(r#"{"a":1 }"#));
        assert_eq!(inserted(r#" {"b":2}"#).as_deref(), Some(r#" {"a":1,"b":2}"#));
        assert_eq!(inserted("[]"), None);
    }
}
