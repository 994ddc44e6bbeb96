//! What a prompt is made of, and how what stands in a body becomes part of it.

use std::borrow::Cow;

use crate::dialect::json;

/// Tokens of a message in addition to its text, its role included.
pub const MESSAGE_TOKENS: u64 = 4;

/// Maximum tokens of a conversation in addition to its messages, at Anthropic and Gemini.
pub const CONVERSATION_TOKENS: u64 = 16;

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
pub struct PromptText<'a> {
    /// Its texts.
    pub texts: Vec<Cow<'a, str>>,
    /// Tokens that it costs beside them, at most.
    pub overhead: u64,
    /// Tokens that it costs on top at models that speak the OpenAI dialect and are not OpenAI's:
    /// their templates are longer.
    pub non_openai_overhead: u64,
    /// Whether that is all. If not, it has images or the like, or it is too long to be counted:
    /// then nothing here bounds it.
    pub is_text_only: bool,
}

impl<'a> PromptText<'a> {
    /// Adds a string; another value is null, or no text.
    pub fn push_text(&mut self, value: &'a [u8]) {
        match json::string_of(value) {
            Some(text) => self.texts.push(text),
            None => self.is_text_only &= value == b"null",
        }
    }

    /// Adds a value as the JSON that it is: providers render it shorter.
    pub fn push_json(&mut self, value: &'a [u8]) {
        match std::str::from_utf8(value) {
            Ok("null") => {}
            Ok(text) => self.texts.push(Cow::Borrowed(text)),
            Err(_) => self.is_text_only = false,
        }
    }

    /// Adds a field that nobody knows, as it may be shown to the model: all but plain settings.
    pub fn push_unknown_field(&mut self, key: &str, value: &'a [u8]) {
        let is_setting = SETTINGS.contains(&key) && value.len() <= SETTING_BYTES_MAX;
        match value.first() {
            Some(b'"') if !is_setting => self.push_json(value),
            Some(b'{' | b'[') => self.push_json(value),
            _ => {}
        }
    }

    /// Adds who speaks, where it is nobody known.
    pub fn push_role(&mut self, value: &'a [u8]) {
        let role = json::string_of(value);
        let is_known = matches!(
            role.as_deref(),
            Some("system" | "developer" | "user" | "assistant" | "tool" | "function" | "model")
        );
        if !is_known {
            self.push_json(value);
        }
    }

    /// Adds what only the provider can read: thoughts that it encrypted.
    pub fn push_opaque(&mut self, value: &[u8]) {
        self.overhead += (value.len() as u64).div_ceil(HIDDEN_BYTES_PER_TOKEN);
    }

    /// Adds a text that is tokens already.
    pub fn push_token(&mut self, value: &[u8]) {
        self.overhead += 1;
        self.is_text_only &= value.iter().all(u8::is_ascii_digit);
    }

    /// Calls `visit` with every field; what is no object is not understood.
    pub fn for_each_field(
        &mut self,
        object: &'a [u8],
        mut on_field: impl FnMut(&mut Self, &str, &'a [u8]),
    ) {
        // A list stands where an object should: then nobody knows what it means.
        let read = json::fields(object, |key, value| on_field(self, &key, &object[value]));
        self.is_text_only &= read.is_ok();
    }
}

/// What a part of a prompt says that it is.
pub fn type_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut kind = None;
    json::each_named(value, &["type"], |value| kind = json::string_of(value));
    kind
}
