//! Collects the texts of requests in the Anthropic dialect.

use crate::dialect::anthropic::external_refs::tool_overhead_tokens;
use crate::dialect::json;
use crate::dialect::prompt_text::{CONVERSATION_TOKENS, MESSAGE_TOKENS, PromptText, type_of};

/// Tokens that Anthropic adds for thinking and for a structured output.
const MODE_TOKENS: u64 = 230;

impl<'a> PromptText<'a> {
    /// Adds a request for a message.
    pub fn push_message(&mut self, body: &'a [u8]) {
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
                prompt.overhead += MODE_TOKENS;
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
                json::each_named(block, &["data"], |data| self.push_opaque(data));
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
}
