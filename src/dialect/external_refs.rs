//! What a request refers to outside of its body, and what costs more tokens than the body has bytes.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;

/// Maximum tokens that a provider adds to a request with tools.
pub const TOOLS_TOKENS: u64 = 600;

/// Maximum number of models that a request may name in addition to `model`.
pub const OTHER_MODELS_MAX: usize = 8;

/// Maximum tokens of an image in the body.
pub const IMAGE_TOKENS: u64 = 5_000;

/// Assumed maximum of calls of a hosted tool if the request sets none.
pub const HOSTED_CALLS_MAX: u64 = 10;

/// A reference to an object that the provider stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderStateRef {
    /// The field with the reference.
    pub field: &'static str,
    /// The id, if responses report ids of this kind. None as well if the body has several
    /// references.
    pub id: Option<Box<str>>,
}

/// Maximum length of a stored id. Ids of providers have some 30 bytes.
const STATE_ID_BYTES_MAX: usize = 256;

/// Returns the id in a JSON value, if it is a string of 1 to 256 bytes.
pub fn state_id(value: &[u8]) -> Option<Box<str>> {
    let id = json::string_of(value)?;
    (1..=STATE_ID_BYTES_MAX).contains(&id.len()).then(|| id.into())
}

/// What a request refers to outside of its body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalRefs {
    /// Whether there is content that the length of the body does not bound, because it is stored
    /// elsewhere or compressed.
    pub has_external_content: bool,
    /// The stored object that the request refers to. It might belong to another tenant.
    pub state: Option<ProviderStateRef>,
    /// Maximum input tokens in addition to one per byte of the body.
    pub unseen_tokens: u64,
    /// Maximum of all input tokens, if the body is media whose bytes do not bound the tokens.
    pub media_tokens: Option<u64>,
    /// Maximum searches of hosted tools.
    pub searches: u64,
    /// Upstream names of the models that may respond in addition to `model`.
    pub other_models: Vec<String>,
}

impl ExternalRefs {
    /// Records that `field` refers to a stored object whose id no response reports.
    pub fn add_state_ref(&mut self, field: &'static str) {
        (self.has_external_content, self.state) =
            (true, Some(ProviderStateRef { field, id: None }));
    }

    /// Records that `field` refers to a stored object by an id that a response may have reported.
    pub fn add_state_ref_by_id(&mut self, field: &'static str, id: &[u8]) {
        let id = if self.state.is_none() { state_id(id) } else { None };
        (self.has_external_content, self.state) = (true, Some(ProviderStateRef { field, id }));
    }

    /// Records that another model may respond.
    pub fn add_model(&mut self, model: String) {
        if self.other_models.len() <= OTHER_MODELS_MAX && !self.other_models.contains(&model) {
            self.other_models.push(model);
        }
    }

    /// Adds media in the body. Audio, video and documents can be of any length in few bytes.
    pub fn add_media(&mut self, media_type: &str) {
        if media_type.to_ascii_lowercase().starts_with("image/") {
            self.unseen_tokens += IMAGE_TOKENS;
        } else {
            self.has_external_content = true;
        }
    }
}

static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u00"));

/// Whether one of the words may be anywhere in the body. May return true without one.
pub fn may_contain(body: &[u8], words: &[Finder<'_>]) -> bool {
    has_escaped_letters(body) || words.iter().any(|word| word.find(body).is_some())
}

/// Whether one of the words may be a key in the body. Returns true if letters are escaped, because
/// an escape could hide a word.
pub fn may_contain_key(body: &[u8], words: &[Finder<'_>]) -> bool {
    let is_possible_key = |word: &Finder<'_>| {
        let is_key =
            |at: usize| body[at + word.needle().len()..].trim_ascii_start().starts_with(b":");
        word.find_iter(body).any(is_key)
    };
    has_escaped_letters(body) || words.iter().any(is_possible_key)
}

/// Whether one of the words may be a value in the body, or the beginning of one.
pub fn may_contain_value(body: &[u8], words: &[Finder<'_>]) -> bool {
    let is_value = |at: usize| body[..at].trim_ascii_end().ends_with(b":");
    has_escaped_letters(body) || words.iter().any(|word| word.find_iter(body).any(is_value))
}

/// Whether a letter is written as an escape, which could hide a word from a search. No regular
/// client writes letters in that way.
pub fn has_escaped_letters(body: &[u8]) -> bool {
    ESCAPE.find_iter(body).any(|at| matches!(body.get(at + 4), Some(b'4'..=b'7')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_behind_escapes() {
        let words = [Finder::new("\"file_id\"")];
        for body in [r#"{"file_id":1}"#, r#"{"fil\u0065_id":1}"#, r#"{"file\u005fid":1}"#] {
            assert!(may_contain_key(body.as_bytes(), &words), "{body}");
        }
        for body in [r#"{"content":"caf\u00e9 \u0022file_id\u0022"}"#, r#"{"a":"\u00"}"#] {
            assert!(!may_contain_key(body.as_bytes(), &words), "{body}");
        }
    }

    #[test]
    fn one_reference_has_an_id_and_several_have_none() {
        let id = |refs: &ExternalRefs| refs.state.clone().and_then(|state| state.id);
        let mut refs = ExternalRefs::default();
        refs.add_state_ref_by_id("a", br#""\u0069""#);
        assert_eq!(id(&refs).as_deref(), Some("i"));
        refs.add_state_ref_by_id("a", br#""i""#);
        assert_eq!(id(&refs), None);
        let mut refs = ExternalRefs::default();
        refs.add_state_ref("b");
        refs.add_state_ref_by_id("a", br#""i""#);
        let state = Some(ProviderStateRef { field: "a", id: None });
        assert_eq!(
            refs,
            ExternalRefs { has_external_content: true, state, ..ExternalRefs::default() }
        );
        assert_eq!(state_id(br#""""#).or(state_id(b"7")), None);
        assert_eq!(state_id(format!("\"{}\"", "i".repeat(257)).as_bytes()), None);
    }

    #[test]
    fn keys_values_and_elements_are_distinguished() {
        let words = [Finder::new("\"url\"")];
        assert!(may_contain_key(br#"{"url" :1}"#, &words));
        assert!(!may_contain_key(br#"{"type":"url","required":["url"]}"#, &words));
        assert!(may_contain_value(br#"{"type" : "url"}"#, &words));
        assert!(!may_contain_value(br#"{"url":{"required":["url"]}}"#, &words));
    }
}
