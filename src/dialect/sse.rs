//! Server-sent events: where one ends, and what its data is.

use std::borrow::Cow;

/// The mark of UTF-8 that may stand before all else; it is no part of the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// How many bytes of `bytes`, from `from` on, complete the first event, its blank line included.
///
/// `from` is where an earlier search of the same bytes stopped. Lines end with LF, CR or both; of
/// both the LF may be still to come. A comment before an event stands alone: it is a sign of life,
/// and must not wait for what it precedes.
pub fn event_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr2_iter(b'\n', b'\r', &bytes[from..]).map(|at| from + at).find_map(|at| {
        if bytes[at..].starts_with(b"\r\n") {
            return None;
        }
        let line_was_empty = match &bytes[..=at] {
            [before @ .., b'\r', b'\n'] | [before @ .., _] => {
                matches!(before, [] | [.., b'\n' | b'\r'])
            }
            [] => false,
        };
        (line_was_empty || bytes[0] == b':').then_some(at + 1)
    })
}

/// The lines of an event, each with its end; the last one may lack it.
pub fn lines(mut event: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = match memchr::memchr2(b'\n', b'\r', event) {
            Some(at) if event[at..].starts_with(b"\r\n") => at + 2,
            Some(at) => at + 1,
            None => event.len(),
        };
        let (line, rest) = event.split_at(end);
        event = rest;
        (!line.is_empty()).then_some(line)
    })
}

/// The data of a complete event: its `data:` lines, joined by line feeds; `None` without any.
///
/// Some providers break a stream off with a bare JSON object: that is data as well.
pub fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let event = event.strip_prefix(MARK).unwrap_or(event);
    if event.trim_ascii_start().starts_with(b"{") {
        return Some(Cow::Borrowed(event.trim_ascii()));
    }
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in lines(event) {
        let Some(value) = without_end(line).strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        data = Some(match data {
            None => Cow::Borrowed(value),
            Some(before) => {
                let mut joined = before.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(value);
                Cow::Owned(joined)
            }
        });
    }
    data
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether a text begins as a stream of events does, as far as it has come.
pub fn begins(text: &[u8]) -> bool {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let starts: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
    starts.iter().any(|start| text.starts_with(start) || start.starts_with(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_its_blank_line() {
        assert_eq!(event_end(b"data: a\n\ndata: b\n\n", 0), Some(9));
        assert_eq!(event_end(b"data: a\r\n\r\nx", 0), Some(11));
        assert_eq!(event_end(b"data: a\n", 0), None);
        assert_eq!(event_end(b"data: a\n\n", 8), Some(9));
        assert_eq!(event_end(b"data: a\r\n\r\n", 10), Some(11));
        assert_eq!(event_end(b"\n", 0), Some(1));
        assert_eq!(event_end(b"data: a\r\rx", 0), Some(9));
        assert_eq!(event_end(b"data: a\r\n\r", 0), Some(10), "whatever follows");
        assert_eq!(event_end(b"data: a\r", 0), None);
        assert_eq!(event_end(b"data: a\r\n", 8), None);
        assert_eq!(event_end(b"data: a\n\r\n", 0), Some(10));
    }

    #[test]
    fn a_line_keeps_its_end_of_whatever_kind() {
        let split: Vec<&[u8]> = lines(b"a\rb\r\n\nc").collect();
        assert_eq!(split, [&b"a\r"[..], b"b\r\n", b"\n", b"c"]);
    }

    #[test]
    fn a_stream_is_told_from_a_document_by_its_first_letters() {
        for (text, is_one) in [
            ("data: {}", true),
            ("da", true),
            (": x", true),
            ("\u{feff}event", true),
            ("{\"a\":1}", false),
            ("[", false),
            ("dates", false),
        ] {
            assert_eq!(begins(text.as_bytes()), is_one, "{text}");
        }
    }

    #[test]
    fn a_comment_before_an_event_stands_alone() {
        assert_eq!(event_end(b":\n", 0), Some(2));
        assert_eq!(event_end(b": alive\r\ndata: a\n\n", 7), Some(9));
        assert_eq!(event_end(b": alive", 0), None);
        assert_eq!(event_end(b"data: a\n: within\n", 0), None);
    }

    #[test]
    fn data_lines_are_joined() {
        let text =
            |event: &[u8]| data(event).map(|data| String::from_utf8_lossy(&data).into_owned());
        assert_eq!(text(b"data: a\n\n").as_deref(), Some("a"));
        assert_eq!(text(b"event: x\r\ndata:a\r\ndata:  b\r\n\r\n").as_deref(), Some("a\n b"));
        assert_eq!(text(b": comment\n\n"), None);
        assert_eq!(text(b"data:a\rdata: b\r\r").as_deref(), Some("a\nb"));
        assert_eq!(text("\u{feff}data: a\n\n".as_bytes()).as_deref(), Some("a"));
        assert_eq!(text(b"{\n \"error\": {}\n}\n\n").as_deref(), Some("{\n \"error\": {}\n}"));
    }
}
