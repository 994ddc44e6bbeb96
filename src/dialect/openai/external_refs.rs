//! What an OpenAI request refers to that is not in its body.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::call_facts::ParseError;
use crate::dialect::external_refs::{ExternalRefs, may_contain, may_contain_key};
use crate::dialect::json;

/// A part of each of those words: a body without any of these few has none of them.
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

/// Finds what the body refers to; `tools` is its own field for those. A tool that asks another
/// model is refused.
///
/// A `file_id` is state only where the provider would look for it: in a part of a message. A schema
/// or a text may use the word.
pub fn find(body: &[u8], tools: Option<&[u8]>) -> Result<ExternalRefs, ParseError> {
    let refers = may_contain(body, &*STEMS) && may_contain_key(body, &*REFERENCES);
    let mut outside = ExternalRefs { has_external_content: refers, ..ExternalRefs::default() };
    if outside.has_external_content && may_contain_key(body, &*FILE_ID) {
        json::each_named(body, &["messages"], |messages| {
            json::elements(messages, |message| scan_message(message, &mut outside));
        });
    }
    let mut asks_another = false;
    json::elements(tools.unwrap_or(b"null"), |tool| {
        json::each_named(tool, &["type"], |kind| {
            // Any other is run by the provider, and brings in content of its own.
            let kind = json::string_of(kind);
            if !matches!(kind.as_deref(), Some("function" | "custom")) {
                outside.has_external_content = true;
                asks_another |= has_model(tool);
                json::each_named(tool, &["parameters"], |settings| {
                    asks_another |= has_model(settings)
                });
            }
        });
    });
    if asks_another { Err(ParseError::model_override("tools")) } else { Ok(outside) }
}

fn has_model(object: &[u8]) -> bool {
    let mut names = false;
    json::each_named(object, &["model"], |model| names |= model != b"null");
    names
}

fn scan_message(message: &[u8], outside: &mut ExternalRefs) {
    let mut file = |part: &[u8]| {
        json::each_named(part, &["file_id"], |id| {
            if id != b"null" {
                outside.add_state_ref("file_id");
            }
        });
    };
    json::each_named(message, &["content"], |content| {
        json::elements(content, |part| {
            file(part);
            json::each_named(part, &["file"], &mut file);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::ProviderStateRef;

    #[test]
    fn tools_of_the_provider_bring_in_content() {
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
    fn state_is_found_where_it_is_used_and_nowhere_else() {
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
