//! Finds what an OpenAI request refers to outside of its body.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::call_facts::ParseError;
use crate::dialect::external_refs::{ExternalRefs, may_contain, may_contain_key};
use crate::dialect::json;

/// Substrings of which each of [`REFERENCES`] contains one, so that a body is searched five times
/// rather than eleven.
static STEMS: LazyLock<[Finder<'static>; 5]> =
    LazyLock::new(|| ["_url\"", "file_", "audio\"", "search_", "\"plugins"].map(Finder::new));

static REFERENCES: LazyLock<[Finder<'static>; 11]> = LazyLock::new(|| {
    [
        "\"image_url\"",
        "\"video_url\"",
        "\"document_url\"",
        "\"file_id\"",
        "\"file_url\"",
        "\"file_data\"",
        "\"input_audio\"",
        "\"audio\"",
        "\"web_search_options\"",
        "\"search_parameters\"",
        "\"plugins\"",
    ]
    .map(Finder::new)
});

static FILE_ID: LazyLock<[Finder<'static>; 1]> = LazyLock::new(|| [Finder::new("\"file_id\"")]);

/// Finds what a body refers to. `tools` is the value of that field; a tool that calls another model
/// is refused.
///
/// A `file_id` counts only in a part of a message, where the provider resolves it. A schema or a
/// text may contain the same word.
pub fn find(body: &[u8], tools: Option<&[u8]>) -> Result<ExternalRefs, ParseError> {
    let has_external_content = may_contain(body, &*STEMS) && may_contain_key(body, &*REFERENCES);
    let mut refs = ExternalRefs { has_external_content, ..ExternalRefs::default() };
    if refs.has_external_content && may_contain_key(body, &*FILE_ID) {
        json::each_named(body, &["messages"], |messages| {
            json::elements(messages, |message| scan_message(message, &mut refs));
        });
    }
    let mut selects_model = false;
    json::elements(tools.unwrap_or(b"null"), |tool| {
        json::each_named(tool, &["type"], |kind| {
            // Any other tool is hosted, and adds content to the input.
            let kind = json::string_of(kind);
            if !matches!(kind.as_deref(), Some("function" | "custom")) {
                refs.has_external_content = true;
                selects_model |= has_model(tool);
                json::each_named(tool, &["parameters"], |settings| {
                    selects_model |= has_model(settings);
                });
            }
        });
    });
    if selects_model { Err(ParseError::model_override("tools")) } else { Ok(refs) }
}

fn has_model(object: &[u8]) -> bool {
    let mut has_model = false;
    json::each_named(object, &["model"], |model| has_model |= model != b"null");
    has_model
}

fn scan_message(message: &[u8], refs: &mut ExternalRefs) {
    let mut scan_file = |part: &[u8]| {
        json::each_named(part, &["file_id"], |id| {
            if id != b"null" {
                refs.add_state_ref("file_id");
            }
        });
    };
    json::each_named(message, &["content"], |content| {
        json::elements(content, |part| {
            scan_file(part);
            json::each_named(part, &["file"], &mut scan_file);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::ProviderStateRef;

    #[test]
    fn hosted_tools_add_content() {
        for (tool, refers) in [
            (r#"{"type":"function","function":{"parameters":{"type":"web"}}}"#, false),
            (r#"{"function":{}}"#, false),
            (r#"{"type":"router:web_search"}"#, true),
        ] {
            let tools = format!("[{tool}]");
            let found = find(b"{}", Some(tools.as_bytes())).expect("one model");
            assert_eq!(found.has_external_content, refers, "{tool}");
        }
    }

    #[test]
    fn files_are_found_in_messages_only() {
        for (body, refers, state) in [
            (r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"f"}}]}]}"#, true, true),
            (r#"{"messages":[{"content":[{"fil\u0065":{"file\u005fid":"f"}}]}]}"#, true, true),
            (r#"{"messages":[{"content":[{"file":{"file_id":null}}]}]}"#, true, false),
            (
                r#"{"tools":[{"function":{"parameters":{"properties":{"file_id":{"type":"string"}}}}}]}"#,
                true,
                false,
            ),
            (r#"{"messages":[{"content":"send the \"file_id\""}]}"#, false, false),
            (r#"{"messages":[{"content":[{"image_url":{"url":"u"}}]}]}"#, true, false),
        ] {
            let state = state.then_some(ProviderStateRef { field: "file_id", id: None });
            let expected =
                ExternalRefs { has_external_content: refers, state, ..ExternalRefs::default() };
            assert_eq!(find(body.as_bytes(), None), Ok(expected), "{body}");
        }
    }
}
