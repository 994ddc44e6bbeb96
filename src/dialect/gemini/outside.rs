//! What a Gemini request refers to that is not in its body.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;
use crate::dialect::request::{Outside, may_have_key};

/// The tools that the provider runs: each brings in content of its own.
const HOSTED_TOOLS: [&str; 12] = [
    "googleSearch",
    "google_search",
    "googleSearchRetrieval",
    "google_search_retrieval",
    "googleMaps",
    "google_maps",
    "enterpriseWebSearch",
    "enterprise_web_search",
    "urlContext",
    "url_context",
    "codeExecution",
    "code_execution",
];

/// Tools that read what is stored at the provider.
const STORED_TOOLS: [&str; 3] = ["fileSearch", "file_search", "retrieval"];

static FILES: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["\"fileData\"", "\"file_data\""].map(Finder::new));

/// How deep requests stand in a request, and parts in a part: an answer of a tool has some.
const LEVELS_MAX: u32 = 3;

/// Finds what the body refers to; `tools` is its field for those, `is_cached` whether it names
/// cached content.
///
/// A file is state only where the provider would look for it, in a part of a content, and only if
/// it is kept by the provider's own file service: others are open to everybody or to nobody.
pub fn find(body: &[u8], tools: Option<&[u8]>, is_cached: bool) -> Outside {
    let mut outside = Outside::default();
    if may_have_key(body, &*FILES) {
        request(body, 0, &mut outside);
    }
    json::elements(tools.unwrap_or(b"null"), |tool| {
        json::each(tool, &HOSTED_TOOLS, |_| outside.refers = true);
        json::each(tool, &STORED_TOOLS, |_| outside.names_state("tools"));
    });
    if is_cached {
        outside.names_state("cachedContent");
    }
    outside
}

fn request(object: &[u8], level: u32, outside: &mut Outside) {
    if level == LEVELS_MAX {
        return;
    }
    json::each(
        object,
        &["contents", "content", "systemInstruction", "system_instruction"],
        |list| {
            json::elements(list, |content| parts(content, 0, outside));
        },
    );
    json::each(
        object,
        &["requests", "generateContentRequest", "generate_content_request"],
        |requests| json::elements(requests, |one| request(one, level + 1, outside)),
    );
}

fn parts(holder: &[u8], level: u32, outside: &mut Outside) {
    if level == LEVELS_MAX {
        return;
    }
    json::each(holder, &["parts"], |list| {
        json::elements(list, |part| {
            json::each(part, &["fileData", "file_data"], |file| file_of(file, outside));
            json::each(part, &["functionResponse", "function_response"], |answer| {
                parts(answer, level + 1, outside);
            });
        });
    });
}

fn file_of(file: &[u8], outside: &mut Outside) {
    if file == b"null" {
        return;
    }
    outside.refers = true;
    json::each(file, &["fileUri", "file_uri"], |uri| {
        let uri = json::string_of(uri).unwrap_or_default().to_ascii_lowercase();
        let is_served = uri.contains("generativelanguage.") && uri.contains("/files/");
        if is_served || uri.starts_with("files/") {
            outside.names_state("fileUri");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::gemini::request::input_only;
    use crate::dialect::request::State;

    fn read(body: &str) -> Outside {
        let request = input_only("m", body.as_bytes()).expect(body);
        Outside { refers: request.refers, state: request.state }
    }

    const REFERS: Outside = Outside { refers: true, state: None };

    #[test]
    fn content_that_is_elsewhere_is_seen() {
        for body in [
            r#"{"contents":[{"parts":[{"fileData":{"fileUri":"https://youtu.be/files"}}]}]}"#,
            r#"{"contents":{"parts":{"file_data":{"file_uri":"https://a"}}}}"#,
            r#"{"content":{"parts":[{"fil\u0065Data":{"fileUri":"https://a"}}]}}"#,
            r#"{"tools":[{"googleSearch":{}}]}"#,
            r#"{"tools":{"google_search":{}}}"#,
            r#"{"tools":[{"functionDeclarations":[]},{"url_context":{}}]}"#,
            r#"{"tools":[{"codeExecution":{}}]}"#,
        ] {
            assert_eq!(read(body), REFERS, "{body}");
        }
    }

    #[test]
    fn state_kept_at_the_provider_is_named() {
        let file = "https://generativelanguage.googleapis.com/v1beta/files/abc";
        for (body, state) in [
            (r#"{"cachedContent":"cachedContents/a"}"#.to_owned(), "cachedContent"),
            (r#"{"cached_content":"cachedContents/a"}"#.to_owned(), "cachedContent"),
            (r#"{"tools":[{"fileSearch":{"fileSearchStoreNames":[]}}]}"#.to_owned(), "tools"),
            (
                format!(r#"{{"contents":[{{"parts":[{{"fileData":{{"fileUri":"{file}"}}}}]}}]}}"#),
                "fileUri",
            ),
            (
                r#"{"requests":[{"content":{"parts":[{"file_data":{"file_uri":"files/a"}}]}}]}"#
                    .to_owned(),
                "fileUri",
            ),
            (
                r#"{"contents":[{"parts":[{"functionResponse":{"parts":[
                   {"fileData":{"fileUri":"files/a"}}]}}]}]}"#
                    .to_owned(),
                "fileUri",
            ),
        ] {
            let state = Some(State { field: state, id: None });
            assert_eq!(read(&body), Outside { refers: true, state }, "{body}");
        }
        assert_eq!(read(r#"{"cachedContent":null}"#), Outside::default());
    }

    #[test]
    fn words_that_name_nothing_are_no_reference() {
        for body in [
            r#"{"contents":[{"parts":[{"text":"\"fileData\" of googleSearch"}]}]}"#,
            r#"{"contents":[{"parts":[{"functionCall":{"args":{"fileData":{"fileUri":"files/a"}}}}]}]}"#,
            r#"{"tools":[{"functionDeclarations":[{"parameters":{"googleSearch":{"fileData":1}}}]}]}"#,
        ] {
            assert_eq!(read(body), Outside::default(), "{body}");
        }
    }
}
