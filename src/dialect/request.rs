//! A request as the gateway must know it: the few fields that policy depends on.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;

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
pub struct Request {
    /// The model asked for.
    pub model: String,
    /// Where its name stands in the body, quotes included; `None` when the path names it.
    pub model_at: Option<Range<usize>>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The most output tokens of one choice, where the client names a bound.
    pub output_tokens_max: Option<u64>,
    /// How many choices.
    pub choices: u64,
    /// What makes the upstream report usage at the end of a stream, if the client did not ask.
    pub include_usage: Option<Edit>,
    /// Whether the body refers to content that is elsewhere, and so is not bound by its length.
    pub refers: bool,
    /// The state kept at the provider that the body refers to: it may be another tenant's.
    pub state: Option<State>,
}

/// A reference to state kept at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The field that names it.
    pub field: &'static str,
    /// The one id that an answer can have given it by; `None` where no answer gives such ids, and
    /// where the body has several references.
    pub id: Option<Box<str>>,
}

/// The longest id of state that is kept; those of providers have some 30 bytes.
const STATE_ID_BYTES_MAX: usize = 256;

/// The id of state in a JSON value, if it is a string of at most 256 bytes.
pub fn state_id(value: &[u8]) -> Option<Box<str>> {
    let id = json::string_of(value)?;
    (1..=STATE_ID_BYTES_MAX).contains(&id.len()).then(|| id.into())
}

/// What a body refers to that is not in it: [`Request::refers`] and [`Request::state`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outside {
    /// Content that is elsewhere.
    pub refers: bool,
    /// State kept at the provider.
    pub state: Option<State>,
}

impl Outside {
    /// That field names state kept at the provider, which no answer gave an id of.
    pub fn names_state(&mut self, field: &'static str) {
        *self = Self { refers: true, state: Some(State { field, id: None }) };
    }

    /// That field names state kept at the provider, by an id that an answer can have given.
    pub fn names_state_by_id(&mut self, field: &'static str, id: &[u8]) {
        let id = if self.state.is_none() { state_id(id) } else { None };
        *self = Self { refers: true, state: Some(State { field, id }) };
    }
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFault {
    /// The field, where one is to blame.
    pub param: Option<&'static str>,
    /// What is wrong and what to do.
    pub message: String,
}

impl RequestFault {
    /// That field is wrong in that way.
    pub fn about(param: &'static str, what: &str) -> Self {
        Self { param: Some(param), message: format!("`{param}` {what}") }
    }
}

/// The policy fields of an object.
#[derive(Debug)]
pub struct Fields<'a, const N: usize> {
    body: &'a [u8],
    names: [&'static str; N],
    places: [Option<Range<usize>>; N],
}

impl<'a, const N: usize> Fields<'a, N> {
    /// Finds the fields of those names, and checks that the body is one JSON object.
    ///
    /// A policy field that stands twice is refused: the gateway would price one and the upstream
    /// might run the other.
    pub fn read(body: &'a [u8], names: [&'static str; N]) -> Result<Self, RequestFault> {
        let mut places = [const { None }; N];
        let mut twice = None;
        json::fields(body, |key, value| {
            if let Some(at) = names.iter().position(|name| *name == key)
                && places[at].replace(value).is_some()
            {
                twice = Some(names[at]);
            }
        })
        .map_err(fault)?;
        match twice {
            None => Ok(Self { body, names, places }),
            Some(name) => {
                Err(RequestFault::about(name, "stands more than once in the body; send it once"))
            }
        }
    }

    /// Where the value of field `at` stands, `null` included.
    pub fn place(&self, at: usize) -> Option<Range<usize>> {
        self.places[at].clone()
    }

    /// The value of field `at`; `null` is none.
    pub fn value(&self, at: usize) -> Option<&'a [u8]> {
        self.place(at).map(|range| &self.body[range]).filter(|value| *value != b"null")
    }

    /// A text that must be there and not be empty.
    pub fn text(&self, at: usize, what: &str) -> Result<String, RequestFault> {
        let text = self.value(at).and_then(json::string_of).filter(|text| !text.is_empty());
        text.map(Cow::into_owned).ok_or_else(|| RequestFault::about(self.names[at], what))
    }

    /// True or false; absent is false.
    pub fn flag(&self, at: usize) -> Result<bool, RequestFault> {
        match self.value(at) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(RequestFault::about(self.names[at], "must be true or false")),
        }
    }

    /// Refuses a call that is to go on in the background, where nobody would meter it.
    pub fn in_foreground(&self, at: usize) -> Result<(), RequestFault> {
        if self.flag(at)? {
            let what = "is not served, as nobody would meter the answer; send the call without it";
            return Err(RequestFault::about(self.names[at], what));
        }
        Ok(())
    }

    /// A whole number, 0 or more, if there is one.
    pub fn count(&self, at: usize) -> Result<Option<u64>, RequestFault> {
        match self.value(at) {
            None => Ok(None),
            Some(value) => match json::count_of(value) {
                Some(count) if !value.contains(&b'.') => Ok(Some(count)),
                _ => Err(RequestFault::about(self.names[at], "must be a whole number, 0 or more")),
            },
        }
    }
}

/// The edit that puts `field` in front of the fields of `object`, which stands at `start` of the
/// body; `None` for what is no object.
pub fn put_first(object: &[u8], start: usize, field: String) -> Option<Edit> {
    let mut fields = 0;
    json::fields(object, |_, _| fields += 1).ok()?;
    let inside = start + object.iter().position(|byte| *byte == b'{')? + 1;
    let text = if fields == 0 { field } else { field + "," };
    Some(Edit { range: inside..inside, text: Cow::Owned(text) })
}

static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u00"));

/// Whether one of those words may be a key in the body.
///
/// A letter that is written as an escape might hide it; no client writes letters so without a
/// purpose.
pub fn may_have_key(body: &[u8], words: &[Finder<'_>]) -> bool {
    let may_have = |word: &Finder<'_>| {
        let is_key =
            |at: usize| body[at + word.needle().len()..].trim_ascii_start().starts_with(b":");
        word.find_iter(body).any(is_key)
    };
    hides_letters(body) || words.iter().any(may_have)
}

/// The same of a value, or the beginning of one.
pub fn may_have_value(body: &[u8], words: &[Finder<'_>]) -> bool {
    let is_value = |at: usize| body[..at].trim_ascii_end().ends_with(b":");
    hides_letters(body) || words.iter().any(|word| word.find_iter(body).any(is_value))
}

/// Whether a letter is written as an escape, and a word might be hidden so.
pub fn hides_letters(body: &[u8]) -> bool {
    ESCAPE.find_iter(body).any(|at| matches!(body.get(at + 4), Some(b'4'..=b'7')))
}

/// How a text that is no JSON object is told.
pub fn fault(fault: json::Fault) -> RequestFault {
    let message = match fault {
        json::Fault::NotUtf8 => "the body is not valid UTF-8".to_owned(),
        json::Fault::Malformed(at) => format!("the body is not valid JSON: see byte {at}"),
        json::Fault::TooDeep => {
            format!("the body nests deeper than {} levels; flatten it", json::DEPTH_MAX)
        }
        json::Fault::NotAnObject => "the body must be a JSON object".to_owned(),
    };
    RequestFault { param: None, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_seen_however_it_is_written() {
        let words = [Finder::new("\"file_id\"")];
        for body in [r#"{"file_id":1}"#, r#"{"fil\u0065_id":1}"#, r#"{"file\u005fid":1}"#] {
            assert!(may_have_key(body.as_bytes(), &words), "{body}");
        }
        for body in [r#"{"content":"caf\u00e9 \u0022file_id\u0022"}"#, r#"{"a":"\u00"}"#] {
            assert!(!may_have_key(body.as_bytes(), &words), "{body}");
        }
    }

    #[test]
    fn one_reference_has_an_id_and_two_have_none() {
        let id = |outside: &Outside| outside.state.clone().and_then(|state| state.id);
        let mut outside = Outside::default();
        outside.names_state_by_id("a", br#""\u0069""#);
        assert_eq!(id(&outside).as_deref(), Some("i"));
        outside.names_state_by_id("a", br#""i""#);
        assert_eq!(id(&outside), None);
        let mut outside = Outside::default();
        outside.names_state("b");
        outside.names_state_by_id("a", br#""i""#);
        assert_eq!(outside, Outside { refers: true, state: Some(State { field: "a", id: None }) });
        assert_eq!(state_id(br#""""#).or(state_id(b"7")), None);
        assert_eq!(state_id(format!("\"{}\"", "i".repeat(257)).as_bytes()), None);
    }

    #[test]
    fn keys_values_and_elements_are_told_apart() {
        let words = [Finder::new("\"url\"")];
        assert!(may_have_key(br#"{"url" :1}"#, &words));
        assert!(!may_have_key(br#"{"type":"url","required":["url"]}"#, &words));
        assert!(may_have_value(br#"{"type" : "url"}"#, &words));
        assert!(!may_have_value(br#"{"url":{"required":["url"]}}"#, &words));
    }

    #[test]
    fn a_field_is_put_first_with_the_commas_it_needs() {
        let put = |object: &str| {
            let edit = put_first(object.as_bytes(), 0, r#""a":1"#.to_owned())?;
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
