//! Server-sent events: finds the end of an event, and its data.

use std::borrow::Cow;

/// The byte order mark of UTF-8, which may precede the first line of a stream.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Returns the end of the first event, including its blank line. The search begins at `from`, where
/// an earlier search of the same bytes ended.
///
/// Lines end with LF, CR or CRLF; the LF of a CRLF may be missing so far. A comment before an event
/// is an event by itself, because it keeps the connection alive and must not be delayed.
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

/// Returns the lines of an event with their line ends; the last line may have none.
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

/// Returns the data of a complete event: its `data:` lines, joined by line feeds; none without any.
///
/// Some providers end a failed stream with a bare JSON object, which is data as well.
pub fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let event = event.strip_prefix(BOM).unwrap_or(event);
    if event.trim_ascii_start().starts_with(b"{") {
        return Some(Cow::Borrowed(event.trim_ascii()));
    }
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in lines(event) {
        let Some(value) = without_line_end(line).strip_prefix(DATA_PREFIX) else { continue };
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

const DATA_PREFIX: &[u8] = b"data:";

/// Scans one event that arrives in pieces, without buffering it.
#[derive(Debug)]
pub struct SseScanner {
    /// Bytes of the byte order mark, which precede the first line.
    bom_len: usize,
    line: Line,
    /// The last byte was a CR, so the next may be its LF.
    after_cr: bool,
    /// The event is a bare JSON object, all of which is data.
    is_bare: bool,
    /// The event is a comment, which ends with its line.
    is_comment: bool,
}

/// The current line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// These many bytes match the prefix of a line of data.
    Undecided(usize),
    Data,
    Other,
}

impl SseScanner {
    /// Returns a scanner for an event whose first bytes are `event`. They must suffice to identify
    /// the first line.
    pub fn new(event: &[u8]) -> Self {
        let text = event.strip_prefix(BOM).unwrap_or(event);
        Self {
            bom_len: event.len() - text.len(),
            line: Line::Undecided(0),
            after_cr: false,
            is_bare: text.trim_ascii_start().starts_with(b"{"),
            is_comment: event.starts_with(b":"),
        }
    }

    /// Reads the next piece and calls `on_data` with its data and their position. Returns the end
    /// of the event in this piece, including its blank line.
    pub fn read(&mut self, piece: &[u8], mut on_data: impl FnMut(usize, &[u8])) -> Option<usize> {
        if piece.is_empty() {
            return None;
        }
        let has_lf = std::mem::take(&mut self.after_cr) && piece.starts_with(b"\n");
        let mut at = std::mem::take(&mut self.bom_len) + usize::from(has_lf);
        while at < piece.len() {
            let end = memchr::memchr2(b'\n', b'\r', &piece[at..]).map(|end| at + end);
            let text = &piece[at..end.unwrap_or(piece.len())];
            let skipped = self.non_data_len(text);
            if skipped < text.len() {
                on_data(at + skipped, &text[skipped..]);
            }
            let end = end?;
            let is_last = self.is_comment || self.line == Line::Undecided(0);
            at = end + if piece[end..].starts_with(b"\r\n") { 2 } else { 1 };
            if is_last {
                return Some(at);
            }
            self.after_cr = at == piece.len() && piece[end..] == *b"\r";
            self.line = Line::Undecided(0);
        }
        None
    }

    /// Returns the number of leading bytes of a line that are not data.
    fn non_data_len(&mut self, text: &[u8]) -> usize {
        let Line::Undecided(matched) = self.line else {
            return if self.line == Line::Data { 0 } else { text.len() };
        };
        let missing = &DATA_PREFIX[matched..];
        let common = missing.len().min(text.len());
        self.line = match () {
            () if text.is_empty() => self.line,
            () if self.is_bare => Line::Data,
            () if missing[..common] != text[..common] => Line::Other,
            () if common == missing.len() => Line::Data,
            () => Line::Undecided(matched + common),
        };
        match self.line {
            Line::Data if self.is_bare => 0,
            Line::Data => common,
            _ => text.len(),
        }
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether the first bytes of a body can begin a stream of events.
pub fn has_event_prefix(text: &[u8]) -> bool {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    let prefixes: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
    prefixes.iter().any(|prefix| text.starts_with(prefix) || prefix.starts_with(text))
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
        assert_eq!(event_end(b"data: a\r\n\r", 0), Some(10), "the next byte may be its LF");
        assert_eq!(event_end(b"data: a\r", 0), None);
        assert_eq!(event_end(b"data: a\r\n", 8), None);
        assert_eq!(event_end(b"data: a\n\r\n", 0), Some(10));
    }

    #[test]
    fn lines_keep_their_line_ends() {
        let split: Vec<&[u8]> = lines(b"a\rb\r\n\nc").collect();
        assert_eq!(split, [&b"a\r"[..], b"b\r\n", b"\n", b"c"]);
    }

    #[test]
    fn a_stream_is_identified_by_its_first_bytes() {
        for (text, is_one) in [
            ("data: {}", true),
            ("da", true),
            (": x", true),
            ("\u{feff}event", true),
            ("{\"a\":1}", false),
            ("[", false),
            ("dates", false),
        ] {
            assert_eq!(has_event_prefix(text.as_bytes()), is_one, "{text}");
        }
    }

    #[test]
    fn a_comment_is_an_event_by_itself() {
        assert_eq!(event_end(b":\n", 0), Some(2));
        assert_eq!(event_end(b": alive\r\ndata: a\n\n", 7), Some(9));
        assert_eq!(event_end(b": alive", 0), None);
        assert_eq!(event_end(b"data: a\n: within\n", 0), None);
    }

    #[test]
    fn an_event_scanned_in_pieces_has_the_same_end_and_data() {
        for event in [
            "data: {\"a\":1}\n\n",
            "event: x\ndata:a\nid: data: 7\ndatum\ndata: b\ndata\n: data: c\n\n",
            "\u{feff}data: a\n\n",
            "\u{feff}event: data: a\ndata: b\n\n",
            "{\n \"data\": 1\n}\n\n",
            ": data: a\n",
        ] {
            for text in [event.to_owned(), event.replace('\n', "\r\n"), event.replace('\n', "\r")] {
                let bytes = [text.as_bytes(), b"data: next\n\n"].concat();
                let joined = data(text.as_bytes()).unwrap_or_default().into_owned();
                let min_cut = 1 + text.find(['{', ':']).expect("a recognizable first line");
                for (cut, second) in
                    (min_cut..text.len()).flat_map(|at| (at..text.len()).map(move |end| (at, end)))
                {
                    let mut scanner = SseScanner::new(&bytes[..cut]);
                    let (mut received, mut found, mut end) = (0, Vec::new(), None);
                    for piece in [&bytes[..cut], &bytes[cut..second], &[], &bytes[second..]] {
                        if end.is_some() {
                            break;
                        }
                        let read = scanner.read(piece, |at, data| {
                            assert!(piece[at..].starts_with(data));
                            found.extend_from_slice(data);
                        });
                        end = read.map(|end| received + end);
                        received += piece.len();
                    }
                    // The LF of a CRLF may come later.
                    let is_cut = second + 1 == text.len() && text.ends_with("\r\n");
                    let whole = text.len() - usize::from(is_cut);
                    assert_eq!(end, Some(whole), "{cut} {second} {text:?}");
                    let bare = |data: &[u8]| {
                        let text = String::from_utf8_lossy(data).into_owned();
                        text.replace([' ', '\n', '\r'], "")
                    };
                    assert_eq!(bare(&found), bare(&joined), "{cut} {second} {text:?}");
                }
            }
        }
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
