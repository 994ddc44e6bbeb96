//! Finds what an Anthropic request refers to outside of its body.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::call_facts::ParseError;
use crate::dialect::external_refs::{
    ExternalRefs, HOSTED_CALLS_MAX, TOOLS_TOKENS, may_contain_value, state_id,
};
use crate::dialect::field_kinds::ModelName;
use crate::dialect::json;
use crate::dialect::policy_fields::policy_fields;

policy_fields! {
    struct FallbackFields from json {
        model: ModelName = "model",
    }
}

/// Prefixes of the types of hosted tools, each of which adds content to the input.
const HOSTED_TOOLS: [&str; 4] = ["web_search_", "web_fetch_", "code_execution_", "advisor_"];

/// Values of which one is present in any message with stored, linked or compressed content.
static VALUES: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    ["\"url\"", "\"file\"", "\"container_upload\"", "\"base64\""].map(Finder::new)
});

/// Maximum tokens of the provider's definition of a tool that the client runs.
const DEFINED_TOOL_TOKENS: u64 = 1_000;

/// Maximum nesting of blocks: a tool result, a document in it, an image in that.
const BLOCK_LEVELS_MAX: u32 = 4;

/// Finds what a body refers to. `container` and `tools` are the values of these fields.
///
/// A file counts only as the source of a block, where the provider resolves it. A schema or a text
/// may contain the same words.
pub fn find(body: &[u8], container: Option<&[u8]>, tools: Option<&[u8]>) -> ExternalRefs {
    let mut refs = ExternalRefs::default();
    if may_contain_value(body, &*VALUES) {
        json::each_named(body, &["messages"], |messages| {
            json::elements(messages, |message| {
                json::each_named(message, &["content"], |content| {
                    scan_blocks(content, 0, &mut refs);
                });
            });
        });
        json::each_named(body, &["system"], |system| {
            json::elements(system, |block| scan_block(block, 0, &mut refs));
        });
    }
    if let Some(container) = container {
        scan_container(container, &mut refs);
    }
    if let Some(tools) = tools {
        scan_tools(tools, &mut refs);
    }
    refs
}

/// Adds the models of `fallbacks`, which respond if the first model does not.
pub fn add_fallbacks(fallbacks: &[u8], refs: &mut ExternalRefs) -> Result<(), ParseError> {
    let mut is_valid = fallbacks.starts_with(b"[");
    json::elements(fallbacks, |fallback| {
        let model = FallbackFields::from_json(fallback).and_then(|fields| fields.model().name());
        is_valid &= model.map(|model| refs.add_model(model)).is_ok();
    });
    if is_valid {
        return Ok(());
    }
    Err(ParseError::for_field("fallbacks", "must be an array of objects, each with a `model`"))
}

/// Adds a container, which is referred to by its id, and the skills in it that a client stored.
fn scan_container(container: &[u8], refs: &mut ExternalRefs) {
    refs.has_external_content = true;
    if container.starts_with(b"\"") {
        refs.add_state_ref_by_id("container", container);
    }
    json::each_named(container, &["id"], |id| {
        if id != b"null" {
            refs.add_state_ref_by_id("container", id);
        }
    });
    json::each_named(container, &["skills"], |skills| {
        json::elements(skills, |skill| {
            json::each_named(skill, &["type"], |kind| {
                if json::string_of(kind).is_none_or(|kind| kind != "anthropic") {
                    refs.add_state_ref("container");
                }
            });
        });
    });
}

/// Returns the id of the container in a response.
pub fn container_id(container: &[u8]) -> Option<Box<str>> {
    let mut found = None;
    json::each_named(container, &["id"], |id| found = state_id(id));
    found
}

/// Returns the maximum tokens of tools in addition to the JSON that defines them.
pub fn tool_overhead_tokens(tools: &[u8]) -> u64 {
    let mut refs = ExternalRefs::default();
    scan_tools(tools, &mut refs);
    refs.unseen_tokens
}

/// Adds the content and tokens that tools add, and the models that they call.
fn scan_tools(tools: &[u8], refs: &mut ExternalRefs) {
    refs.unseen_tokens += TOOLS_TOKENS;
    json::elements(tools, |tool| {
        let (mut is_search, mut max_uses) = (false, None);
        // The body is valid JSON, so this fails only for a value that is not an object.
        let _ = json::fields(tool, |key, value| match (&*key, &tool[value]) {
            (_, b"null") | ("type", b"\"custom\"") => {}
            ("type", kind) => {
                let kind = json::string_of(kind).unwrap_or_default();
                refs.has_external_content |= HOSTED_TOOLS.iter().any(|tool| kind.starts_with(tool));
                refs.unseen_tokens += DEFINED_TOOL_TOKENS;
                is_search = kind.starts_with(HOSTED_TOOLS[0]);
            }
            ("max_uses", value) => max_uses = json::count_of(value),
            ("model", model) => {
                refs.add_model(json::string_of(model).unwrap_or_default().into_owned());
            }
            _ => {}
        });
        if is_search {
            refs.searches += max_uses.unwrap_or(HOSTED_CALLS_MAX);
        }
    });
}

/// Scans the blocks of a `content`, which may be a string instead.
fn scan_blocks(content: &[u8], level: u32, refs: &mut ExternalRefs) {
    if !content.starts_with(b"[") {
        return;
    }
    if level == BLOCK_LEVELS_MAX {
        // No regular request nests so deep, so how the provider reads this is unknown.
        return refs.add_state_ref("content");
    }
    json::elements(content, |block| scan_block(block, level + 1, refs));
}

fn scan_block(block: &[u8], level: u32, refs: &mut ExternalRefs) {
    // The body is valid JSON, so this fails only for a value that is not an object.
    let _ = json::fields(block, |key, value| {
        let value = &block[value];
        match &*key {
            "type" if json::string_of(value).is_some_and(|kind| kind == "container_upload") => {
                refs.add_state_ref("file_id");
            }
            "source" => scan_source(value, level, refs),
            "content" => scan_blocks(value, level, refs),
            _ => {}
        }
    });
}

fn scan_source(source: &[u8], level: u32, refs: &mut ExternalRefs) {
    let (mut is_base64, mut media_type) = (false, Cow::default());
    // The body is valid JSON, so this fails only for a value that is not an object.
    let _ = json::fields(source, |key, value| {
        let value = &source[value];
        match &*key {
            "content" => return scan_blocks(value, level, refs),
            // The data of a file, which may be long.
            "data" => return,
            _ => {}
        }
        match (&*key, json::string_of(value)) {
            ("type", Some(kind)) => match &*kind {
                "url" => refs.has_external_content = true,
                "file" => refs.add_state_ref("file_id"),
                "base64" => is_base64 = true,
                _ => {}
            },
            ("file_id", Some(_)) => refs.add_state_ref("file_id"),
            ("media_type", Some(kind)) => media_type = kind,
            _ => {}
        }
    });
    if is_base64 {
        refs.add_media(&media_type);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::anthropic::request::message;
    use crate::dialect::external_refs::IMAGE_TOKENS;

    fn read(rest: &str) -> ExternalRefs {
        let body = format!(r#"{{"model":"a",{rest}}}"#);
        message(body.as_bytes()).expect("valid").external_refs
    }

    fn of_block(block: &str) -> ExternalRefs {
        read(&format!(r#""messages":[{{"content":[{block}]}}]"#))
    }

    /// Returns the field and the id of the reference.
    fn state(refs: ExternalRefs) -> Option<(&'static str, Option<String>)> {
        refs.state.map(|state| (state.field, state.id.map(String::from)))
    }

    #[test]
    fn external_content_is_found() {
        let external_only = ExternalRefs { has_external_content: true, ..ExternalRefs::default() };
        let url = r#"{"type":"image","source":{"type":"url","url":"https://a/b"}}"#;
        assert_eq!(of_block(url), external_only);
        assert_eq!(of_block(&url.replace("\"url\",", "\"\\u0075rl\",")), external_only);
        assert_eq!(
            of_block(&format!(r#"{{"type":"tool_result","content":[{url}]}}"#)),
            external_only
        );
        assert!(
            read(r#""tools":[{"type":"web_search_20250305","name":"w"}]"#).has_external_content
        );
        assert_eq!(read(r#""mcp_servers":[{"type":"url","url":"https://a"}]"#), external_only);
        assert_eq!(read(r#""container":{"skills":[]}"#), external_only);
        let public = r#""container":{"id":null,"skills":[{"type":"anthropic","skill_id":"pdf"}]}"#;
        assert_eq!(read(public), external_only);
    }

    #[test]
    fn base64_media_are_found() {
        let packed = |kind: &str| {
            format!(r#"{{"source":{{"type":"base64","media_type":"{kind}","data":"AA=="}}}}"#)
        };
        let image = packed("image/png");
        assert!(of_block(&packed("application/pdf")).has_external_content);
        assert!(of_block(r#"{"source":{"type":"base64","data":"AA=="}}"#).has_external_content);
        let result = format!(r#"{image},{{"type":"tool_result","content":[{image}]}}"#);
        let expected = ExternalRefs { unseen_tokens: 2 * IMAGE_TOKENS, ..ExternalRefs::default() };
        assert_eq!(of_block(&result), expected);
    }

    #[test]
    fn tools_add_unseen_tokens() {
        for (tools, tokens) in [
            ("[ ]", 0),
            ("null", 0),
            (r#"[{"name":"t"},{"type":"custom"},{"type":null}]"#, TOOLS_TOKENS),
            (r#"[{"type":"bash_20250124"},{"type":"computer_20250124"}]"#, TOOLS_TOKENS + 2_000),
        ] {
            let expected = ExternalRefs { unseen_tokens: tokens, ..ExternalRefs::default() };
            assert_eq!(read(&format!(r#""tools":{tools}"#)), expected, "{tools}");
        }
    }

    #[test]
    fn references_to_stored_objects_are_found() {
        let file = r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#;
        let file_id = Some(("file_id", None));
        assert_eq!(state(of_block(file)), file_id);
        assert_eq!(state(of_block(&format!(r#"{{"content":[{file}]}}"#))), file_id);
        let upload = r#"{"type":"container_upload","file_id":"f"}"#;
        assert_eq!(state(of_block(upload)), file_id);
        let container = |id: Option<&str>| Some(("container", id.map(str::to_owned)));
        assert_eq!(state(read(r#""container":"c""#)), container(Some("c")));
        assert_eq!(state(read(r#""container":{"id":"c"}"#)), container(Some("c")));
        for several in [
            r#""container":{"id":"c","id":"d"}"#.to_owned(),
            r#""container":{"id":"c","skills":[{"type":"custom","skill_id":"s"}]}"#.to_owned(),
            r#""container":{"id":7}"#.to_owned(),
            format!(r#""container":"c","messages":[{{"content":[{file}]}}]"#),
        ] {
            assert_eq!(state(read(&several)), container(None), "{several}");
        }
        assert_eq!(read(r#""container":null"#), ExternalRefs::default());
        let mut deep = file.to_owned();
        for _ in 0..5 {
            deep = format!(r#"{{"content":[{deep}]}}"#);
        }
        assert_eq!(state(of_block(&deep)), Some(("content", None)));
    }

    #[test]
    fn the_same_words_elsewhere_are_no_reference() {
        for harmless in [
            r#""tools":[{"name":"t","input_schema":{"properties":{"file_id":{"type":"file"}}}}]"#,
            r#""messages":[{"content":"the \"file\" of type \"url\""}]"#,
            r#""messages":[{"content":[{"type":"tool_use","input":{"source":{"type":"file"}}}]}]"#,
        ] {
            let found = ExternalRefs { unseen_tokens: 0, ..read(harmless) };
            assert_eq!(found, ExternalRefs::default(), "{harmless}");
        }
    }
}
