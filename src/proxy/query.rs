//! Query: what the target of a request says behind its `?`, and how names are escaped in it.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The parameter that may hold the caller's key.
pub const KEY: &str = "key";

/// What stands in a path as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parts of a query, in order; empty ones are left out.
pub fn params(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|param| !param.is_empty())
}

/// The value of `part`, escapes included, if its name is `name`, however that is written.
pub fn value_of<'a>(param: &'a str, name: &str) -> Option<&'a str> {
    let (param_name, value) = param.split_once('=').unwrap_or((param, ""));
    let matches = param_name == name
        || (param_name.contains('%') && percent_decode_str(param_name).eq(name.bytes()));
    matches.then_some(value)
}

/// Whether a part of a Gemini call's query is not for the upstream: a credential, what moves the
/// bill or cuts usage out of the answer, or what turns the call into another. The answer without
/// it is whole, so whoever sent it understands it.
pub fn is_stripped_param(param: &str) -> bool {
    matches!(
        &*google_param(param).0,
        "key"
            | "access_token"
            | "oauth_token"
            | "bearer_token"
            | "userproject"
            | "fields"
            | "ct"
            | "req"
            | "httpmethod"
            | "httpheaders"
    )
}

/// What in the query of a Gemini call asks for an answer that no meter reads: a format that is
/// neither JSON nor a stream of it, or a script around it.
pub fn unmeterable_param(query: &str) -> Option<&'static str> {
    params(query).find_map(|param| {
        let (name, value) = google_param(param);
        match &*name {
            "callback" => Some("callback"),
            "alt" => {
                let value = decoded(value).unwrap_or_default().to_ascii_lowercase();
                let format = value.split(';').next();
                (!matches!(format, Some("json" | "sse"))).then_some("alt")
            }
            _ => None,
        }
    })
}

/// The name of a part as Google's servers take it, with or without a `$`, and its value.
fn google_param(param: &str) -> (String, &str) {
    let (name, value) = param.split_once('=').unwrap_or((param, ""));
    let name = decoded(name).unwrap_or_default();
    (name.strip_prefix('$').unwrap_or(&name).to_ascii_lowercase(), value)
}

/// A text without its escapes; `None` if it is no text then.
pub fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

/// A text as one segment of a path.
pub fn escaped(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ESCAPED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_however_it_is_written() {
        assert_eq!(value_of("key=a%20b", KEY), Some("a%20b"));
        assert_eq!(value_of("%6Bey=a=b", KEY), Some("a=b"));
        assert_eq!(value_of("key", KEY), Some(""));
        for other in ["monkey=a", "keys=a", "%key=a", "a=key"] {
            assert_eq!(value_of(other, KEY), None, "{other}");
        }
        assert_eq!(params("&a=1&&b").collect::<Vec<_>>(), ["a=1", "b"]);
    }

    #[test]
    fn billing_params_are_found_in_every_spelling() {
        for param in ["fields=a", "%24Fields", "f%69elds=", "$ct=x", "$httpMethod=GET", "$key=k"] {
            assert!(is_stripped_param(param), "{param}");
        }
        for param in ["alt=sse", "prettyPrint=1", "$.xgafv=2", "beta=true", "field=1", "%FF=1"] {
            assert!(!is_stripped_param(param), "{param}");
        }
        for (query, expected) in [
            ("", None),
            ("alt=sse&$alt=json;enum-encoding=int&%24ALT=J%53ON&a=proto", None),
            ("a=1&alt=proto", Some("alt")),
            ("alt=sse&%24alt=m%65dia", Some("alt")),
            ("alt=jsonp", Some("alt")),
            ("alt", Some("alt")),
            ("$Callback=f", Some("callback")),
        ] {
            assert_eq!(unmeterable_param(query), expected, "{query}");
        }
    }

    #[test]
    fn a_name_becomes_one_segment_and_comes_back() {
        for (name, segment) in [("a-1.5_b~", "a-1.5_b~"), ("ü/b:c", "%C3%BC%2Fb%3Ac")] {
            assert_eq!(escaped(name), segment);
            assert_eq!(decoded(segment).as_deref(), Some(name));
        }
        assert_eq!(decoded("%FF"), None);
    }
}
