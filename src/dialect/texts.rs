//! What a prompt is made of, and how what stands in a body becomes part of it.

use std::borrow::Cow;

use crate::dialect::json;

/// What a message costs beside its text, its role included.
pub const MESSAGE_TOKENS: u64 = 4;

/// Hidden thoughts that a client sends back: at most a token in so many bytes.
const HIDDEN_BYTES_PER_TOKEN: u64 = 3;

/// Settings that are never shown to the model.
const SETTINGS: [&str; 17] = [
    "model",
    "user",
    "service_tier",
    "reasoning_effort",
    "verbosity",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "encoding_format",
    "tool_choice",
    "inference_geo",
    "speed",
    "taskType",
    "task_type",
    "responseMimeType",
    "response_mime_type",
    "mediaResolution",
];

/// How long a value may be that is taken for such a setting.
pub const SETTING_BYTES_MAX: usize = 128;

/// What the input of a request consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt<'a> {
    /// Its texts.
    pub texts: Vec<Cow<'a, str>>,
    /// Tokens that it costs beside them, at most.
    pub overhead: u64,
    /// Tokens that it costs on top at models that speak the OpenAI dialect and are not OpenAI's:
    /// their templates are longer.
    pub foreign_overhead: u64,
    /// Whether that is all. If not, it has images or the like, or it is too long to be counted:
    /// then nothing here bounds it.
    pub is_text: bool,
}

impl<'a> Prompt<'a> {
    /// Adds a string; another value is null, or no text.
    pub fn text(&mut self, value: &'a [u8]) {
        match json::string_of(value) {
            Some(text) => self.texts.push(text),
            None => self.is_text &= value == b"null",
        }
    }

    /// Adds a value as the JSON that it is: providers render it shorter.
    pub fn raw(&mut self, value: &'a [u8]) {
        match std::str::from_utf8(value) {
            Ok("null") => {}
            Ok(text) => self.texts.push(Cow::Borrowed(text)),
            Err(_) => self.is_text = false,
        }
    }

    /// Adds a field that nobody knows, as it may be shown to the model: all but plain settings.
    pub fn unknown(&mut self, key: &str, value: &'a [u8]) {
        let is_setting = SETTINGS.contains(&key) && value.len() <= SETTING_BYTES_MAX;
        match value.first() {
            Some(b'"') if !is_setting => self.raw(value),
            Some(b'{' | b'[') => self.raw(value),
            _ => {}
        }
    }

    /// Adds who speaks, where it is nobody known.
    pub fn role(&mut self, value: &'a [u8]) {
        let role = json::string_of(value);
        let is_known = matches!(
            role.as_deref(),
            Some("system" | "developer" | "user" | "assistant" | "tool" | "function" | "model")
        );
        if !is_known {
            self.raw(value);
        }
    }

    /// Adds what only the provider can read: thoughts that it encrypted.
    pub fn hidden(&mut self, value: &[u8]) {
        self.overhead += (value.len() as u64).div_ceil(HIDDEN_BYTES_PER_TOKEN);
    }

    /// Adds a text that is tokens already.
    pub fn token(&mut self, value: &[u8]) {
        self.overhead += 1;
        self.is_text &= value.iter().all(u8::is_ascii_digit);
    }

    /// Calls `visit` with every field; what is no object is not understood.
    pub fn each_field(
        &mut self,
        object: &'a [u8],
        mut visit: impl FnMut(&mut Self, &str, &'a [u8]),
    ) {
        // A list stands where an object should: then nobody knows what it means.
        let read = json::fields(object, |key, value| visit(self, &key, &object[value]));
        self.is_text &= read.is_ok();
    }
}

/// What a part of a prompt says that it is.
pub fn kind_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut kind = None;
    json::each(value, &["type"], |value| kind = json::string_of(value));
    kind
}
