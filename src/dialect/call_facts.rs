//! A request as the gateway must know it: the few fields that policy depends on.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::external_refs::ExternalRefs;
use crate::dialect::json::{DEPTH_MAX, JsonError};
use crate::dialect::{json, multipart};
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;

/// A change to a body: these bytes are replaced by that text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Where, in the client's body.
    pub range: Range<usize>,
    /// What stands there instead.
    pub text: Cow<'static, str>,
}

/// What the gateway must know of a request. The rest is the upstream's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFacts {
    /// The model asked for.
    pub model: String,
    /// Where the body names it, quotes included: wherever it is called otherwise, these change. A
    /// body that names none has an empty place, where it is named for the upstream.
    pub model_spans: Vec<Range<usize>>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The most output tokens of one choice, where the client names a bound.
    pub output_tokens_max: Option<u64>,
    /// How many choices.
    pub choices: u64,
    /// What it may use of what is priced by the piece, at most.
    pub item_units_max: UnitCounts,
    /// The tier of service that it asks for.
    pub service_tier: ServiceTier,
    /// What makes the upstream report usage at the end of a stream, if the client did not ask.
    pub include_usage: Option<Edit>,
    /// Whether it asks for output that does not show in the answer, or only in part.
    pub hides_output: bool,
    /// What it costs that the bytes of the body do not show.
    pub external_refs: ExternalRefs,
}

impl CallFacts {
    /// A request in which nothing is generated; `place` is where the body names the model.
    pub fn without_output(
        model: String,
        place: Option<Range<usize>>,
        external_refs: ExternalRefs,
    ) -> Self {
        Self {
            model,
            model_spans: place.into_iter().collect(),
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

    /// Whether the upstream is told which model, as the body does not say it.
    pub fn model_missing_in_body(&self) -> bool {
        self.model_spans.iter().any(Range::is_empty)
    }

    /// What changes in `body` where the model is called otherwise; `name` is a JSON string. What
    /// stands in front of the name stays.
    pub fn model_edits(&self, body: &[u8], name: &str) -> impl Iterator<Item = Edit> {
        self.model_spans.iter().map(move |place| {
            let text = match json::string_of(&body[place.clone()]) {
                Some(said) if said == self.model => name.to_owned(),
                Some(_) => format!("\"{GEMINI_MODEL_PREFIX}{}", &name[1..]),
                None => bare_model_text(body, place, name),
            };
            Edit { range: place.clone(), text: Cow::Owned(text) }
        })
    }
}

/// The name where none is, or where it stands in the part of a form.
fn bare_model_text(body: &[u8], place: &Range<usize>, name: &str) -> String {
    let bare = json::string_of(name.as_bytes()).unwrap_or_default();
    match multipart::delimiter(body).filter(|_| place.start == 0) {
        Some(line) => {
            format!("{line}\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{bare}\r\n")
        }
        None if place.is_empty() => format!("\"model\":{name},"),
        None => bare.into_owned(),
    }
}

/// What Gemini puts in front of the name of a model, if it likes.
pub const GEMINI_MODEL_PREFIX: &str = "models/";

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The field, where one is to blame.
    pub param: Option<&'static str>,
    /// What is wrong and what to do.
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

/// The edit that puts `field` in front of the fields of `object`, which stands at `start` of the
/// body; `None` for what is no object.
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
    fn every_place_of_a_model_is_renamed_and_keeps_what_is_in_front() {
        let body = br#"{"a":"models/m","b":"m"}"#;
        let silent = CallFacts::without_output("m".to_owned(), None, ExternalRefs::default());
        let request = CallFacts { model_spans: vec![5..15, 20..23], ..silent };
        let texts: Vec<_> = request.model_edits(body, "\"n\"").map(|edit| edit.text).collect();
        assert_eq!(texts, ["\"models/n\"", "\"n\""]);
    }

    #[test]
    fn a_field_is_put_first_with_the_commas_it_needs() {
        let put = |object: &str| {
            let edit = insert_first_field(object.as_bytes(), 0, r#""a":1"#.to_owned())?;
            Some(format!(
                "{}{}{}",
                &object[..edit.range.start],
                edit.text,
                &object[edit.range.end..]
            ))
        };
        assert_eq!(put("{ }").as_deref(), Some(r#"{"a":1 }"#));
        assert_eq!(put(r#" {"b":2}"#).as_deref(), Some(r#" {"a":1,"b":2}"#));
        assert_eq!(put("[]"), None);
    }
}
