//! Query: what the target of a request says behind its `?`, and how names are escaped in it.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The parameter that may hold the caller's key.
pub const KEY: &str = "key";

/// What stands in a path as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parts of a query, in order; empty ones are left out.
pub fn parts(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|part| !part.is_empty())
}

/// The value of `part`, escapes included, if its name is `name`, however that is written.
pub fn value_of<'a>(part: &'a str, name: &str) -> Option<&'a str> {
    let (its_name, value) = part.split_once('=').unwrap_or((part, ""));
    let is_it = its_name == name
        || (its_name.contains('%') && percent_decode_str(its_name).eq(name.bytes()));
    is_it.then_some(value)
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
        assert_eq!(parts("&a=1&&b").collect::<Vec<_>>(), ["a=1", "b"]);
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
