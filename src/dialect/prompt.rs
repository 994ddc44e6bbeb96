//! The texts of a request whose tokens make up its input: for a bound that is tighter than bytes.

use std::borrow::Cow;

use crate::dialect::endpoint::{Dialect, Endpoint};
use crate::dialect::json;

/// The longest body that is looked into. Longer ones keep their bytes as the bound, so that nobody
/// can make a worker count for long.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// What a conversation costs beside its messages: in the OpenAI dialect exactly, in others at most.
const CHAT_TOKENS: u64 = 3;
const OTHER_TOKENS: u64 = 16;

/// What a message costs beside its text, its role included.
const MESSAGE_TOKENS: u64 = 4;

/// What providers say of tools in general, before they name any.
const OPENAI_TOOLS_TOKENS: u64 = 96;
const ANTHROPIC_TOOLS_TOKENS: u64 = 600;

/// What Anthropic puts in front where a form of the answer, or thinking, is asked for.
const ANTHROPIC_MODE_TOKENS: u64 = 230;

/// What models of others put in front of a chat, and of one with tools or a form of the answer.
const FOREIGN_CHAT_TOKENS: u64 = 80;
const FOREIGN_FORM_TOKENS: u64 = 600;

/// What they put around a text that is embedded.
const FOREIGN_EDGE_TOKENS: u64 = 2;

/// Hidden thoughts that a client sends back: at most a token in so many bytes.
const HIDDEN_BYTES_PER_TOKEN: u64 = 3;

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

/// The prompt of a request that was read before.
pub fn of(endpoint: Endpoint, body: &[u8]) -> Prompt<'_> {
    let mut prompt = Prompt { is_text: body.len() <= BODY_BYTES_MAX, ..Prompt::default() };
    if prompt.is_text {
        match endpoint.dialect() {
            Dialect::OpenAi if endpoint == Endpoint::Embeddings => prompt.embeddings(body),
            Dialect::OpenAi => prompt.chat(body),
            Dialect::Anthropic => prompt.message(body),
            Dialect::Gemini => {
                prompt.overhead += OTHER_TOKENS;
                prompt.contents(body, 0);
            }
        }
    }
    prompt
}

impl<'a> Prompt<'a> {
    /// Adds a string; another value is null, or no text.
    fn text(&mut self, value: &'a [u8]) {
        match json::string_of(value) {
            Some(text) => self.texts.push(text),
            None => self.is_text &= value == b"null",
        }
    }

    /// Adds a value as the JSON that it is: providers render it shorter.
    fn raw(&mut self, value: &'a [u8]) {
        match std::str::from_utf8(value) {
            Ok("null") => {}
            Ok(text) => self.texts.push(Cow::Borrowed(text)),
            Err(_) => self.is_text = false,
        }
    }

    /// Adds what has structure, as it may be shown to the model; settings are plain values.
    fn raw_structure(&mut self, value: &'a [u8]) {
        if value.starts_with(b"{") || value.starts_with(b"[") {
            self.raw(value);
        }
    }

    /// Adds what only the provider can read: thoughts that it encrypted.
    fn hidden(&mut self, value: &[u8]) {
        self.overhead += (value.len() as u64).div_ceil(HIDDEN_BYTES_PER_TOKEN);
    }

    fn embeddings(&mut self, body: &'a [u8]) {
        json::each(body, &["input"], |input| {
            json::elements(input, |one| match one.first() {
                Some(b'[') => json::elements(one, |_| self.overhead += 1),
                Some(b'0'..=b'9') => self.overhead += 1,
                _ => {
                    self.foreign_overhead += FOREIGN_EDGE_TOKENS;
                    self.text(one);
                }
            });
        });
    }

    fn chat(&mut self, body: &'a [u8]) {
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
            _ => prompt.raw_structure(value),
        });
    }

    fn chat_message(&mut self, message: &'a [u8]) {
        self.overhead += MESSAGE_TOKENS;
        self.each_field(message, |prompt, key, value| match key {
            "role" => {}
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

    fn message(&mut self, body: &'a [u8]) {
        self.overhead += OTHER_TOKENS;
        self.each_field(body, |prompt, key, value| match key {
            "messages" => json::elements(value, |message| {
                prompt.overhead += MESSAGE_TOKENS;
                json::each(message, &["content"], |content| prompt.blocks(content, 0));
            }),
            "system" => prompt.blocks(value, 0),
            "tools" => {
                prompt.overhead += ANTHROPIC_TOOLS_TOKENS;
                prompt.raw(value);
            }
            "thinking" | "output_config" | "output_format" => {
                prompt.overhead += ANTHROPIC_MODE_TOKENS;
                prompt.raw(value);
            }
            "metadata" | "stop_sequences" => {}
            _ => prompt.raw_structure(value),
        });
    }

    fn blocks(&mut self, content: &'a [u8], level: u32) {
        json::elements(content, |block| match kind_of(block).as_deref() {
            None => self.text(block),
            Some("text") => json::each(block, &["text"], |text| self.text(text)),
            Some("thinking") => {
                json::each(block, &["thinking"], |text| self.text(text));
                json::each(block, &["signature"], |signature| self.hidden(signature));
            }
            Some("redacted_thinking") => json::each(block, &["data"], |data| self.hidden(data)),
            Some("tool_result") if level == 0 => {
                self.overhead += MESSAGE_TOKENS;
                json::each(block, &["tool_use_id"], |id| self.text(id));
                json::each(block, &["content"], |content| self.blocks(content, 1));
            }
            Some("tool_use" | "server_tool_use") => self.raw(block),
            Some(_) => self.is_text = false,
        });
    }

    fn contents(&mut self, body: &'a [u8], level: u32) {
        self.each_field(body, |prompt, key, value| match key {
            "contents" | "content" | "systemInstruction" | "system_instruction" => {
                json::elements(value, |content| {
                    prompt.overhead += MESSAGE_TOKENS;
                    json::each(content, &["parts"], |parts| {
                        json::elements(parts, |part| prompt.part(part));
                    });
                });
            }
            "requests" | "generateContentRequest" | "generate_content_request" if level == 0 => {
                json::elements(value, |one| prompt.contents(one, 1));
            }
            "generationConfig" | "generation_config" => {
                // Of it only a schema is shown to the model.
                prompt.each_field(value, |prompt, _, value| prompt.raw_structure(value));
            }
            "safetySettings" | "safety_settings" | "labels" => {}
            "title" => prompt.text(value),
            _ => prompt.raw_structure(value),
        });
    }

    fn part(&mut self, part: &'a [u8]) {
        if part.starts_with(b"\"") {
            return self.text(part);
        }
        self.each_field(part, |prompt, key, value| match key {
            "text" => prompt.text(value),
            "functionCall"
            | "function_call"
            | "executableCode"
            | "executable_code"
            | "codeExecutionResult"
            | "code_execution_result" => prompt.raw(value),
            "functionResponse" | "function_response" => {
                json::each(value, &["parts"], |_| prompt.is_text = false);
                prompt.raw(value);
            }
            "thought" => {}
            "thoughtSignature" | "thought_signature" => prompt.hidden(value),
            _ => prompt.is_text = false,
        });
    }

    fn each_field(&mut self, object: &'a [u8], mut visit: impl FnMut(&mut Self, &str, &'a [u8])) {
        // A list stands where an object should: then nobody knows what it means.
        let read = json::fields(object, |key, value| visit(self, &key, &object[value]));
        self.is_text &= read.is_ok();
    }
}

fn kind_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut kind = None;
    json::each(value, &["type"], |value| kind = json::string_of(value));
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(endpoint: Endpoint, body: &str) -> (Vec<String>, u64, bool) {
        let prompt = of(endpoint, body.as_bytes());
        let texts = prompt.texts.into_iter().map(Cow::into_owned).collect();
        (texts, prompt.overhead, prompt.is_text)
    }

    fn texts(endpoint: Endpoint, body: &str) -> Vec<String> {
        let (texts, _, is_text) = read(endpoint, body);
        assert!(is_text, "{body}");
        texts
    }

    #[test]
    fn a_plain_chat_is_its_texts_and_an_exact_overhead() {
        let body = r#"{"model":"gpt-4o","messages":[{"role":"system","content":"be \"brief\""},
            {"role":"user","name":"ann","content":[{"type":"text","text":"hi"}]},
            {"role":"assistant","content":null}],"stop":["x"],"stream_options":{"a":1}}"#;
        let (texts, overhead, is_text) = read(Endpoint::ChatCompletions, body);
        assert_eq!(texts, ["be \"brief\"", "ann", "hi"]);
        assert_eq!((overhead, is_text), (3 + 3 * 4 + 1, true));
    }

    #[test]
    fn what_is_shown_to_the_model_is_counted_as_json() {
        let body = r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"a"}]}],
            "tools":[{"b":1}],"response_format":{"c":1},"temperature":1}"#;
        let found = texts(Endpoint::ChatCompletions, body);
        assert_eq!(found, [r#"[{"id":"a"}]"#, r#"[{"b":1}]"#, r#"{"c":1}"#]);
    }

    #[test]
    fn inputs_of_embeddings_are_texts_or_tokens() {
        let read = |input: &str| read(Endpoint::Embeddings, &format!(r#"{{"input":{input}}}"#));
        assert_eq!(read(r#""a""#), (vec!["a".to_owned()], 0, true));
        assert_eq!(read(r#"["a","b"]"#), (vec!["a".to_owned(), "b".to_owned()], 0, true));
        assert_eq!(read("[1,2,3]"), (vec![], 3, true));
        assert_eq!(read("[[1,2],[3]]"), (vec![], 3, true));
        assert!(!read(r#"[{"image":"a"}]"#).2);
    }

    #[test]
    fn a_message_is_its_system_its_blocks_and_its_tools() {
        let body = r#"{"system":[{"type":"text","text":"s"}],"messages":[
            {"role":"user","content":"u"},
            {"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"z"},
             {"type":"tool_use","id":"i","input":{}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"i",
             "content":[{"type":"text","text":"r"}]}]}],
            "tools":[{"name":"n"}]}"#;
        let expected = [
            "s",
            "u",
            "t",
            r#"{"type":"tool_use","id":"i","input":{}}"#,
            "i",
            "r",
            r#"[{"name":"n"}]"#,
        ];
        assert_eq!(texts(Endpoint::Messages, body), expected);
    }

    #[test]
    fn contents_are_their_parts() {
        let body = r#"{"systemInstruction":{"parts":[{"text":"s"}]},"contents":[
            {"role":"user","parts":[{"text":"u"},{"functionCall":{"name":"f"},
             "thoughtSignature":"z"}]}],"generationConfig":{"topK":1,"responseSchema":{"a":1}}}"#;
        let found = texts(Endpoint::GenerateContent, body);
        assert_eq!(found, ["s", "u", r#"{"name":"f"}"#, r#"{"a":1}"#]);
        let batch = r#"{"requests":[{"model":"m","content":{"parts":[{"text":"a"}]}}]}"#;
        assert_eq!(texts(Endpoint::BatchEmbedContents, batch), ["a"]);
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        let long = format!(r#"{{"messages":[{{"content":"{}"}}]}}"#, "x".repeat(BODY_BYTES_MAX));
        for (endpoint, body) in [
            (
                Endpoint::ChatCompletions,
                r#"{"messages":[{"content":[{"type":"image_url","image_url":{}}]}]}"#,
            ),
            (Endpoint::ChatCompletions, long.as_str()),
            (Endpoint::Messages, r#"{"messages":[{"content":[{"type":"image","source":{}}]}]}"#),
            (
                Endpoint::Messages,
                r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image"}]}]}]}"#,
            ),
            (Endpoint::GenerateContent, r#"{"contents":[{"parts":[{"inlineData":{}}]}]}"#),
            (
                Endpoint::GenerateContent,
                r#"{"contents":[{"parts":[{"functionResponse":{"parts":[]}}]}]}"#,
            ),
        ] {
            assert!(!read(endpoint, body).2, "{}", &body[..body.len().min(80)]);
        }
    }
}
