//! Collects the texts of requests in the OpenAI dialect.

use crate::dialect::external_refs::TOOLS_TOKENS;
use crate::dialect::json;
use crate::dialect::prompt_text::{MESSAGE_TOKENS, PromptText, type_of};

/// Exact tokens of a conversation in addition to its messages.
const CHAT_TOKENS: u64 = 3;

/// Tokens of OpenAI's general instructions about tools.
const OPENAI_TOOLS_TOKENS: u64 = 96;

/// Tokens that other providers add to a chat, and to one with tools or a structured output.
const NON_OPENAI_CHAT_TOKENS: u64 = 80;
const NON_OPENAI_FORMAT_TOKENS: u64 = TOOLS_TOKENS;

/// Tokens that they add around a text to embed.
const NON_OPENAI_DELIMITER_TOKENS: u64 = 2;

impl<'a> PromptText<'a> {
    /// Adds the texts and tokenized texts in field `name`.
    pub fn push_inputs(&mut self, body: &'a [u8], name: &str) {
        self.for_each_field(body, |prompt, key, value| match key {
            key if key == name => json::elements(value, |input| match input.first() {
                Some(b'[') => json::elements(input, |token| prompt.push_token(token)),
                Some(b'"') => {
                    prompt.non_openai_overhead += NON_OPENAI_DELIMITER_TOKENS;
                    prompt.push_text(input);
                }
                _ => prompt.push_token(input),
            }),
            "stream_options" | "logit_bias" | "stop" => {}
            _ => prompt.push_unknown_field(key, value),
        });
    }

    /// Adds a chat.
    pub fn push_chat(&mut self, body: &'a [u8]) {
        self.overhead += CHAT_TOKENS;
        self.non_openai_overhead += NON_OPENAI_CHAT_TOKENS;
        self.for_each_field(body, |prompt, key, value| match key {
            "messages" => json::elements(value, |message| prompt.push_chat_message(message)),
            "tools" | "functions" => {
                prompt.overhead += OPENAI_TOOLS_TOKENS;
                prompt.non_openai_overhead += NON_OPENAI_FORMAT_TOKENS;
                prompt.push_json(value);
            }
            "response_format" => {
                prompt.non_openai_overhead += NON_OPENAI_FORMAT_TOKENS;
                prompt.push_json(value);
            }
            "stream_options" | "logit_bias" | "metadata" | "stop" | "modalities" => {}
            _ => prompt.push_unknown_field(key, value),
        });
    }

    fn push_chat_message(&mut self, message: &'a [u8]) {
        self.overhead += MESSAGE_TOKENS;
        self.for_each_field(message, |prompt, key, value| match key {
            "role" => prompt.push_role(value),
            "content" => json::elements(value, |part| prompt.push_chat_part(part)),
            "name" => {
                prompt.overhead += 1;
                prompt.push_text(value);
            }
            "refusal" => prompt.push_text(value),
            // A reference to stored audio.
            "audio" => prompt.is_text_only &= value == b"null",
            _ => prompt.push_json(value),
        });
    }

    fn push_chat_part(&mut self, part: &'a [u8]) {
        match type_of(part).as_deref() {
            Some("text" | "refusal") => {
                json::each_named(part, &["text", "refusal"], |text| self.push_text(text));
            }
            Some(_) => self.is_text_only = false,
            None => self.push_text(part),
        }
    }

    /// Adds a request of the Responses API.
    pub fn push_response(&mut self, body: &'a [u8]) {
        self.overhead += CHAT_TOKENS;
        self.non_openai_overhead += NON_OPENAI_CHAT_TOKENS;
        self.for_each_field(body, |prompt, key, value| match key {
            "input" if value.starts_with(b"[") => {
                json::elements(value, |item| prompt.push_response_item(item));
            }
            "input" | "instructions" => {
                prompt.overhead += MESSAGE_TOKENS;
                prompt.push_text(value);
            }
            "tools" => {
                prompt.overhead += OPENAI_TOOLS_TOKENS;
                prompt.non_openai_overhead += NON_OPENAI_FORMAT_TOKENS;
                prompt.push_json(value);
            }
            // The format of the output.
            "text" => {
                prompt.non_openai_overhead += NON_OPENAI_FORMAT_TOKENS;
                prompt.push_json(value);
            }
            "stream_options" | "metadata" | "include" | "reasoning" => {}
            _ => prompt.push_unknown_field(key, value),
        });
    }

    /// Adds a message, a function call or its output. For other items the text may not bound the
    /// tokens.
    fn push_response_item(&mut self, item: &'a [u8]) {
        self.overhead += MESSAGE_TOKENS;
        let kind = type_of(item);
        match kind.as_deref() {
            None | Some("message") => self.for_each_field(item, |prompt, key, value| match key {
                "role" => prompt.push_role(value),
                "content" => json::elements(value, |part| prompt.push_response_part(part)),
                "type" | "id" | "status" | "phase" => {}
                _ => prompt.push_json(value),
            }),
            Some("function_call" | "custom_tool_call") => self.push_json(item),
            Some("function_call_output" | "custom_tool_call_output") => {
                self.for_each_field(item, |prompt, key, value| match key {
                    "output" => json::elements(value, |part| prompt.push_response_part(part)),
                    _ => prompt.push_json(value),
                });
            }
            Some("reasoning") => self.for_each_field(item, |prompt, key, value| match key {
                "encrypted_content" => prompt.push_opaque(value),
                "type" | "id" | "status" => {}
                _ => prompt.push_json(value),
            }),
            Some(_) => self.is_text_only = false,
        }
    }

    fn push_response_part(&mut self, part: &'a [u8]) {
        match type_of(part).as_deref() {
            Some("input_text" | "output_text" | "refusal") => {
                json::each_named(part, &["text", "refusal"], |text| self.push_text(text));
            }
            Some(_) => self.is_text_only = false,
            None => self.push_text(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn read(body: &str) -> (Vec<String>, u64, bool) {
        let mut prompt = PromptText { is_text_only: true, ..PromptText::default() };
        prompt.push_response(body.as_bytes());
        let texts = prompt.texts.into_iter().map(Cow::into_owned).collect();
        (texts, prompt.overhead, prompt.is_text_only)
    }

    #[test]
    fn a_response_request_is_instructions_items_and_tools() {
        let plain = read(r#"{"model":"m","input":"hi","store":false}"#);
        assert_eq!(plain, (vec!["hi".to_owned()], 7, true));
        let body = r#"{"instructions":"be","input":[
            {"role":"user","content":"u"},
            {"type":"message","id":"m","role":"assistant","status":"completed",
             "content":[{"type":"output_text","text":"o","annotations":[]}]},
            {"type":"reasoning","id":"r","summary":[],"encrypted_content":"123456789"},
            {"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
            {"type":"function_call_output","call_id":"c","output":"done"}],
            "tools":[{"b":1}],"reasoning":{"effort":"high"},"metadata":{"a":"b"}}"#;
        let (texts, overhead, is_text) = read(body);
        let call = r#"{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}"#;
        let output = [r#""function_call_output""#, r#""c""#, "done"];
        let expected = [&["be", "u", "o", "[]", call][..], &output, &[r#"[{"b":1}]"#]].concat();
        assert_eq!(texts, expected);
        assert_eq!((overhead, is_text), (3 + 6 * 4 + 4 + OPENAI_TOOLS_TOKENS, true));
    }
}
