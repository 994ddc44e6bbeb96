//! What a Gemini request refers to that is not in its body.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::json;
use crate::dialect::outside::{HOSTED_CALLS_MAX, Outside, may_have_key};

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
const LEVELS_MAX: u32 = 3;

/// Finds what the body refers to; `tools` is its field for those, `is_cached` whether it names
/// cached content, `holds_requests` whether it has other requests in it.
///
/// A file is state only where the provider would look for it, in a part of a content, and only if
/// it is kept by the provider's own file service: others are open to everybody or to nobody.
pub fn find(body: &[u8], tools: Option<&[u8]>, is_cached: bool, holds_requests: bool) -> Outside {
    let mut outside = Outside::default();
    if holds_requests || may_have_key(body, &*MEDIA) {
        request(body, 0, &mut outside);
    }
    tools_of(tools.unwrap_or(b"null"), &mut outside);
    if is_cached {
        outside.names_state("cachedContent");
    }
    outside
}

fn tools_of(tools: &[u8], outside: &mut Outside) {
    json::elements(tools, |tool| {
        json::each(tool, &OTHER_TOOLS, |_| outside.refers = true);
        json::each(tool, &SEARCHING_TOOLS, |_| {
            (outside.refers, outside.searches) = (true, HOSTED_CALLS_MAX);
        });
        json::each(tool, &STORED_TOOLS, |_| outside.names_state("tools"));
    });
}

fn request(object: &[u8], level: u32, outside: &mut Outside) {
    if level == LEVELS_MAX {
        // Nothing known nests like this.
        outside.refers = true;
        return;
    }
    json::each(object, &["cachedContent", "cached_content"], |name| {
        if name != b"null" {
            outside.names_state("cachedContent");
        }
    });
    json::each(object, &["tools"], |tools| tools_of(tools, outside));
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
        outside.refers = true;
        return;
    }
    json::each(holder, &["parts"], |list| {
        json::elements(list, |part| {
            json::each(part, &["fileData", "file_data"], |file| file_of(file, outside));
            json::each(part, &["inlineData", "inline_data"], |media| media_of(media, outside));
            json::each(part, &["functionResponse", "function_response"], |answer| {
                parts(answer, level + 1, outside);
            });
        });
    });
}

/// Media in the body: a text has no more tokens than bytes.
fn media_of(media: &[u8], outside: &mut Outside) {
    let mut kind = Cow::default();
    json::each(media, &["mimeType", "mime_type"], |said| {
        kind = json::string_of(said).unwrap_or_default();
    });
    if media != b"null" && !kind.starts_with("text/") {
        outside.adds_media(&kind);
    }
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
    use crate::dialect::outside::{IMAGE_TOKENS, State};

    fn read(body: &str) -> Outside {
        // Tools cost something of their own.
        Outside {
            hidden_tokens: 0,
            searches: 0,
            ..input_only("m", body.as_bytes()).expect(body).outside
        }
    }

    const REFERS: Outside = Outside {
        searches: 0,
        refers: true,
        state: None,
        hidden_tokens: 0,
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
            let state = Some(State { field: state, id: None });
            assert_eq!(read(&body), Outside { state, ..REFERS }, "{body}");
        }
        assert_eq!(read(r#"{"cachedContent":null}"#), Outside::default());
    }

    #[test]
    fn what_is_packed_into_few_bytes_is_seen() {
        let part = |kind: &str| format!(r#"{{"inlineData":{{"mimeType":"{kind}","data":"AA"}}}}"#);
        let found = |parts: &str| {
            let body = format!(r#"{{"contents":[{{"parts":[{parts}]}}]}}"#);
            input_only("m", body.as_bytes()).expect("valid").outside
        };
        for kind in ["video/mp4", "audio/wav", "application/pdf", ""] {
            assert_eq!(found(&part(kind)), REFERS, "{kind}");
        }
        assert_eq!(found(r#"{"inline_data":{"data":"AA"}}"#), REFERS);
        assert_eq!(found(&part("text/plain")), Outside::default());
        let image = part("IMAGE/png");
        let result = format!(r#"{image},{{"functionResponse":{{"parts":[{image}]}}}}"#);
        let expected = Outside { hidden_tokens: 2 * IMAGE_TOKENS, ..Outside::default() };
        assert_eq!(found(&result), expected);
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
