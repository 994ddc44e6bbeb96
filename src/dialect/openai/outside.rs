//! What an OpenAI request refers to that is not in its body.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;
use crate::dialect::request::{Outside, mentions};

static REFERENCES: LazyLock<[Finder<'static>; 10]> = LazyLock::new(|| {
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
    ]
    .map(Finder::new)
});

static FILE_ID: LazyLock<[Finder<'static>; 1]> = LazyLock::new(|| [Finder::new("\"file_id\"")]);

/// Finds what the body refers to. A `file_id` is state only where the provider would look for it:
/// in a part of a message. A schema or a text may use the word.
pub fn find(body: &[u8]) -> Outside {
    let mut outside = Outside { refers: mentions(body, &*REFERENCES), state: None };
    if outside.refers && mentions(body, &*FILE_ID) {
        json::each(body, &["messages"], |messages| {
            json::elements(messages, |message| message_of(message, &mut outside));
        });
    }
    outside
}

fn message_of(message: &[u8], outside: &mut Outside) {
    let mut file = |part: &[u8]| {
        json::each(part, &["file_id"], |id| {
            if id != b"null" {
                outside.names_state("file_id");
            }
        });
    };
    json::each(message, &["content"], |content| {
        json::elements(content, |part| {
            file(part);
            json::each(part, &["file"], &mut file);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let state = state.then_some("file_id");
            assert_eq!(find(body.as_bytes()), Outside { refers, state }, "{body}");
        }
    }
}
