//! What a body refers to that is not in it, or costs more than its bytes show.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;

/// What providers put in front of a call with tools, at most, in tokens.
pub const TOOLS_TOKENS: u64 = 600;

/// The most models that a call may name beside its own.
pub const OTHER_MODELS_MAX: usize = 8;

/// What an image costs that stands in the body, at most, in tokens.
pub const IMAGE_TOKENS: u64 = 5_000;

/// How often a hosted tool is called at most, where nobody bounds it.
pub const HOSTED_CALLS_MAX: u64 = 10;

/// A reference to state kept at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderStateRef {
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

/// What a body refers to that is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalRefs {
    /// Whether there is content that is not bound by the body's length: it is elsewhere, or packed.
    pub has_external_content: bool,
    /// The state kept at the provider that the body refers to: it may be another tenant's.
    pub state: Option<ProviderStateRef>,
    /// Input tokens, at most, that come on top of the body's bytes.
    pub unseen_tokens: u64,
    /// All input tokens, at most, of a body that is not text, and whose bytes say nothing of them.
    pub media_tokens: Option<u64>,
    /// Searches of hosted tools, at most.
    pub searches: u64,
    /// Models that may answer beside the one that the call is for, as the provider calls them.
    pub other_models: Vec<String>,
}

impl ExternalRefs {
    /// That field names state kept at the provider, which no answer gave an id of.
    pub fn add_state_ref(&mut self, field: &'static str) {
        (self.has_external_content, self.state) =
            (true, Some(ProviderStateRef { field, id: None }));
    }

    /// That field names state kept at the provider, by an id that an answer can have given.
    pub fn add_state_ref_by_id(&mut self, field: &'static str, id: &[u8]) {
        let id = if self.state.is_none() { state_id(id) } else { None };
        (self.has_external_content, self.state) = (true, Some(ProviderStateRef { field, id }));
    }

    /// Another model may answer.
    pub fn add_model(&mut self, model: String) {
        if self.other_models.len() <= OTHER_MODELS_MAX && !self.other_models.contains(&model) {
            self.other_models.push(model);
        }
    }

    /// Adds media that stand in the body. What is no image may be of any length in few bytes.
    pub fn add_media(&mut self, media_type: &str) {
        if media_type.to_ascii_lowercase().starts_with("image/") {
            self.unseen_tokens += IMAGE_TOKENS;
        } else {
            self.has_external_content = true;
        }
    }
}

static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u00"));

/// Whether one of those words may be anywhere in the body.
pub fn may_contain(body: &[u8], words: &[Finder<'_>]) -> bool {
    has_escaped_letters(body) || words.iter().any(|word| word.find(body).is_some())
}

/// Whether one of those words may be a key in the body.
///
/// A letter that is written as an escape might hide it; no client writes letters so without a
/// purpose.
pub fn may_contain_key(body: &[u8], words: &[Finder<'_>]) -> bool {
    let may_have = |word: &Finder<'_>| {
        let is_key =
            |at: usize| body[at + word.needle().len()..].trim_ascii_start().starts_with(b":");
        word.find_iter(body).any(is_key)
    };
    has_escaped_letters(body) || words.iter().any(may_have)
}

/// The same of a value, or the beginning of one.
pub fn may_contain_value(body: &[u8], words: &[Finder<'_>]) -> bool {
    let is_value = |at: usize| body[..at].trim_ascii_end().ends_with(b":");
    has_escaped_letters(body) || words.iter().any(|word| word.find_iter(body).any(is_value))
}

/// Whether a letter is written as an escape, and a word might be hidden so.
pub fn has_escaped_letters(body: &[u8]) -> bool {
    ESCAPE.find_iter(body).any(|at| matches!(body.get(at + 4), Some(b'4'..=b'7')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_seen_however_it_is_written() {
        let words = [Finder::new("\"file_id\"")];
        for body in [r#"{"file_id":1}"#, r#"{"fil\u0065_id":1}"#, r#"{"file\u005fid":1}"#] {
            assert!(may_contain_key(body.as_bytes(), &words), "{body}");
        }
        for body in [r#"{"content":"caf\u00e9 \u0022file_id\u0022"}"#, r#"{"a":"\u00"}"#] {
            assert!(!may_contain_key(body.as_bytes(), &words), "{body}");
        }
    }

    #[test]
    fn one_reference_has_an_id_and_two_have_none() {
        let id = |outside: &ExternalRefs| outside.state.clone().and_then(|state| state.id);
        let mut outside = ExternalRefs::default();
        outside.add_state_ref_by_id("a", br#""\u0069""#);
        assert_eq!(id(&outside).as_deref(), Some("i"));
        outside.add_state_ref_by_id("a", br#""i""#);
        assert_eq!(id(&outside), None);
        let mut outside = ExternalRefs::default();
        outside.add_state_ref("b");
        outside.add_state_ref_by_id("a", br#""i""#);
        let state = Some(ProviderStateRef { field: "a", id: None });
        assert_eq!(
            outside,
            ExternalRefs { has_external_content: true, state, ..ExternalRefs::default() }
        );
        assert_eq!(state_id(br#""""#).or(state_id(b"7")), None);
        assert_eq!(state_id(format!("\"{}\"", "i".repeat(257)).as_bytes()), None);
    }

    #[test]
    fn keys_values_and_elements_are_told_apart() {
        let words = [Finder::new("\"url\"")];
        assert!(may_contain_key(br#"{"url" :1}"#, &words));
        assert!(!may_contain_key(br#"{"type":"url","required":["url"]}"#, &words));
        assert!(may_contain_value(br#"{"type" : "url"}"#, &words));
        assert!(!may_contain_value(br#"{"url":{"required":["url"]}}"#, &words));
    }
}
