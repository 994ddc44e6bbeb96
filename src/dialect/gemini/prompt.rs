//! Collects the texts of requests in the Gemini dialect.

use crate::dialect::json;
use crate::dialect::prompt_text::{CONVERSATION_TOKENS, MESSAGE_TOKENS, PromptText};

impl<'a> PromptText<'a> {
    /// Adds a request for content, or one that counts or embeds.
    pub fn push_content_request(&mut self, body: &'a [u8]) {
        self.overhead += CONVERSATION_TOKENS;
        self.push_contents(body, 0);
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
                json::elements(value, |request| prompt.push_contents(request, 1));
            }
            "generationConfig" | "generation_config" => {
                // The model sees nothing of the configuration but a schema.
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
