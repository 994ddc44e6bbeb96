//! What an Anthropic request refers to that is not in its body.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;
use crate::dialect::outside::{HOSTED_CALLS_MAX, Outside, TOOLS_TOKENS, may_have_value, state_id};
use crate::dialect::request::{Fields, RequestFault};

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
pub fn find(body: &[u8], container: Option<&[u8]>, tools: Option<&[u8]>) -> Outside {
    let mut outside = Outside::default();
    if may_have_value(body, &*VALUES) {
        json::each(body, &["messages"], |messages| {
            json::elements(messages, |message| {
                json::each(message, &["content"], |content| blocks(content, 0, &mut outside));
            });
        });
        json::each(body, &["system"], |system| {
            json::elements(system, |block| block_of(block, 0, &mut outside));
        });
    }
    if let Some(container) = container {
        container_of(container, &mut outside);
    }
    if let Some(tools) = tools {
        tools_of(tools, &mut outside);
    }
    outside
}

/// Adds the models that answer where the first one does not.
pub fn fallbacks_of(fallbacks: &[u8], outside: &mut Outside) -> Result<(), RequestFault> {
    let mut is_clear = fallbacks.starts_with(b"[");
    json::elements(fallbacks, |fallback| {
        let model = Fields::read(fallback, ["model"]).and_then(|fields| fields.text(0, ""));
        is_clear &= model.map(|model| outside.names_model(model)).is_ok();
    });
    if is_clear {
        return Ok(());
    }
    Err(RequestFault::about("fallbacks", "must be a list of objects with a `model`"))
}

/// A container is named by its id. Skills that are not the provider's own were stored there, too.
fn container_of(container: &[u8], outside: &mut Outside) {
    outside.refers = true;
    if container.starts_with(b"\"") {
        outside.names_state_by_id("container", container);
    }
    json::each(container, &["id"], |id| {
        if id != b"null" {
            outside.names_state_by_id("container", id);
        }
    });
    json::each(container, &["skills"], |skills| {
        json::elements(skills, |skill| {
            json::each(skill, &["type"], |kind| {
                if json::string_of(kind).is_none_or(|kind| kind != "anthropic") {
                    outside.names_state("container");
                }
            });
        });
    });
}

/// The id of the container that an answer speaks of.
pub fn container_id(container: &[u8]) -> Option<Box<str>> {
    let mut found = None;
    json::each(container, &["id"], |id| found = state_id(id));
    found
}

/// What tools cost beside the JSON that defines them, at most, in tokens.
pub fn tools_tokens(tools: &[u8]) -> u64 {
    let mut outside = Outside::default();
    tools_of(tools, &mut outside);
    outside.hidden_tokens
}

/// Adds what tools bring in and cost, and the models that they ask.
fn tools_of(tools: &[u8], outside: &mut Outside) {
    outside.hidden_tokens += TOOLS_TOKENS;
    json::elements(tools, |tool| {
        let (mut searches, mut uses) = (false, None);
        // The body was checked; what is no tool has no fields.
        let _ = json::fields(tool, |key, value| match (&*key, &tool[value]) {
            (_, b"null") | ("type", b"\"custom\"") => {}
            ("type", kind) => {
                let kind = json::string_of(kind).unwrap_or_default();
                outside.refers |= HOSTED_TOOLS.iter().any(|tool| kind.starts_with(tool));
                outside.hidden_tokens += DEFINED_TOOL_TOKENS;
                searches = kind.starts_with(HOSTED_TOOLS[0]);
            }
            ("max_uses", most) => uses = json::count_of(most),
            ("model", model) => {
                outside.names_model(json::string_of(model).unwrap_or_default().into_owned());
            }
            _ => {}
        });
        if searches {
            outside.searches += uses.unwrap_or(HOSTED_CALLS_MAX);
        }
    });
}

/// The blocks of a `content`, which may be a mere text.
fn blocks(content: &[u8], level: u32, outside: &mut Outside) {
    if !content.starts_with(b"[") {
        return;
    }
    if level == BLOCK_LEVELS_MAX {
        // Nothing known nests like this, so nobody knows what a provider makes of it.
        return outside.names_state("content");
    }
    json::elements(content, |block| block_of(block, level + 1, outside));
}

fn block_of(block: &[u8], level: u32, outside: &mut Outside) {
    // The body was checked; what is no block has no fields.
    let _ = json::fields(block, |key, value| {
        let value = &block[value];
        match &*key {
            "type" if json::string_of(value).is_some_and(|kind| kind == "container_upload") => {
                outside.names_state("file_id");
            }
            "source" => source_of(value, level, outside),
            "content" => blocks(value, level, outside),
            _ => {}
        }
    });
}

fn source_of(source: &[u8], level: u32, outside: &mut Outside) {
    let (mut is_packed, mut media_type) = (false, Cow::default());
    // As above.
    let _ = json::fields(source, |key, value| {
        let value = &source[value];
        match &*key {
            "content" => return blocks(value, level, outside),
            // It may be long, and is not looked into.
            "data" => return,
            _ => {}
        }
        match (&*key, json::string_of(value)) {
            ("type", Some(kind)) => match &*kind {
                "url" => outside.refers = true,
                "file" => outside.names_state("file_id"),
                "base64" => is_packed = true,
                _ => {}
            },
            ("file_id", Some(_)) => outside.names_state("file_id"),
            ("media_type", Some(kind)) => media_type = kind,
            _ => {}
        }
    });
    if is_packed {
        outside.adds_media(&media_type);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::anthropic::request::message;
    use crate::dialect::outside::IMAGE_TOKENS;

    fn read(rest: &str) -> Outside {
        let body = format!(r#"{{"model":"a",{rest}}}"#);
        message(body.as_bytes()).expect("valid").outside
    }

    fn said(block: &str) -> Outside {
        read(&format!(r#""messages":[{{"content":[{block}]}}]"#))
    }

    /// The field that names state, and the id by which it does.
    fn state(outside: Outside) -> Option<(&'static str, Option<String>)> {
        outside.state.map(|state| (state.field, state.id.map(String::from)))
    }

    #[test]
    fn content_that_is_elsewhere_is_seen() {
        let only_refers = Outside { refers: true, ..Outside::default() };
        let url = r#"{"type":"image","source":{"type":"url","url":"https://a/b"}}"#;
        assert_eq!(said(url), only_refers);
        assert_eq!(said(&url.replace("\"url\",", "\"\\u0075rl\",")), only_refers);
        assert_eq!(said(&format!(r#"{{"type":"tool_result","content":[{url}]}}"#)), only_refers);
        assert!(read(r#""tools":[{"type":"web_search_20250305","name":"w"}]"#).refers);
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
        assert!(said(&packed("application/pdf")).refers);
        assert!(said(r#"{"source":{"type":"base64","data":"AA=="}}"#).refers);
        let result = format!(r#"{image},{{"type":"tool_result","content":[{image}]}}"#);
        let expected = Outside { hidden_tokens: 2 * IMAGE_TOKENS, ..Outside::default() };
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
            let expected = Outside { hidden_tokens: tokens, ..Outside::default() };
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
        assert_eq!(read(r#""container":null"#), Outside::default());
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
            let found = Outside { hidden_tokens: 0, ..read(harmless) };
            assert_eq!(found, Outside::default(), "{harmless}");
        }
    }
}
