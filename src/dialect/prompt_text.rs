//! The texts and token overheads of a prompt, collected from the values of a body.

use std::borrow::Cow;

use crate::dialect::json;

/// Tokens of a message in addition to its text, its role included.
pub const MESSAGE_TOKENS: u64 = 4;

/// Maximum tokens of a conversation in addition to its messages, at Anthropic and Gemini.
pub const CONVERSATION_TOKENS: u64 = 16;

/// Minimum bytes per token of encrypted reasoning that a client sends back.
const OPAQUE_BYTES_PER_TOKEN: u64 = 3;

/// Settings that a provider does not show to the model.
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

/// Maximum length of the value of such a setting. A longer value may be something else.
pub const SETTING_BYTES_MAX: usize = 128;

/// The input of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptText<'a> {
    pub texts: Vec<Cow<'a, str>>,
    /// Maximum tokens in addition to those of the texts.
    pub overhead: u64,
    /// Further tokens for models of other providers in the OpenAI dialect, whose templates are
    /// longer.
    pub non_openai_overhead: u64,
    /// Whether this is the whole input. If false, the input contains media or is too long to count,
    /// and the counts here do not bound it.
    pub is_text_only: bool,
}

impl<'a> PromptText<'a> {
    /// Adds a string. A value that is neither a string nor null is not text.
    pub fn push_text(&mut self, value: &'a [u8]) {
        match json::string_of(value) {
            Some(text) => self.texts.push(text),
            None => self.is_text_only &= value == b"null",
        }
    }

    /// Adds a value as JSON, which is longer than what providers render.
    pub fn push_json(&mut self, value: &'a [u8]) {
        match std::str::from_utf8(value) {
            Ok("null") => {}
            Ok(text) => self.texts.push(Cow::Borrowed(text)),
            Err(_) => self.is_text_only = false,
        }
    }

    /// Adds an unknown field, because the provider may show it to the model. Skips settings.
    pub fn push_unknown_field(&mut self, key: &str, value: &'a [u8]) {
        let is_setting = SETTINGS.contains(&key) && value.len() <= SETTING_BYTES_MAX;
        match value.first() {
            Some(b'"') if !is_setting => self.push_json(value),
            Some(b'{' | b'[') => self.push_json(value),
            _ => {}
        }
    }

    /// Adds the role of a message if it is not a standard one.
    pub fn push_role(&mut self, value: &'a [u8]) {
        let role = json::string_of(value);
        let is_standard = matches!(
            role.as_deref(),
            Some("system" | "developer" | "user" | "assistant" | "tool" | "function" | "model")
        );
        if !is_standard {
            self.push_json(value);
        }
    }

    /// Adds a value that only the provider can read, such as encrypted reasoning.
    pub fn push_opaque(&mut self, value: &[u8]) {
        self.overhead += (value.len() as u64).div_ceil(OPAQUE_BYTES_PER_TOKEN);
    }

    /// Adds a token, the element of a tokenized text.
    pub fn push_token(&mut self, value: &[u8]) {
        self.overhead += 1;
        self.is_text_only &= value.iter().all(u8::is_ascii_digit);
    }

    /// Calls `on_field` with every field. The input is not text if the value is not an object.
    pub fn for_each_field(
        &mut self,
        object: &'a [u8],
        mut on_field: impl FnMut(&mut Self, &str, &'a [u8]),
    ) {
        let read = json::fields(object, |key, value| on_field(self, &key, &object[value]));
        self.is_text_only &= read.is_ok();
    }
}

/// Returns the `type` of a part.
pub fn type_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut kind = None;
    json::each_named(value, &["type"], |value| kind = json::string_of(value));
    kind
}
