//! What a Gemini request refers to that is not in its body.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::external_refs::{ExternalRefs, HOSTED_CALLS_MAX, may_contain_key};
use crate::dialect::json;

/// The tools that the provider runs, each of which brings in content of its own: those that search,
/// and the others.
const SEARCHING_TOOLS: [&str; 8] = [
    "googleSearch",
    "google_search",
    "googleSearchRetrieval",
    "google_search_retrieval",
    "googleMaps",
    "google_maps",
    "enterpriseWebSearch",
    "enterprise_web_search",
];
const OTHER_TOOLS: [&str; 4] = ["urlContext", "url_context", "codeExecution", "code_execution"];

/// Tools that read what is stored at the provider.
const STORED_TOOLS: [&str; 3] = ["fileSearch", "file_search", "retrieval"];

static MEDIA: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    ["\"fileData\"", "\"file_data\"", "\"inlineData\"", "\"inline_data\""].map(Finder::new)
});

/// How deep requests stand in a request, and parts in a part: an answer of a tool has some.
const NESTING_MAX: u32 = 3;

/// Finds what the body refers to; `tools` is its field for those, `is_cached` whether it names
/// cached content, `holds_requests` whether it has other requests in it.
///
/// A file is state only where the provider would look for it, in a part of a content, and only if
/// it is kept by the provider's own file service: others are open to everybody or to nobody.
pub fn find(
    body: &[u8],
    tools: Option<&[u8]>,
    is_cached: bool,
    has_nested_requests: bool,
) -> ExternalRefs {
    let mut outside = ExternalRefs::default();
    if has_nested_requests || may_contain_key(body, &*MEDIA) {
        scan_request(body, 0, &mut outside);
    }
    scan_tools(tools.unwrap_or(b"null"), &mut outside);
    if is_cached {
        outside.add_state_ref("cachedContent");
    }
    outside
}

fn scan_tools(tools: &[u8], outside: &mut ExternalRefs) {
    json::elements(tools, |tool| {
        json::each_named(tool, &OTHER_TOOLS, |_| outside.has_external_content = true);
        json::each_named(tool, &SEARCHING_TOOLS, |_| {
            (outside.has_external_content, outside.searches) = (true, HOSTED_CALLS_MAX);
        });
        json::each_named(tool, &STORED_TOOLS, |_| outside.add_state_ref("tools"));
    });
}

fn scan_request(object: &[u8], level: u32, outside: &mut ExternalRefs) {
    if level == NESTING_MAX {
        // Nothing known nests like this.
        outside.has_external_content = true;
        return;
    }
    json::each_named(object, &["cachedContent", "cached_content"], |name| {
        if name != b"null" {
            outside.add_state_ref("cachedContent");
        }
    });
    json::each_named(object, &["tools"], |tools| scan_tools(tools, outside));
    json::each_named(
        object,
        &["contents", "content", "systemInstruction", "system_instruction"],
        |list| {
            json::elements(list, |content| scan_parts(content, 0, outside));
        },
    );
    json::each_named(
        object,
        &["requests", "generateContentRequest", "generate_content_request"],
        |requests| json::elements(requests, |one| scan_request(one, level + 1, outside)),
    );
}

fn scan_parts(holder: &[u8], level: u32, outside: &mut ExternalRefs) {
    if level == NESTING_MAX {
        outside.has_external_content = true;
        return;
    }
    json::each_named(holder, &["parts"], |list| {
        json::elements(list, |part| {
            json::each_named(part, &["fileData", "file_data"], |file| scan_file(file, outside));
            json::each_named(part, &["inlineData", "inline_data"], |media| {
                scan_media(media, outside)
            });
            json::each_named(part, &["functionResponse", "function_response"], |answer| {
                scan_parts(answer, level + 1, outside);
            });
        });
    });
}

/// Media in the body: a text has no more tokens than bytes.
fn scan_media(media: &[u8], outside: &mut ExternalRefs) {
    let mut kind = Cow::default();
    json::each_named(media, &["mimeType", "mime_type"], |said| {
        kind = json::string_of(said).unwrap_or_default();
    });
    if media != b"null" && !kind.starts_with("text/") {
        outside.add_media(&kind);
    }
}

fn scan_file(file: &[u8], outside: &mut ExternalRefs) {
    if file == b"null" {
        return;
    }
    outside.has_external_content = true;
    json::each_named(file, &["fileUri", "file_uri"], |uri| {
        let uri = json::string_of(uri).unwrap_or_default().to_ascii_lowercase();
        let is_served = uri.contains("generativelanguage.") && uri.contains("/files/");
        if is_served || uri.starts_with("files/") {
            outside.add_state_ref("fileUri");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::{IMAGE_TOKENS, ProviderStateRef};
    use crate::dialect::gemini::request::input_only;

    fn read(body: &str) -> ExternalRefs {
        // Tools cost something of their own.
        ExternalRefs {
            unseen_tokens: 0,
            searches: 0,
            ..input_only("m", body.as_bytes()).expect(body).external_refs
        }
    }

    const REFERS: ExternalRefs = ExternalRefs {
        searches: 0,
        has_external_content: true,
        state: None,
        unseen_tokens: 0,
        media_tokens: None,
        other_models: Vec::new(),
    };

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
                r#"{"generateContentRequest":{"cachedContent":"cachedContents/a"}}"#.to_owned(),
                "cachedContent",
            ),
            (r#"{"requests":[{"tools":[{"fileSearch":{}}]}]}"#.to_owned(), "tools"),
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
            let state = Some(ProviderStateRef { field: state, id: None });
            assert_eq!(read(&body), ExternalRefs { state, ..REFERS }, "{body}");
        }
        assert_eq!(read(r#"{"cachedContent":null}"#), ExternalRefs::default());
    }

    #[test]
    fn what_is_packed_into_few_bytes_is_seen() {
        let part = |kind: &str| format!(r#"{{"inlineData":{{"mimeType":"{kind}","data":"AA"}}}}"#);
        let found = |parts: &str| {
            let body = format!(r#"{{"contents":[{{"parts":[{parts}]}}]}}"#);
            input_only("m", body.as_bytes()).expect("valid").external_refs
        };
        for kind in ["video/mp4", "audio/wav", "application/pdf", ""] {
            assert_eq!(found(&part(kind)), REFERS, "{kind}");
        }
        assert_eq!(found(r#"{"inline_data":{"data":"AA"}}"#), REFERS);
        assert_eq!(found(&part("text/plain")), ExternalRefs::default());
        let image = part("IMAGE/png");
        let result = format!(r#"{image},{{"functionResponse":{{"parts":[{image}]}}}}"#);
        let expected = ExternalRefs { unseen_tokens: 2 * IMAGE_TOKENS, ..ExternalRefs::default() };
        assert_eq!(found(&result), expected);
    }

    #[test]
    fn words_that_name_nothing_are_no_reference() {
        for body in [
            r#"{"contents":[{"parts":[{"text":"\"fileData\" of googleSearch"}]}]}"#,
            r#"{"contents":[{"parts":[{"functionCall":{"args":{"fileData":{"fileUri":"files/a"}}}}]}]}"#,
            r#"{"tools":[{"functionDeclarations":[{"parameters":{"googleSearch":{"fileData":1}}}]}]}"#,
        ] {
            assert_eq!(read(body), ExternalRefs::default(), "{body}");
        }
    }
}
