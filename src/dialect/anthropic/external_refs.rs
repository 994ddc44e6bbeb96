//! What an Anthropic request refers to that is not in its body.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::call_facts::ParseError;
use crate::dialect::external_refs::{
    ExternalRefs, HOSTED_CALLS_MAX, TOOLS_TOKENS, may_contain_value, state_id,
};
use crate::dialect::field_kinds::Model;
use crate::dialect::json;
use crate::dialect::policy_fields::policy_fields;

policy_fields! {
    struct FallbackFields from json {
        model: Model = "model",
    }
}

/// What the tools that the provider runs begin their type with: each brings in content of its own.
const HOSTED_TOOLS: [&str; 4] = ["web_search_", "web_fetch_", "code_execution_", "advisor_"];

/// The values without which nothing in the messages is elsewhere, or packed.
static VALUES: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    ["\"url\"", "\"file\"", "\"container_upload\"", "\"base64\""].map(Finder::new)
});

/// What the provider says of a tool that it defines and the client runs, at most, in tokens.
const DEFINED_TOOL_TOKENS: u64 = 1_000;

/// How deep blocks stand in blocks: a result of a tool, in it a document, in it an image.
const BLOCK_LEVELS_MAX: u32 = 4;

/// Finds what the body refers to; `container` and `tools` are its own fields for those.
///
/// A file is state only where the provider would look for it: as the source of a block. A schema
/// or a text may use the word.
pub fn find(body: &[u8], container: Option<&[u8]>, tools: Option<&[u8]>) -> ExternalRefs {
    let mut outside = ExternalRefs::default();
    if may_contain_value(body, &*VALUES) {
        json::each_named(body, &["messages"], |messages| {
            json::elements(messages, |message| {
                json::each_named(message, &["content"], |content| {
                    scan_blocks(content, 0, &mut outside)
                });
            });
        });
        json::each_named(body, &["system"], |system| {
            json::elements(system, |block| scan_block(block, 0, &mut outside));
        });
    }
    if let Some(container) = container {
        scan_container(container, &mut outside);
    }
    if let Some(tools) = tools {
        scan_tools(tools, &mut outside);
    }
    outside
}

/// Adds the models that answer where the first one does not.
pub fn add_fallbacks(fallbacks: &[u8], outside: &mut ExternalRefs) -> Result<(), ParseError> {
    let mut is_clear = fallbacks.starts_with(b"[");
    json::elements(fallbacks, |fallback| {
        let model = FallbackFields::from_json(fallback).and_then(|fields| fields.model().name());
        is_clear &= model.map(|model| outside.add_model(model)).is_ok();
    });
    if is_clear {
        return Ok(());
    }
    Err(ParseError::for_field("fallbacks", "must be a list of objects with a `model`"))
}

/// A container is named by its id. Skills that are not the provider's own were stored there, too.
fn scan_container(container: &[u8], outside: &mut ExternalRefs) {
    outside.has_external_content = true;
    if container.starts_with(b"\"") {
        outside.add_state_ref_by_id("container", container);
    }
    json::each_named(container, &["id"], |id| {
        if id != b"null" {
            outside.add_state_ref_by_id("container", id);
        }
    });
    json::each_named(container, &["skills"], |skills| {
        json::elements(skills, |skill| {
            json::each_named(skill, &["type"], |kind| {
                if json::string_of(kind).is_none_or(|kind| kind != "anthropic") {
                    outside.add_state_ref("container");
                }
            });
        });
    });
}

/// The id of the container that an answer speaks of.
pub fn container_id(container: &[u8]) -> Option<Box<str>> {
    let mut found = None;
    json::each_named(container, &["id"], |id| found = state_id(id));
    found
}

/// What tools cost beside the JSON that defines them, at most, in tokens.
pub fn tool_overhead_tokens(tools: &[u8]) -> u64 {
    let mut outside = ExternalRefs::default();
    scan_tools(tools, &mut outside);
    outside.unseen_tokens
}

/// Adds what tools bring in and cost, and the models that they ask.
fn scan_tools(tools: &[u8], outside: &mut ExternalRefs) {
    outside.unseen_tokens += TOOLS_TOKENS;
    json::elements(tools, |tool| {
        let (mut searches, mut uses) = (false, None);
        // The body was checked; what is no tool has no fields.
        let _ = json::fields(tool, |key, value| match (&*key, &tool[value]) {
            (_, b"null") | ("type", b"\"custom\"") => {}
            ("type", kind) => {
                let kind = json::string_of(kind).unwrap_or_default();
                outside.has_external_content |=
                    HOSTED_TOOLS.iter().any(|tool| kind.starts_with(tool));
                outside.unseen_tokens += DEFINED_TOOL_TOKENS;
                searches = kind.starts_with(HOSTED_TOOLS[0]);
            }
            ("max_uses", most) => uses = json::count_of(most),
            ("model", model) => {
                outside.add_model(json::string_of(model).unwrap_or_default().into_owned());
            }
            _ => {}
        });
        if searches {
            outside.searches += uses.unwrap_or(HOSTED_CALLS_MAX);
        }
    });
}

/// The blocks of a `content`, which may be a mere text.
fn scan_blocks(content: &[u8], level: u32, outside: &mut ExternalRefs) {
    if !content.starts_with(b"[") {
        return;
    }
    if level == BLOCK_LEVELS_MAX {
        // Nothing known nests like this, so nobody knows what a provider makes of it.
        return outside.add_state_ref("content");
    }
    json::elements(content, |block| scan_block(block, level + 1, outside));
}

fn scan_block(block: &[u8], level: u32, outside: &mut ExternalRefs) {
    // The body was checked; what is no block has no fields.
    let _ = json::fields(block, |key, value| {
        let value = &block[value];
        match &*key {
            "type" if json::string_of(value).is_some_and(|kind| kind == "container_upload") => {
                outside.add_state_ref("file_id");
            }
            "source" => scan_source(value, level, outside),
            "content" => scan_blocks(value, level, outside),
            _ => {}
        }
    });
}

fn scan_source(source: &[u8], level: u32, outside: &mut ExternalRefs) {
    let (mut is_packed, mut media_type) = (false, Cow::default());
    // As above.
    let _ = json::fields(source, |key, value| {
        let value = &source[value];
        match &*key {
            "content" => return scan_blocks(value, level, outside),
            // It may be long, and is not looked into.
            "data" => return,
            _ => {}
        }
        match (&*key, json::string_of(value)) {
            ("type", Some(kind)) => match &*kind {
                "url" => outside.has_external_content = true,
                "file" => outside.add_state_ref("file_id"),
                "base64" => is_packed = true,
                _ => {}
            },
            ("file_id", Some(_)) => outside.add_state_ref("file_id"),
            ("media_type", Some(kind)) => media_type = kind,
            _ => {}
        }
    });
    if is_packed {
        outside.add_media(&media_type);
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

    fn said(block: &str) -> ExternalRefs {
        read(&format!(r#""messages":[{{"content":[{block}]}}]"#))
    }

    /// The field that names state, and the id by which it does.
    fn state(outside: ExternalRefs) -> Option<(&'static str, Option<String>)> {
        outside.state.map(|state| (state.field, state.id.map(String::from)))
    }

    #[test]
    fn content_that_is_elsewhere_is_seen() {
        let only_refers = ExternalRefs { has_external_content: true, ..ExternalRefs::default() };
        let url = r#"{"type":"image","source":{"type":"url","url":"https://a/b"}}"#;
        assert_eq!(said(url), only_refers);
        assert_eq!(said(&url.replace("\"url\",", "\"\\u0075rl\",")), only_refers);
        assert_eq!(said(&format!(r#"{{"type":"tool_result","content":[{url}]}}"#)), only_refers);
        assert!(
            read(r#""tools":[{"type":"web_search_20250305","name":"w"}]"#).has_external_content
        );
        assert_eq!(read(r#""mcp_servers":[{"type":"url","url":"https://a"}]"#), only_refers);
        assert_eq!(read(r#""container":{"skills":[]}"#), only_refers);
        let public = r#""container":{"id":null,"skills":[{"type":"anthropic","skill_id":"pdf"}]}"#;
        assert_eq!(read(public), only_refers);
    }

    #[test]
    fn what_is_packed_into_few_bytes_is_seen() {
        let packed = |kind: &str| {
            format!(r#"{{"source":{{"type":"base64","media_type":"{kind}","data":"AA=="}}}}"#)
        };
        let image = packed("image/png");
        assert!(said(&packed("application/pdf")).has_external_content);
        assert!(said(r#"{"source":{"type":"base64","data":"AA=="}}"#).has_external_content);
        let result = format!(r#"{image},{{"type":"tool_result","content":[{image}]}}"#);
        let expected = ExternalRefs { unseen_tokens: 2 * IMAGE_TOKENS, ..ExternalRefs::default() };
        assert_eq!(said(&result), expected);
    }

    #[test]
    fn tools_cost_what_no_byte_shows() {
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
    fn state_kept_at_the_provider_is_named() {
        let file = r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#;
        let file_id = Some(("file_id", None));
        assert_eq!(state(said(file)), file_id);
        assert_eq!(state(said(&format!(r#"{{"content":[{file}]}}"#))), file_id);
        let upload = r#"{"type":"container_upload","file_id":"f"}"#;
        assert_eq!(state(said(upload)), file_id);
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
        assert_eq!(state(said(&deep)), Some(("content", None)));
    }

    #[test]
    fn words_that_name_nothing_are_no_reference() {
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
