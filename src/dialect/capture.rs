//! Finds the values of a few fields in a body that passes by in pieces, without keeping the body.

/// The longest value that is kept; a usage object has some hundred bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// How many bytes are looked at in one step where there is nothing of interest.
const STEP_BYTES: usize = 32;

/// Watches for some `"key": {…}` among the fields of the outermost object, or of each object in the
/// outermost array.
///
/// What stands deeper is content: a model may quote a report, or call a tool with one. A key that
/// is written with escapes is not found; no provider writes so.
#[derive(Debug)]
pub struct Capture {
    keys: &'static [&'static [u8]],
    /// Whether values of all kinds are found, not objects only.
    any: bool,
    /// The keys that the one being read can still be, a bit each; then the one that it is.
    candidates: u8,
    /// The beginning of a value whose end is still to come.
    kept: Vec<u8>,
    /// How many objects and arrays are open.
    depth: usize,
    /// How many are open where the fields stand: 1, or 2 within an array.
    level: usize,
    /// Whether it is an object that is open there.
    in_object: bool,
    /// How many are open within an array behind one of the keys; 0 outside of it.
    list: usize,
    listed: u64,
    /// How many are open around the value.
    around: usize,
    place: Place,
    text: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where nothing is expected that counts.
    Elsewhere,
    /// A key of a watched object comes next.
    BeforeKey,
    /// The key came, its value comes next.
    BeforeValue,
    /// Within the value.
    Value,
    /// Within a value that is too long to be kept.
    LongValue,
    /// Within an array whose objects are found one by one.
    Elements,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// Not within a string.
    Outside,
    /// Within one that is the key so far, of which it has so many bytes.
    Key(usize),
    /// Within another one.
    Other,
    /// Behind a backslash in one.
    Escaped,
}

impl Capture {
    /// Watches for objects behind these keys, eight at most.
    pub const fn new(keys: &'static [&'static [u8]]) -> Self {
        Self::watching(keys, false)
    }

    /// Watches for values of all kinds; of an array, for each object in it.
    pub const fn of_any(keys: &'static [&'static [u8]]) -> Self {
        Self::watching(keys, true)
    }

    const fn watching(keys: &'static [&'static [u8]], any: bool) -> Self {
        Self {
            keys,
            any,
            candidates: 0,
            kept: Vec::new(),
            depth: 0,
            level: 1,
            in_object: false,
            list: 0,
            listed: 0,
            around: 0,
            place: Place::Elsewhere,
            text: Text::Outside,
        }
    }

    /// How many objects came in arrays behind the keys.
    pub const fn listed(&self) -> u64 {
        self.listed
    }

    /// Reads on; `found` gets every value that is complete now, behind its key.
    pub fn read(&mut self, piece: &[u8], mut found: impl FnMut(&[u8], &[u8])) {
        // Where the value begins that is being read, or goes on, in this piece.
        let mut value = 0;
        let mut at = 0;
        while at < piece.len() {
            let before = self.place;
            if self.text != Text::Outside {
                at += self.string(&piece[at..]);
                if before == Place::BeforeKey && self.place == Place::BeforeValue {
                    value = at;
                }
                continue;
            }
            at += self.plain_bytes(&piece[at..]);
            let Some(mark) = piece.get(at) else { break };
            at += 1;
            self.mark(*mark);
            match (before, self.place) {
                (Place::BeforeValue | Place::Elements, Place::Value) => {
                    value = at - 1;
                    self.kept.clear();
                }
                (Place::BeforeValue, Place::Elements) => self.kept.clear(),
                (Place::Value, Place::Elsewhere | Place::Elements) => {
                    self.give(&piece[value..at], &mut found);
                }
                (Place::BeforeValue, Place::Elsewhere | Place::BeforeKey) if self.any => {
                    self.give(&piece[value..at - 1], &mut found);
                }
                _ => {}
            }
        }
        if self.place == Place::Value || self.any && self.place == Place::BeforeValue {
            self.keep(&piece[value..]);
        }
    }

    /// Gives a value whose end is here. A plain one still has its colon.
    fn give(&mut self, end: &[u8], found: &mut impl FnMut(&[u8], &[u8])) {
        let key = self.keys[self.candidates.trailing_zeros() as usize];
        let bare = |value: &[u8]| {
            let value = value.trim_ascii();
            value.strip_prefix(b":").unwrap_or(value).trim_ascii().to_vec()
        };
        if self.kept.is_empty() && end.starts_with(b"{") {
            found(key, end);
        } else {
            self.kept.extend_from_slice(end);
            found(key, &bare(&self.kept));
            self.kept.clear();
        }
    }

    /// Keeps the beginning of a value, unless it is too long.
    fn keep(&mut self, beginning: &[u8]) {
        self.kept.extend_from_slice(beginning);
        if VALUE_BYTES_MAX < self.kept.len() {
            self.kept = Vec::new();
            let is_object = self.place == Place::Value;
            self.place = if is_object { Place::LongValue } else { Place::Elsewhere };
        }
    }

    /// How many of the bytes, outside of strings, change nothing.
    fn plain_bytes(&self, bytes: &[u8]) -> usize {
        // Commas matter only between watched fields; elsewhere there may be thousands of numbers.
        let comma = if self.depth == self.level { b',' } else { b'"' };
        // Brackets and braces differ in one bit.
        let is_mark =
            |byte: u8| byte == b'"' || byte == comma || byte | 0x20 == b'{' || byte | 0x20 == b'}';
        // Without an early end a step looks at all its bytes at once.
        let has_mark = |step: &&[u8]| step.iter().fold(false, |any, byte| any | is_mark(*byte));
        let steps = bytes.chunks(STEP_BYTES).take_while(|step| !has_mark(step));
        let skipped: usize = steps.map(<[u8]>::len).sum();
        let rest = &bytes[skipped..];
        skipped + rest.iter().position(|byte| is_mark(*byte)).unwrap_or(rest.len())
    }

    /// Reads the string on; how many bytes of it there are, its closing quote included.
    fn string(&mut self, bytes: &[u8]) -> usize {
        if self.text == Text::Escaped {
            self.text = Text::Other;
            return 1;
        }
        let end = memchr::memchr2(b'"', b'\\', bytes);
        let run = &bytes[..end.unwrap_or(bytes.len())];
        if let Text::Key(length) = self.text {
            self.keep_candidates(|key| key.get(length..).is_some_and(|rest| rest.starts_with(run)));
            let may_be_key = self.candidates != 0;
            self.text = if may_be_key { Text::Key(length + run.len()) } else { Text::Other };
        }
        let Some(end) = end else { return bytes.len() };
        if bytes[end] == b'\\' {
            self.text = Text::Escaped;
            return end + 1;
        }
        if let (Place::BeforeKey, Text::Key(length)) = (self.place, self.text) {
            self.keep_candidates(|key| key.len() == length);
        }
        let is_key = matches!(self.text, Text::Key(_)) && self.candidates != 0;
        self.place = match self.place {
            Place::BeforeKey if is_key => Place::BeforeValue,
            Place::BeforeValue if self.any => Place::BeforeValue,
            Place::BeforeKey | Place::BeforeValue => Place::Elsewhere,
            other => other,
        };
        self.text = Text::Outside;
        end + 1
    }

    fn keep_candidates(&mut self, keep: impl Fn(&[u8]) -> bool) {
        for (at, key) in self.keys.iter().enumerate() {
            if !keep(key) {
                self.candidates &= !(1 << at);
            }
        }
    }

    fn mark(&mut self, mark: u8) {
        let in_value = matches!(self.place, Place::Value | Place::LongValue);
        match mark {
            b'"' if self.place == Place::BeforeKey => {
                (self.text, self.candidates) = (Text::Key(0), u8::MAX >> (8 - self.keys.len()));
            }
            b'"' => self.text = Text::Other,
            b'{' | b'[' => {
                let is_object = mark == b'{';
                if self.depth == 0 {
                    self.level = if is_object { 1 } else { 2 };
                }
                self.listed += u64::from(is_object && 0 < self.list && self.depth == self.list);
                self.depth += 1;
                if !is_object && self.place == Place::BeforeValue {
                    self.list = self.depth;
                }
                if self.depth == self.level {
                    self.in_object = is_object;
                }
                let is_element = self.place == Place::Elements && self.depth == self.level + 2;
                self.place = match self.place {
                    Place::BeforeValue if is_object => Place::Value,
                    Place::BeforeValue if self.any => Place::Elements,
                    Place::Elements if is_object && is_element => Place::Value,
                    place if in_value || place == Place::Elements => place,
                    _ if is_object && self.depth == self.level => Place::BeforeKey,
                    _ => Place::Elsewhere,
                };
                if !in_value && self.place == Place::Value {
                    self.around = self.depth - 1;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth < self.list {
                    self.list = 0;
                }
                let is_inside = if in_value { self.around } else { self.level } < self.depth;
                self.place = match self.place {
                    place if is_inside && (in_value || place == Place::Elements) => place,
                    _ if in_value && self.level < self.around => Place::Elements,
                    _ => Place::Elsewhere,
                };
            }
            _ if self.in_object => self.place = Place::BeforeKey,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"a":"\"usage\":{}","usage" : null,"x":{"usage":{"n":1}},"y":["usage",{}],
        "usage" : {"n":"}\"","m":[{}],"usage":{}},"usagE":{},"usage2":{},"us":{},"z":"usage"}"#;

    fn found(pieces: &[&str]) -> Vec<String> {
        let mut capture = Capture::new(&[b"usage"]);
        let mut objects = Vec::new();
        for piece in pieces {
            capture.read(piece.as_bytes(), |_, value| {
                objects.push(String::from_utf8_lossy(value).into_owned());
            });
        }
        objects
    }

    #[test]
    fn an_object_is_found_across_any_cut() {
        for cut in 0..BODY.len() {
            for second in cut..BODY.len() {
                let objects = found(&[&BODY[..cut], &BODY[cut..second], &BODY[second..]]);
                assert_eq!(objects, [r#"{"n":"}\"","m":[{}],"usage":{}}"#], "{cut} {second}");
            }
        }
    }

    #[test]
    fn each_object_of_an_array_is_watched() {
        let body =
            "[{\"usage\":{\"n\":1},\"a\":[1,2]}\n,\r\n{\"a\":{\"usage\":{}},\"usage\":{}}\n]";
        for cut in 0..body.len() {
            assert_eq!(found(&[&body[..cut], &body[cut..]]), [r#"{"n":1}"#, "{}"], "{cut}");
        }
        assert_eq!(found(&[r#"["usage",{"n":1}]"#]), Vec::<String>::new());
        assert_eq!(found(&[r#"[["usage",{"n":1},"usage",{"usage":{}}]]"#]), Vec::<String>::new());
        assert_eq!(found(&[r#"[{},"usage",{"n":1}]"#]), Vec::<String>::new());
    }

    #[test]
    fn what_stands_deeper_is_content() {
        for body in [
            r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":0}}}]}"#,
            r#"{"tools":[{"schema":{"properties":{"usage":{}}}}]}"#,
            r#"{"usage":[{"usage":{}}]}"#,
            r#"{"a":{"b":1},"c":"usage","d":{}}"#,
            r#"{"usage":"usage","d":{}}"#,
        ] {
            assert_eq!(found(&[body]), Vec::<String>::new(), "{body}");
        }
    }

    #[test]
    fn a_value_without_end_is_let_go_and_its_end_is_found() {
        let mut capture = Capture::new(&[b"usage"]);
        capture.read(b"{\"usage\":{\"", |_, _| panic!("not complete"));
        for _ in 0..100 {
            capture.read(&[b'x'; 1024], |_, _| panic!("not complete"));
        }
        assert_eq!(capture.kept.capacity(), 0);
        let mut objects = 0;
        capture.read(b"\"},\"usage\":{}}", |_, _| objects += 1);
        assert_eq!(objects, 1);
    }

    #[test]
    fn a_long_text_and_a_long_element_are_let_go() {
        let long = "x".repeat(2 * VALUE_BYTES_MAX);
        let body = format!(r#"{{"id":"{long}","output":[{{"r":"{long}"}},{{"s":1}}],"id":"b"}}"#);
        let mut capture = Capture::of_any(&[b"id", b"output"]);
        let mut found = Vec::new();
        for piece in body.as_bytes().chunks(4_096) {
            capture.read(piece, |_, value| {
                found.push(String::from_utf8_lossy(value).into_owned());
            });
        }
        assert_eq!(found, [r#"{"s":1}"#, r#""b""#]);
        assert!(capture.kept.capacity() < VALUE_BYTES_MAX);
    }

    #[test]
    fn several_keys_are_told_apart_in_one_walk() {
        let body = r#"{"container":{"a":1},"co":{},"usage":{"b":2},"contain":{},"containers":{}}"#;
        for cut in 0..body.len() {
            let mut capture = Capture::new(&[b"usage", b"container"]);
            let mut objects = Vec::new();
            for piece in [&body[..cut], &body[cut..]] {
                capture.read(piece.as_bytes(), |key, value| {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    objects.push((text(key), text(value)));
                });
            }
            let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            let expected = [pair("container", r#"{"a":1}"#), pair("usage", r#"{"b":2}"#)];
            assert_eq!(objects, expected, "{cut}");
        }
    }
}
