//! Finds the values of one key in a body that passes by in pieces, without keeping the body.

/// The longest value that is kept; a usage object has some hundred bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The most white space between a key and its value.
const SPACE_BYTES_MAX: usize = 1024;

/// Watches for `"key": {…}` and keeps each such object until the next.
///
/// A quote inside a string is escaped in JSON, so the bytes `"key"` before a colon are a key, at
/// whatever depth. The last object found wins.
#[derive(Debug)]
pub struct Capture {
    /// The key with its quotes.
    quoted: &'static [u8],
    /// Bytes of the body that may still become a match, or the value that is being read.
    kept: Vec<u8>,
    reading: Option<Depth>,
}

#[derive(Debug, Default)]
struct Depth {
    level: usize,
    in_string: bool,
    escaped: bool,
}

enum Start {
    /// Not this key.
    Elsewhere,
    /// The bytes end before that is known.
    Unknown,
    /// The object begins after so many bytes.
    Object(usize),
}

impl Capture {
    /// Watches for a key, given with its quotes.
    pub const fn new(quoted: &'static [u8]) -> Self {
        Self { quoted, kept: Vec::new(), reading: None }
    }

    /// Reads on; `found` gets every object that is complete now.
    pub fn read(&mut self, piece: &[u8], mut found: impl FnMut(&[u8])) {
        let mut joined = std::mem::take(&mut self.kept);
        let fresh = if joined.is_empty() {
            piece
        } else if self.reading.is_some() {
            self.kept = joined;
            let rest = self.value(piece, &mut found);
            return self.search(rest, found);
        } else {
            joined.extend_from_slice(piece);
            joined.as_slice()
        };
        self.search(fresh, found);
    }

    fn search(&mut self, mut bytes: &[u8], mut found: impl FnMut(&[u8])) {
        while let Some(at) = memchr::memmem::find(bytes, self.quoted) {
            let after = &bytes[at + self.quoted.len()..];
            match start_of(after) {
                Start::Elsewhere => bytes = after,
                Start::Unknown if SPACE_BYTES_MAX < after.len() => bytes = after,
                Start::Unknown => {
                    self.kept = bytes[at..].to_vec();
                    return;
                }
                Start::Object(skip) => {
                    self.reading = Some(Depth::default());
                    bytes = self.value(&after[skip..], &mut found);
                }
            }
        }
        if self.reading.is_none() {
            let tail = bytes.len().saturating_sub(self.quoted.len() - 1);
            self.kept = bytes[tail..].to_vec();
        }
    }

    /// Reads the value on; returns what follows it, or nothing while it is not complete.
    fn value<'a>(&mut self, bytes: &'a [u8], found: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let Some(depth) = &mut self.reading else { return bytes };
        let end = depth.end(bytes);
        let (value, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        if self.kept.len() + value.len() <= VALUE_BYTES_MAX {
            self.kept.extend_from_slice(value);
        } else {
            self.kept.clear();
            self.reading = None;
            return rest;
        }
        if end.is_some() {
            found(&self.kept);
            self.kept.clear();
            self.reading = None;
        }
        rest
    }
}

impl Depth {
    /// Where the outermost object closes, if it does in `bytes`.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                at += memchr::memchr2(b'"', b'\\', &bytes[at..])?;
                self.escaped = bytes[at] == b'\\';
                self.in_string = self.escaped;
            } else {
                match bytes[at] {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.level += 1,
                    b'}' | b']' => {
                        self.level -= 1;
                        if self.level == 0 {
                            return Some(at);
                        }
                    }
                    _ => {}
                }
            }
            at += 1;
        }
        None
    }
}

fn start_of(after: &[u8]) -> Start {
    let mut colon = false;
    for (at, byte) in after.iter().enumerate() {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b':' if !colon => colon = true,
            b'{' if colon => return Start::Object(at),
            _ => return Start::Elsewhere,
        }
    }
    Start::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"a":"\"usage\":{}","usage" : null,"x":{"usage":{"n":1}},
        "usage" : {"n":"}\"","m":[{}]},"z":"usage"}"#;

    #[test]
    fn an_object_is_found_across_any_cut() {
        for cut in 0..BODY.len() {
            for second in cut..BODY.len() {
                let mut capture = Capture::new(b"\"usage\"");
                let mut objects = Vec::new();
                let pieces = [&BODY[..cut], &BODY[cut..second], &BODY[second..]];
                for piece in pieces {
                    capture.read(piece.as_bytes(), |value| {
                        objects.push(String::from_utf8_lossy(value).into_owned());
                    });
                }
                assert_eq!(objects, [r#"{"n":1}"#, r#"{"n":"}\"","m":[{}]}"#], "{cut} {second}");
            }
        }
    }

    #[test]
    fn a_value_without_end_is_let_go() {
        let mut capture = Capture::new(b"\"usage\"");
        capture.read(b"\"usage\":{\"", |_| panic!("not complete"));
        for _ in 0..100 {
            capture.read(&[b'x'; 1024], |_| panic!("not complete"));
        }
        assert!(capture.kept.len() < 64);
    }
}
