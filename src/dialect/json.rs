//! A JSON scanner: validates a whole text and yields the fields of its top level. Copies nothing
//! but keys with escapes.

use std::borrow::Cow;
use std::ops::Range;

use crate::domain::usage::Usage;

/// Maximum nesting of a text. Requests of regular clients are far below.
pub const DEPTH_MAX: u32 = 128;

/// Why a text is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonError {
    NotUtf8,
    /// Syntax error at this byte.
    Malformed(usize),
    /// The nesting exceeds [`DEPTH_MAX`].
    TooDeep,
    /// The text is valid JSON, but not an object.
    NotAnObject,
}

/// A cursor over a text.
struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// Validates `bytes` and calls `on_field` with every field of the outermost object: its unescaped
/// key, and the position of its value.
pub fn fields<'a>(
    bytes: &'a [u8],
    mut on_field: impl FnMut(Cow<'a, str>, Range<usize>),
) -> Result<(), JsonError> {
    for_each_member(bytes, b'{', |scanner| {
        let key = scanner.key()?;
        scanner.skip_whitespace();
        let start = scanner.at;
        scanner.value()?;
        on_field(key, start..scanner.at);
        Ok(())
    })
}

/// Calls `on_element` with every element of an array. As at the providers, another value counts as
/// an array of one element. Stops at the first syntax error.
pub fn elements<'a>(bytes: &'a [u8], mut on_element: impl FnMut(&'a [u8])) {
    element_spans(bytes, |span| on_element(&bytes[span]));
}

/// Calls `on_element` with the position of every element of an array, as [`elements`] does.
pub fn element_spans(bytes: &[u8], mut on_element: impl FnMut(Range<usize>)) {
    let read = for_each_member(bytes, b'[', |scanner| {
        let start = scanner.at;
        scanner.value()?;
        on_element(start..scanner.at);
        Ok(())
    });
    if read == Err(JsonError::NotAnObject) {
        on_element(0..bytes.len());
    }
}

/// Calls `on_value` with the value of every field with one of the names. A value that is not an
/// object has no fields.
pub fn each_named<'a>(bytes: &'a [u8], names: &[&str], mut on_value: impl FnMut(&'a [u8])) {
    // Stops at an error: callers pass valid texts, or texts that may be malformed.
    let _ = fields(bytes, |key, value| {
        if names.contains(&&*key) {
            on_value(&bytes[value]);
        }
    });
}

/// Calls `on_member` at every member of the outermost object or array, which begins with `open`.
fn for_each_member<'a>(
    bytes: &'a [u8],
    open: u8,
    mut on_member: impl FnMut(&mut Scanner<'a>) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
    let mut scanner = Scanner { text, bytes, at: 0 };
    scanner.skip_whitespace();
    if scanner.peek() != Some(open) {
        scanner.value()?;
        scanner.expect_end()?;
        return Err(JsonError::NotAnObject);
    }
    scanner.at += 1;
    scanner.skip_whitespace();
    let close = open + 2;
    if scanner.peek() == Some(close) {
        scanner.at += 1;
        return scanner.expect_end();
    }
    loop {
        on_member(&mut scanner)?;
        scanner.skip_whitespace();
        match scanner.next() {
            Some(b',') => scanner.skip_whitespace(),
            Some(byte) if byte == close => return scanner.expect_end(),
            _ => return Err(JsonError::Malformed(scanner.at)),
        }
    }
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn malformed<T>(&self) -> Result<T, JsonError> {
        Err(JsonError::Malformed(self.at))
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect_end(&mut self) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.at == self.bytes.len() { Ok(()) } else { self.malformed() }
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at + 1;
        self.string()?;
        let key = &self.text[start..self.at - 1];
        self.skip_whitespace();
        if self.next() != Some(b':') {
            return self.malformed();
        }
        Ok(if key.contains('\\') { Cow::Owned(unescape(key)) } else { Cow::Borrowed(key) })
    }

    /// Skips one value, without recursion: one bit per level stores whether it is an object.
    fn value(&mut self) -> Result<(), JsonError> {
        let (mut objects, mut depth) = (0_u128, 0_u32);
        loop {
            self.skip_whitespace();
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return Err(JsonError::TooDeep);
                    }
                    depth += 1;
                    objects = objects << 1 | u128::from(open == b'{');
                    self.at += 1;
                    self.skip_whitespace();
                    if self.peek() != Some(open + 2) {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => self.number()?,
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.skip_whitespace();
                match (self.next(), objects & 1 == 1) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        objects >>= 1;
                        depth -= 1;
                    }
                    (Some(b','), true) => {
                        self.skip_whitespace();
                        self.key()?;
                        break;
                    }
                    (Some(b','), false) => break,
                    _ => return self.malformed(),
                }
            }
        }
    }

    fn string(&mut self) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return self.malformed();
        }
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            let Some(run) = memchr::memchr2(b'"', b'\\', rest) else { return self.malformed() };
            // Without an early exit, the compiler vectorizes the loop.
            if rest[..run].iter().fold(u8::MAX, |min, byte| min.min(*byte)) < 0x20 {
                return self.malformed();
            }
            self.at += run + 1;
            if rest[run] == b'"' {
                return Ok(());
            }
            match self.next() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                Some(b'u') => {
                    let digits = self.bytes.get(self.at..self.at + 4);
                    if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                        return self.malformed();
                    }
                    self.at += 4;
                }
                _ => return self.malformed(),
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return self.malformed();
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let start = self.at;
        let whole = self.digits()?;
        if whole > 1 && self.bytes[start] == b'0' {
            return self.malformed();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Skips one digit or more and returns their number.
    fn digits(&mut self) -> Result<usize, JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if start == self.at { self.malformed() } else { Ok(self.at - start) }
    }
}

/// Resolves the escapes of the text between two quotes. A lone surrogate becomes U+FFFD.
pub fn unescape(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut units: Vec<u16> = Vec::new();
    let mut chars = inside.chars();
    while let Some(char) = chars.next() {
        let plain = match char {
            '\\' => match chars.next() {
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xFFFD));
                    continue;
                }
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        flush(&mut units, &mut text);
        text.push(plain);
    }
    flush(&mut units, &mut text);
    text
}

fn flush(units: &mut Vec<u16>, text: &mut String) {
    text.extend(char::decode_utf16(units.drain(..)).map(|unit| unit.unwrap_or('\u{FFFD}')));
}

/// Returns the unescaped text of a string value; none for another type of value.
pub fn string_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let inside = std::str::from_utf8(inside).ok()?;
    Some(if inside.contains('\\') { Cow::Owned(unescape(inside)) } else { Cow::Borrowed(inside) })
}

/// Returns a whole number ≥ 0, at most [`Usage::COUNT_MAX`]. Drops a fraction, because some
/// providers report counts as floats.
pub fn count_of(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    whole.parse().ok().map(|count: u64| count.min(Usage::COUNT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Vec<(String, String)>, JsonError> {
        let mut found = Vec::new();
        fields(text.as_bytes(), |key, value| {
            found.push((key.into_owned(), text[value].to_owned()));
        })?;
        Ok(found)
    }

    #[test]
    fn the_fields_of_the_top_level_are_found() {
        let found =
            keys(r#" { "a" : [1,{"b":"}"}] , "\u0062":"\"x" ,"c":-1.5e+3, "d":{}, "e":[] } "#);
        let pairs = found.expect("valid");
        let names: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        assert_eq!(pairs[0].1, r#"[1,{"b":"}"}]"#);
        assert_eq!(pairs[1].1, r#""\"x""#);
    }

    #[test]
    fn syntax_errors_are_found() {
        for text in [
            "",
            "{",
            "}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":[}",
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":.5}",
            "{\"a\":1.}",
            "{\"a\":tru}",
            "{\"a\":\"\\x\"}",
            "{a:1}",
            "{\"a\":\"\n\"}",
            "{\"a\":[1,,2]}",
            "{\"a\":{\"b\" 1}}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":[1}",
        ] {
            assert!(matches!(keys(text), Err(JsonError::Malformed(_))), "{text}");
        }
        assert_eq!(keys("[1]"), Err(JsonError::NotAnObject));
        assert_eq!(fields(b"{\"a\":\"\xff\"}", |_, _| ()), Err(JsonError::NotUtf8));
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(keys(&nested(128)).is_ok());
        assert_eq!(keys(&nested(129)), Err(JsonError::TooDeep));
        assert_eq!(keys(&format!("{{\"a\":{}", "[".repeat(10_000_000))), Err(JsonError::TooDeep));
    }

    #[test]
    fn scanner_and_serde_agree_on_generated_texts() {
        use proptest::prelude::*;
        let letters = proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "[", "]", "\"", ":", ",", "1", "-", "a", "\\", "null", " ", "e", ".",
            ]),
            0..14,
        );
        proptest!(|(letters in letters)| {
            let text = letters.concat();
            let ours = fields(text.as_bytes(), |_, _| ());
            let theirs: Result<serde_json::Value, _> = serde_json::from_str(&text);
            prop_assert_eq!(
                ours.is_ok() || ours == Err(JsonError::NotAnObject),
                theirs.is_ok(),
                "{}", text
            );
        });
    }
}
