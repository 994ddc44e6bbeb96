//! The texts of a request whose tokens make up its input: for a bound that is tighter than bytes.

use crate::dialect::anthropic::external_refs::tool_overhead_tokens;
use crate::dialect::endpoint::{Dialect, Endpoint};
use crate::dialect::json;
use crate::dialect::prompt_text::{MESSAGE_TOKENS, PromptText, type_of};

/// The longest body that is looked into. Longer ones keep their bytes as the bound, so that nobody
/// can make a worker count for long.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// What a conversation costs beside its messages, at most.
const CONVERSATION_TOKENS: u64 = 16;

/// What Anthropic puts in front where a form of the answer, or thinking, is asked for.
const ANTHROPIC_MODE_TOKENS: u64 = 230;

/// The prompt of a request that was read before.
pub fn extract(endpoint: Endpoint, body: &[u8]) -> PromptText<'_> {
    let is_text = endpoint.media().is_none() && body.len() <= BODY_BYTES_MAX;
    let mut prompt = PromptText { is_text_only: is_text, ..PromptText::default() };
    if prompt.is_text_only {
        match endpoint.dialect() {
            Dialect::OpenAi => match endpoint {
                Endpoint::Embeddings => prompt.push_inputs(body, "input"),
                Endpoint::Completions => prompt.push_inputs(body, "prompt"),
                Endpoint::Responses | Endpoint::CompactResponses => prompt.push_response(body),
                _ => prompt.push_chat(body),
            },
            Dialect::Anthropic => prompt.push_message(body),
            Dialect::Gemini => {
                prompt.overhead += CONVERSATION_TOKENS;
                prompt.push_contents(body, 0);
            }
        }
    }
    prompt
}

impl<'a> PromptText<'a> {
    fn push_message(&mut self, body: &'a [u8]) {
        self.overhead += CONVERSATION_TOKENS;
        self.for_each_field(body, |prompt, key, value| match key {
            "messages" => json::elements(value, |message| {
                prompt.overhead += MESSAGE_TOKENS;
                prompt.for_each_field(message, |prompt, key, value| match key {
                    "role" => prompt.push_role(value),
                    "content" => prompt.push_blocks(value, 0),
                    _ => prompt.push_json(value),
                });
            }),
            "system" => prompt.push_blocks(value, 0),
            "tools" => {
                prompt.overhead += tool_overhead_tokens(value);
                prompt.push_json(value);
            }
            "thinking" | "output_config" | "output_format" => {
                prompt.overhead += ANTHROPIC_MODE_TOKENS;
                prompt.push_json(value);
            }
            "metadata" | "stop_sequences" => {}
            _ => prompt.push_unknown_field(key, value),
        });
    }

    fn push_blocks(&mut self, content: &'a [u8], level: u32) {
        json::elements(content, |block| match type_of(block).as_deref() {
            None => self.push_text(block),
            Some("text") => json::each_named(block, &["text"], |text| self.push_text(text)),
            Some("thinking") => {
                json::each_named(block, &["thinking"], |text| self.push_text(text));
                json::each_named(block, &["signature"], |signature| self.push_opaque(signature));
            }
            Some("redacted_thinking") => {
                json::each_named(block, &["data"], |data| self.push_opaque(data))
            }
            Some("tool_result") if level == 0 => {
                self.overhead += MESSAGE_TOKENS;
                json::each_named(block, &["tool_use_id"], |id| self.push_text(id));
                json::each_named(block, &["content"], |content| self.push_blocks(content, 1));
            }
            Some("tool_use" | "server_tool_use") => self.push_json(block),
            Some(_) => self.is_text_only = false,
        });
    }

    fn push_contents(&mut self, body: &'a [u8], level: u32) {
        self.for_each_field(body, |prompt, key, value| match key {
            "contents" | "content" | "systemInstruction" | "system_instruction" => {
                json::elements(value, |content| {
                    prompt.overhead += MESSAGE_TOKENS;
                    prompt.for_each_field(content, |prompt, key, value| match key {
                        "parts" => json::elements(value, |part| prompt.push_part(part)),
                        "role" => prompt.push_role(value),
                        _ => prompt.push_json(value),
                    });
                });
            }
            "requests" | "generateContentRequest" | "generate_content_request" if level == 0 => {
                json::elements(value, |one| prompt.push_contents(one, 1));
            }
            "generationConfig" | "generation_config" => {
                // Of it only a schema is shown to the model.
                prompt.for_each_field(value, PromptText::push_unknown_field);
            }
            "safetySettings" | "safety_settings" | "labels" => {}
            "title" => prompt.push_text(value),
            _ => prompt.push_unknown_field(key, value),
        });
    }

    fn push_part(&mut self, part: &'a [u8]) {
        if part.starts_with(b"\"") {
            return self.push_text(part);
        }
        self.for_each_field(part, |prompt, key, value| match key {
            "text" => prompt.push_text(value),
            "functionCall"
            | "function_call"
            | "executableCode"
            | "executable_code"
            | "codeExecutionResult"
            | "code_execution_result" => prompt.push_json(value),
            "functionResponse" | "function_response" => {
                json::each_named(value, &["parts"], |_| prompt.is_text_only = false);
                prompt.push_json(value);
            }
            "thought" => {}
            "thoughtSignature" | "thought_signature" => prompt.push_opaque(value),
            _ => prompt.is_text_only = false,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::dialect::external_refs::TOOLS_TOKENS;
    use crate::dialect::prompt_text::SETTING_BYTES_MAX;

    fn read(endpoint: Endpoint, body: &str) -> (Vec<String>, u64, bool) {
        let prompt = extract(endpoint, body.as_bytes());
        let texts = prompt.texts.into_iter().map(Cow::into_owned).collect();
        (texts, prompt.overhead, prompt.is_text_only)
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
        for other in [r#"[{"image":"a"}]"#, r#"[["long","long"]]"#, "[[[1]]]", "[-1]", "[true]"] {
            assert!(!read(other).2, "{other}");
        }
    }

    #[test]
    fn a_completion_is_its_prompts_and_what_follows_them() {
        let read = |rest: &str| read(Endpoint::Completions, &format!(r#"{{"model":"m",{rest}}}"#));
        assert_eq!(read(r#""prompt":"a","stop":["x"]"#), (vec!["a".to_owned()], 0, true));
        let both = (vec!["a".to_owned(), "b".to_owned(), r#""c""#.to_owned()], 0, true);
        assert_eq!(read(r#""prompt":["a","b"],"suffix":"c""#), both);
        assert_eq!(read(r#""prompt":[[1,2],[3]]"#), (vec![], 3, true));
    }

    #[test]
    fn what_nobody_knows_is_counted_as_it_stands() {
        for (endpoint, body, found) in [
            (Endpoint::Embeddings, r#"{"model":"e","messages":[{"a":1}]}"#, r#"[{"a":1}]"#),
            (Endpoint::ChatCompletions, r#"{"user":"u","system":"s","top_k":1}"#, r#""s""#),
            (Endpoint::ChatCompletions, r#"{"messages":[{"role":"r s"}]}"#, r#""r s""#),
            (Endpoint::Messages, r#"{"model":"c","prompt":"p"}"#, r#""p""#),
            (Endpoint::Messages, r#"{"messages":[{"role":"user","name":"n"}]}"#, r#""n""#),
            (Endpoint::GenerateContent, r#"{"contents":[{"role":"r"}],"model":"m"}"#, r#""r""#),
            (Endpoint::EmbedContent, r#"{"taskType":"T","text":"t"}"#, r#""t""#),
        ] {
            assert_eq!(texts(endpoint, body), [found], "{body}");
        }
        let long = format!(r#"{{"user":"{}"}}"#, "u".repeat(SETTING_BYTES_MAX));
        assert_eq!(texts(Endpoint::ChatCompletions, &long).len(), 1);
        assert!(!read(Endpoint::GenerateContent, r#"{"contents":"text"}"#).2);
    }

    #[test]
    fn what_a_provider_says_of_its_own_tools_is_counted() {
        let body = r#"{"tools":[{"type":"bash_20250124"},{"name":"n"}]}"#;
        let (_, overhead, _) = read(Endpoint::Messages, body);
        assert_eq!(overhead, CONVERSATION_TOKENS + TOOLS_TOKENS + 1_000);
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
            (Endpoint::Responses, r#"{"input":[{"content":[{"type":"input_image"}]}]}"#),
            (Endpoint::Responses, r#"{"input":[{"type":"web_search_call"}]}"#),
            (Endpoint::Responses, r#"{"input":{"type":"message"}}"#),
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
