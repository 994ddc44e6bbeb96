//! Collects the texts of a request, whose tokens bound its input more tightly than its bytes.

use crate::dialect::endpoint::Endpoint;
use crate::dialect::prompt_text::PromptText;

/// The longest body that is read. The bytes of a longer one remain its bound, so that no client can
/// keep a worker busy with counting.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Returns the prompt of a request that was parsed successfully.
pub fn extract(endpoint: Endpoint, body: &[u8]) -> PromptText<'_> {
    match endpoint.spec().add_prompt.filter(|_| body.len() <= BODY_BYTES_MAX) {
        Some(add_prompt) => {
            let mut prompt = PromptText { is_text_only: true, ..PromptText::default() };
            add_prompt(&mut prompt, body);
            prompt
        }
        None => PromptText::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::dialect::external_refs::TOOLS_TOKENS;
    use crate::dialect::prompt_text::{CONVERSATION_TOKENS, SETTING_BYTES_MAX};

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
    fn a_chat_is_its_texts_and_an_exact_overhead() {
        let body = r#"{"model":"gpt-4o","messages":[{"role":"system","content":"be \"brief\""},
            {"role":"user","name":"ann","content":[{"type":"text","text":"hi"}]},
            {"role":"assistant","content":null}],"stop":["x"],"stream_options":{"a":1}}"#;
        let (texts, overhead, is_text) = read(Endpoint::ChatCompletions, body);
        assert_eq!(texts, ["be \"brief\"", "ann", "hi"]);
        assert_eq!((overhead, is_text), (3 + 3 * 4 + 1, true));
    }

    #[test]
    fn tools_and_formats_are_counted_as_json() {
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
    fn a_completion_is_its_prompts_and_its_suffix() {
        let read = |rest: &str| read(Endpoint::Completions, &format!(r#"{{"model":"m",{rest}}}"#));
        assert_eq!(read(r#""prompt":"a","stop":["x"]"#), (vec!["a".to_owned()], 0, true));
        let both = (vec!["a".to_owned(), "b".to_owned(), r#""c""#.to_owned()], 0, true);
        assert_eq!(read(r#""prompt":["a","b"],"suffix":"c""#), both);
        assert_eq!(read(r#""prompt":[[1,2],[3]]"#), (vec![], 3, true));
    }

    #[test]
    fn unknown_fields_are_counted_as_json() {
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
    fn definitions_of_hosted_tools_are_counted() {
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
    fn media_and_long_bodies_are_not_text() {
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
