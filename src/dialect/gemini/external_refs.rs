//! Finds what a Gemini request refers to outside of its body.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::external_refs::{ExternalRefs, HOSTED_CALLS_MAX, may_contain_key};
use crate::dialect::json;

/// Hosted tools that search. Each hosted tool adds content to the input.
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

/// Hosted tools that read stored objects.
const STORED_TOOLS: [&str; 3] = ["fileSearch", "file_search", "retrieval"];

static MEDIA: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    ["\"fileData\"", "\"file_data\"", "\"inlineData\"", "\"inline_data\""].map(Finder::new)
});

/// Maximum nesting of requests in a request, and of parts in a part such as a function response.
const NESTING_MAX: u32 = 3;

/// Finds what a body refers to. `tools` is the value of that field, `is_cached` whether the body
/// names cached content, `has_nested_requests` whether it contains other requests.
///
/// A file counts only in a part of a content, where the provider resolves it, and only if the file
/// service of the provider stores it: any other URI is public, or not accessible at all.
pub fn find(
    body: &[u8],
    tools: Option<&[u8]>,
    is_cached: bool,
    has_nested_requests: bool,
) -> ExternalRefs {
    let mut refs = ExternalRefs::default();
    if has_nested_requests || may_contain_key(body, &*MEDIA) {
        scan_request(body, 0, &mut refs);
    }
    scan_tools(tools.unwrap_or(b"null"), &mut refs);
    if is_cached {
        refs.add_state_ref("cachedContent");
    }
    refs
}

fn scan_tools(tools: &[u8], refs: &mut ExternalRefs) {
    json::elements(tools, |tool| {
        json::each_named(tool, &OTHER_TOOLS, |_| refs.has_external_content = true);
        json::each_named(tool, &SEARCHING_TOOLS, |_| {
            (refs.has_external_content, refs.searches) = (true, HOSTED_CALLS_MAX);
        });
        json::each_named(tool, &STORED_TOOLS, |_| refs.add_state_ref("tools"));
    });
}

fn scan_request(object: &[u8], level: u32, refs: &mut ExternalRefs) {
    if level == NESTING_MAX {
        // No regular request nests so deep.
        refs.has_external_content = true;
        return;
    }
    json::each_named(object, &["cachedContent", "cached_content"], |name| {
        if name != b"null" {
            refs.add_state_ref("cachedContent");
        }
    });
    json::each_named(object, &["tools"], |tools| scan_tools(tools, refs));
    json::each_named(
        object,
        &["contents", "content", "systemInstruction", "system_instruction"],
        |list| {
            json::elements(list, |content| scan_parts(content, 0, refs));
        },
    );
    json::each_named(
        object,
        &["requests", "generateContentRequest", "generate_content_request"],
        |requests| {
            json::elements(requests, |request| scan_request(request, level + 1, refs));
        },
    );
}

fn scan_parts(object: &[u8], level: u32, refs: &mut ExternalRefs) {
    if level == NESTING_MAX {
        refs.has_external_content = true;
        return;
    }
    json::each_named(object, &["parts"], |list| {
        json::elements(list, |part| {
            json::each_named(part, &["fileData", "file_data"], |file| scan_file(file, refs));
            json::each_named(part, &["inlineData", "inline_data"], |media| scan_media(media, refs));
            json::each_named(part, &["functionResponse", "function_response"], |response| {
                scan_parts(response, level + 1, refs);
            });
        });
    });
}

/// Adds media in the body. Text has at most one token per byte, so it adds nothing.
fn scan_media(media: &[u8], refs: &mut ExternalRefs) {
    let mut media_type = Cow::default();
    json::each_named(media, &["mimeType", "mime_type"], |value| {
        media_type = json::string_of(value).unwrap_or_default();
    });
    if media != b"null" && !media_type.starts_with("text/") {
        refs.add_media(&media_type);
    }
}

fn scan_file(file: &[u8], refs: &mut ExternalRefs) {
    if file == b"null" {
        return;
    }
    refs.has_external_content = true;
    json::each_named(file, &["fileUri", "file_uri"], |uri| {
        let uri = json::string_of(uri).unwrap_or_default().to_ascii_lowercase();
        let is_stored = uri.contains("generativelanguage.") && uri.contains("/files/");
        if is_stored || uri.starts_with("files/") {
            refs.add_state_ref("fileUri");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::external_refs::{IMAGE_TOKENS, ProviderStateRef};
    use crate::dialect::gemini::request::input_only;

    fn read(body: &str) -> ExternalRefs {
        // Tools add tokens and searches.
        ExternalRefs {
            unseen_tokens: 0,
            searches: 0,
            ..input_only("m", body.as_bytes()).expect(body).external_refs
        }
    }

    const EXTERNAL: ExternalRefs = ExternalRefs {
        searches: 0,
        has_external_content: true,
        state: None,
        unseen_tokens: 0,
        media_tokens: None,
        other_models: Vec::new(),
    };

    #[test]
    fn external_content_is_found() {
        for body in [
            r#"{"contents":[{"parts":[{"fileData":{"fileUri":"https://youtu.be/files"}}]}]}"#,
            r#"{"contents":{"parts":{"file_data":{"file_uri":"https://a"}}}}"#,
            r#"{"content":{"parts":[{"fil\u0065Data":{"fileUri":"https://a"}}]}}"#,
            r#"{"tools":[{"googleSearch":{}}]}"#,
            r#"{"tools":{"google_search":{}}}"#,
            r#"{"tools":[{"functionDeclarations":[]},{"url_context":{}}]}"#,
            r#"{"tools":[{"codeExecution":{}}]}"#,
        ] {
            assert_eq!(read(body), EXTERNAL, "{body}");
        }
    }

    #[test]
    fn references_to_stored_objects_are_found() {
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
            assert_eq!(read(&body), ExternalRefs { state, ..EXTERNAL }, "{body}");
        }
        assert_eq!(read(r#"{"cachedContent":null}"#), ExternalRefs::default());
    }

    #[test]
    fn media_in_the_body_are_found() {
        let part = |kind: &str| format!(r#"{{"inlineData":{{"mimeType":"{kind}","data":"AA"}}}}"#);
        let found = |parts: &str| {
            let body = format!(r#"{{"contents":[{{"parts":[{parts}]}}]}}"#);
            input_only("m", body.as_bytes()).expect("valid").external_refs
        };
        for kind in ["video/mp4", "audio/wav", "application/pdf", ""] {
            assert_eq!(found(&part(kind)), EXTERNAL, "{kind}");
        }
        assert_eq!(found(r#"{"inline_data":{"data":"AA"}}"#), EXTERNAL);
        assert_eq!(found(&part("text/plain")), ExternalRefs::default());
        let image = part("IMAGE/png");
        let result = format!(r#"{image},{{"functionResponse":{{"parts":[{image}]}}}}"#);
        let expected = ExternalRefs { unseen_tokens: 2 * IMAGE_TOKENS, ..ExternalRefs::default() };
        assert_eq!(found(&result), expected);
    }

    #[test]
    fn the_same_words_elsewhere_are_no_reference() {
        for body in [
            r#"{"contents":[{"parts":[{"text":"\"fileData\" of googleSearch"}]}]}"#,
            r#"{"contents":[{"parts":[{"functionCall":{"args":{"fileData":{"fileUri":"files/a"}}}}]}]}"#,
            r#"{"tools":[{"functionDeclarations":[{"parameters":{"googleSearch":{"fileData":1}}}]}]}"#,
        ] {
            assert_eq!(read(body), ExternalRefs::default(), "{body}");
        }
    }
}
