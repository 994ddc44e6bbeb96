//! The texts of requests in the OpenAI dialect.

use crate::dialect::json;
use crate::dialect::outside::TOOLS_TOKENS;
use crate::dialect::texts::{MESSAGE_TOKENS, Prompt, kind_of};

/// What a conversation costs beside its messages, exactly.
const CHAT_TOKENS: u64 = 3;

/// What OpenAI says of tools in general, before it names any.
const OPENAI_TOOLS_TOKENS: u64 = 96;

/// What models of others put in front of a chat, and of one with tools or a form of the answer.
const FOREIGN_CHAT_TOKENS: u64 = 80;
const FOREIGN_FORM_TOKENS: u64 = TOOLS_TOKENS;

/// What they put around a text that is embedded.
const FOREIGN_EDGE_TOKENS: u64 = 2;

impl<'a> Prompt<'a> {
    /// Adds each text in field `name`, and each that is tokens already.
    pub fn inputs(&mut self, body: &'a [u8], name: &str) {
        self.each_field(body, |prompt, key, value| match key {
            key if key == name => json::elements(value, |one| match one.first() {
                Some(b'[') => json::elements(one, |one| prompt.token(one)),
                Some(b'"') => {
                    prompt.foreign_overhead += FOREIGN_EDGE_TOKENS;
                    prompt.text(one);
                }
                _ => prompt.token(one),
            }),
            "stream_options" | "logit_bias" | "stop" => {}
            _ => prompt.unknown(key, value),
        });
    }

    /// Adds a chat.
    pub fn chat(&mut self, body: &'a [u8]) {
        self.overhead += CHAT_TOKENS;
        self.foreign_overhead += FOREIGN_CHAT_TOKENS;
        self.each_field(body, |prompt, key, value| match key {
            "messages" => json::elements(value, |message| prompt.chat_message(message)),
            "tools" | "functions" => {
                prompt.overhead += OPENAI_TOOLS_TOKENS;
                prompt.foreign_overhead += FOREIGN_FORM_TOKENS;
                prompt.raw(value);
            }
            "response_format" => {
                prompt.foreign_overhead += FOREIGN_FORM_TOKENS;
                prompt.raw(value);
            }
            "stream_options" | "logit_bias" | "metadata" | "stop" | "modalities" => {}
            _ => prompt.unknown(key, value),
        });
    }

    fn chat_message(&mut self, message: &'a [u8]) {
        self.overhead += MESSAGE_TOKENS;
        self.each_field(message, |prompt, key, value| match key {
            "role" => prompt.role(value),
            "content" => json::elements(value, |part| prompt.chat_part(part)),
            "name" => {
                prompt.overhead += 1;
                prompt.text(value);
            }
            "refusal" => prompt.text(value),
            // A sound that the provider keeps.
            "audio" => prompt.is_text &= value == b"null",
            _ => prompt.raw(value),
        });
    }

    fn chat_part(&mut self, part: &'a [u8]) {
        match kind_of(part).as_deref() {
            Some("text" | "refusal") => {
                json::each(part, &["text", "refusal"], |text| self.text(text));
            }
            Some(_) => self.is_text = false,
            None => self.text(part),
        }
    }

    /// Adds what a response is asked for with.
    pub fn response(&mut self, body: &'a [u8]) {
        self.overhead += CHAT_TOKENS;
        self.foreign_overhead += FOREIGN_CHAT_TOKENS;
        self.each_field(body, |prompt, key, value| match key {
            "input" if value.starts_with(b"[") => {
                json::elements(value, |item| prompt.item(item));
            }
            "input" | "instructions" => {
                prompt.overhead += MESSAGE_TOKENS;
                prompt.text(value);
            }
            "tools" => {
                prompt.overhead += OPENAI_TOOLS_TOKENS;
                prompt.foreign_overhead += FOREIGN_FORM_TOKENS;
                prompt.raw(value);
            }
            // How the answer is to look.
            "text" => {
                prompt.foreign_overhead += FOREIGN_FORM_TOKENS;
                prompt.raw(value);
            }
            "stream_options" | "metadata" | "include" | "reasoning" => {}
            _ => prompt.unknown(key, value),
        });
    }

    /// What a client says, called or was answered; anything else is not known to be bounded by its
    /// text.
    fn item(&mut self, item: &'a [u8]) {
        self.overhead += MESSAGE_TOKENS;
        let kind = kind_of(item);
        match kind.as_deref() {
            None | Some("message") => self.each_field(item, |prompt, key, value| match key {
                "role" => prompt.role(value),
                "content" => json::elements(value, |part| prompt.item_part(part)),
                "type" | "id" | "status" | "phase" => {}
                _ => prompt.raw(value),
            }),
            Some("function_call" | "custom_tool_call") => self.raw(item),
            Some("function_call_output" | "custom_tool_call_output") => {
                self.each_field(item, |prompt, key, value| match key {
                    "output" => json::elements(value, |part| prompt.item_part(part)),
                    _ => prompt.raw(value),
                });
            }
            Some("reasoning") => self.each_field(item, |prompt, key, value| match key {
                "encrypted_content" => prompt.hidden(value),
                "type" | "id" | "status" => {}
                _ => prompt.raw(value),
            }),
            Some(_) => self.is_text = false,
        }
    }

    fn item_part(&mut self, part: &'a [u8]) {
        match kind_of(part).as_deref() {
            Some("input_text" | "output_text" | "refusal") => {
                json::each(part, &["text", "refusal"], |text| self.text(text));
            }
            Some(_) => self.is_text = false,
            None => self.text(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn read(body: &str) -> (Vec<String>, u64, bool) {
        let mut prompt = Prompt { is_text: true, ..Prompt::default() };
        prompt.response(body.as_bytes());
        let texts = prompt.texts.into_iter().map(Cow::into_owned).collect();
        (texts, prompt.overhead, prompt.is_text)
    }

    #[test]
    fn a_response_is_its_instructions_its_items_and_its_tools() {
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
