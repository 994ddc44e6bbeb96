//! A request as the gateway must know it: the few fields that policy depends on.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::external_refs::ExternalRefs;
use crate::dialect::multipart::Part;
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
    /// That field is wrong in that way.
    pub fn for_field(param: &'static str, what: &str) -> Self {
        Self { param: Some(param), message: format!("`{param}` {what}") }
    }
}

/// The policy fields of an object or a form.
#[derive(Debug)]
pub struct PolicyFields<'a, const N: usize> {
    body: &'a [u8],
    names: [&'static str; N],
    spans: [Option<Range<usize>>; N],
    is_form: bool,
}

impl<'a, const N: usize> PolicyFields<'a, N> {
    /// Finds the fields of those names, and checks that the body is one JSON object.
    ///
    /// A policy field that stands twice is refused: the gateway would price one and the upstream
    /// might run the other. So is one whose letters are large where they should be small: some
    /// upstreams make no difference.
    pub fn from_json(body: &'a [u8], names: [&'static str; N]) -> Result<Self, ParseError> {
        let mut fields = Self { body, names, spans: [const { None }; N], is_form: false };
        let mut wrong = None;
        json::fields(body, |key, value| wrong = wrong.take().or(fields.record(&key, value).err()))
            .map_err(invalid_json)?;
        wrong.map_or(Ok(fields), Err)
    }

    /// The same of a form; `other` gets every part that is no policy field. A policy field is no
    /// file, and no list.
    pub fn from_form(
        body: &'a [u8],
        boundary: &str,
        names: [&'static str; N],
        mut other: impl FnMut(&Part<'a>),
    ) -> Result<Self, ParseError> {
        let mut fields = Self { body, names, spans: [const { None }; N], is_form: true };
        let mut wrong = None;
        multipart::parts(body, boundary, |part| {
            let is_list = part.name.ends_with(']');
            let name =
                if is_list { part.name.split('[').next().unwrap_or_default() } else { part.name };
            match fields.record(name, part.value.clone()) {
                Ok(false) => other(&part),
                Ok(true) if is_list || part.is_file => {
                    let what = "must be a plain field of the form";
                    wrong = names
                        .iter()
                        .find(|known| **known == name)
                        .map(|known| ParseError::for_field(known, what));
                }
                Ok(true) => {}
                Err(fault) => wrong = Some(fault),
            }
        })
        .map_err(|message| ParseError { param: None, message })?;
        wrong.map_or(Ok(fields), Err)
    }

    /// Notes a field, if it is one of policy; whether it is.
    fn record(&mut self, key: &str, value: Range<usize>) -> Result<bool, ParseError> {
        if let Some(at) = self.names.iter().position(|name| *name == key) {
            if self.spans[at].replace(value).is_some() {
                let what = "stands more than once in the body; send it once";
                return Err(ParseError::for_field(self.names[at], what));
            }
            return Ok(true);
        }
        match self.names.iter().find(|name| differs_by_case(key, name)) {
            None => Ok(false),
            Some(name) => Err(ParseError::for_field(
                name,
                "stands in the body in other letters; write it as here",
            )),
        }
    }

    /// The name of field `at`.
    pub const fn name(&self, at: usize) -> &'static str {
        self.names[at]
    }

    /// Where the value of field `at` stands, `null` included.
    pub fn span(&self, at: usize) -> Option<Range<usize>> {
        self.spans[at].clone()
    }

    /// The value of field `at`; `null` is none.
    pub fn value(&self, at: usize) -> Option<&'a [u8]> {
        self.span(at).map(|range| &self.body[range]).filter(|value| *value != b"null")
    }

    /// The value of field `at`, if there is something in it.
    pub fn non_empty(&self, at: usize) -> Option<&'a [u8]> {
        self.value(at).filter(|value| match value {
            [b'[', inside @ .., b']'] | [b'{', inside @ .., b'}'] => {
                !inside.trim_ascii().is_empty()
            }
            value => *value != b"\"\"",
        })
    }

    /// Refuses a field that names another model: it has another price, and may be forbidden.
    pub fn reject_model_override(&self, at: usize) -> Result<(), ParseError> {
        match self.non_empty(at) {
            None => Ok(()),
            Some(_) => Err(model_override_error(self.names[at])),
        }
    }

    /// A text that must be there and not be empty.
    pub fn required_text(&self, at: usize, what: &str) -> Result<String, ParseError> {
        let text = self.value(at).and_then(|value| self.text_value(value));
        let text = text.filter(|text| !text.is_empty());
        text.map(Cow::into_owned).ok_or_else(|| ParseError::for_field(self.names[at], what))
    }

    /// A value as a text, if it is one.
    pub fn text_value(&self, value: &'a [u8]) -> Option<Cow<'a, str>> {
        if self.is_form {
            std::str::from_utf8(value).ok().map(Cow::Borrowed)
        } else {
            json::string_of(value)
        }
    }

    /// True or false; absent is false.
    pub fn flag(&self, at: usize) -> Result<bool, ParseError> {
        match self.value(at) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(ParseError::for_field(self.names[at], "must be true or false")),
        }
    }

    /// Refuses a call that is to go on in the background, where nobody would meter it.
    pub fn reject_background(&self, at: usize) -> Result<(), ParseError> {
        if self.flag(at)? {
            let what = "is not served, as nobody would meter the answer; send the call without it";
            return Err(ParseError::for_field(self.names[at], what));
        }
        Ok(())
    }

    /// The bound of the output; to some a zero means none, so it bounds nothing.
    pub fn bound(&self, at: usize) -> Result<Option<u64>, ParseError> {
        Ok(self.count(at)?.filter(|bound| 0 < *bound))
    }

    /// A whole number, 0 or more, if there is one.
    pub fn count(&self, at: usize) -> Result<Option<u64>, ParseError> {
        match self.value(at) {
            None => Ok(None),
            Some(value) => match json::count_of(value) {
                Some(count) if !value.contains(&b'.') => Ok(Some(count)),
                _ => {
                    Err(ParseError::for_field(self.names[at], "must be a whole number, 0 or more"))
                }
            },
        }
    }
}

/// That field names a model beside the one that the call is for.
pub fn model_override_error(field: &'static str) -> ParseError {
    ParseError::for_field(field, "names another model beside `model`; send the call without it")
}

/// Whether a key is a name but for its case, as those see it who know the letters of all scripts.
fn differs_by_case(key: &str, name: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(name);
    }
    key.chars().map(fold).eq(name.chars().map(fold))
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

/// How a text that is no JSON object is told.
pub fn invalid_json(fault: json::JsonError) -> ParseError {
    let message = match fault {
        json::JsonError::NotUtf8 => "the body is not valid UTF-8".to_owned(),
        json::JsonError::Malformed(at) => format!("the body is not valid JSON: see byte {at}"),
        json::JsonError::TooDeep => {
            format!("the body nests deeper than {} levels; flatten it", json::DEPTH_MAX)
        }
        json::JsonError::NotAnObject => "the body must be a JSON object".to_owned(),
    };
    ParseError { param: None, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_field_in_other_letters_is_refused() {
        for (body, refused) in [
            (r#"{"MAX_TOKENS":1}"#, true),
            (r#"{"max_tokens":1,"Max_tokens":2}"#, true),
            (r#"{"max_to\u212aens":1}"#, true),
            ("{\"max_token\u{17f}\":1}", true),
            (r#"{"max_tokens":1,"maxTokens":2,"MAX":3}"#, false),
        ] {
            let read = PolicyFields::from_json(body.as_bytes(), ["max_tokens"]).map(|_| ());
            assert_eq!(
                read.map_err(|fault| fault.param),
                if refused { Err(Some("max_tokens")) } else { Ok(()) },
                "{body}"
            );
        }
    }

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
