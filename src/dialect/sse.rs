//! Server-sent events: where one ends, and what its data is.

use std::borrow::Cow;

/// How many bytes of `bytes`, from `from` on, complete the first event, its blank line included.
///
/// `from` is where an earlier search of the same bytes stopped. Lines end with LF or CRLF. A comment
/// before an event stands alone: it is a sign of life, and must not wait for what it precedes.
pub fn event_end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    memchr::memchr_iter(b'\n', &bytes[start..]).map(|at| start + at).find_map(|at| {
        let line_was_empty =
            matches!(&bytes[..at], [.., b'\n'] | [.., b'\n', b'\r'] | [] | [b'\r']);
        (line_was_empty || bytes[0] == b':').then_some(at + 1)
    })
}

/// The data of a complete event: its `data:` lines, joined by line feeds; `None` without any.
pub fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in event.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        data = Some(match data {
            None => Cow::Borrowed(value),
            Some(before) => Cow::Owned([&before, value].join(&b'\n')),
        });
    }
    data
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
    }
}
