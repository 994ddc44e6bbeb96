//! Query strings: splitting parameters, percent-encoding, and parameters that are not forwarded.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The query parameter that may hold the caller's API key.
pub const KEY: &str = "key";

/// Every byte but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns the parameters of a query in order, without empty ones.
pub fn params(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|param| !param.is_empty())
}

/// Returns the value of `param`, still percent-encoded, if its decoded name is `name`.
pub fn value_of<'a>(param: &'a str, name: &str) -> Option<&'a str> {
    let (param_name, value) = param.split_once('=').unwrap_or((param, ""));
    let matches = param_name == name
        || (param_name.contains('%') && percent_decode_str(param_name).eq(name.bytes()));
    matches.then_some(value)
}

/// True for query parameters of a Gemini call that the upstream must not receive: credentials,
/// parameters that change who is billed or remove usage from the response, and method overrides.
/// Without them the response is complete, so the client can still read it.
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

/// Returns the query parameter of a Gemini call that selects a response no meter can read: a format
/// other than JSON or server-sent events, or JSONP.
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

/// Returns name and value of a parameter. Google's servers ignore case and a leading `$`.
fn google_param(param: &str) -> (String, &str) {
    let (name, value) = param.split_once('=').unwrap_or((param, ""));
    let name = decoded(name).unwrap_or_default();
    (name.strip_prefix('$').unwrap_or(&name).to_ascii_lowercase(), value)
}

/// Percent-decodes a text; `None` if the result is not UTF-8.
pub fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

/// Percent-encodes a text as one path segment.
pub fn escaped(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ESCAPED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_in_every_spelling() {
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
    fn a_name_is_encoded_as_one_segment_and_decoded_again() {
        for (name, segment) in [("a-1.5_b~", "a-1.5_b~"), ("ü/b:c", "%C3%BC%2Fb%3Ac")] {
            assert_eq!(escaped(name), segment);
            assert_eq!(decoded(segment).as_deref(), Some(name));
        }
        assert_eq!(decoded("%FF"), None);
    }
}
