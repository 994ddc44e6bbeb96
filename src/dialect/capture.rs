//! Finds the values of a few fields in a body that passes by in pieces, without keeping the body.

/// The longest value that is kept; a usage object has some hundred bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// How much is kept of a text within a value, about: an image is none of what is looked for.
const TEXT_BYTES_MAX: usize = 1024;

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
    /// The one key whose object has the watched fields; none where the outermost one has them.
    outer: &'static [&'static [u8]],
    /// Whether it is open.
    is_within: bool,
    /// Whether values of all kinds are found, not objects only.
    any: bool,
    /// The keys that the one being read can still be, a bit each; then the one that it is.
    candidates: u8,
    /// The beginning of a value whose end is still to come.
    kept: Vec<u8>,
    /// How many objects and arrays are open.
    depth: usize,
    /// How many are open where the fields stand: 1, and one more each within an array and within
    /// `outer`.
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
    /// How much of the string within a value is kept; more than the most if its rest is left out.
    text_bytes: usize,
    /// How many digits of a `\u` in it are to come.
    digits: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where nothing is expected that counts.
    Elsewhere,
    /// A key of a watched object comes next.
    BeforeKey,
    /// The key came, its value comes next.
    BeforeValue,
    /// The same of `outer`.
    BeforeObject,
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
        Self::watching(&[], keys, false)
    }

    /// Watches for values of all kinds; of an array, for each object in it.
    pub const fn of_any(keys: &'static [&'static [u8]]) -> Self {
        Self::watching(&[], keys, true)
    }

    /// The same among the fields of the object behind `outer`.
    pub const fn within(
        outer: &'static [&'static [u8]; 1],
        keys: &'static [&'static [u8]],
    ) -> Self {
        Self::watching(outer, keys, true)
    }

    const fn watching(
        outer: &'static [&'static [u8]],
        keys: &'static [&'static [u8]],
        any: bool,
    ) -> Self {
        Self {
            keys,
            outer,
            is_within: false,
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
            text_bytes: 0,
            digits: 0,
        }
    }

    /// How many objects came in arrays behind the keys.
    pub const fn listed(&self) -> u64 {
        self.listed
    }

    /// Reads on; `found` gets every value that is complete now, behind its key. Returns where the
    /// outermost object or array is closed in this piece.
    pub fn read(&mut self, piece: &[u8], mut found: impl FnMut(&[u8], &[u8])) -> Option<usize> {
        let mut closed = None;
        // Where the value begins that is being read, or goes on, in this piece.
        let mut value = 0;
        let mut at = 0;
        while at < piece.len() {
            let before = self.place;
            if self.text != Text::Outside {
                let (begun, escaped) = (at, self.text == Text::Escaped);
                at += self.string(&piece[at..]);
                if before == Place::Value
                    && let Some(kept) = self.kept_of_text(&piece[begun..at], escaped)
                {
                    self.keep(&piece[value..begun + kept]);
                    // The quote that closes it is kept.
                    value = at - usize::from(self.text == Text::Outside);
                }
                if before == Place::BeforeKey && self.place == Place::BeforeValue {
                    value = at;
                }
                continue;
            }
            at += self.plain_bytes(&piece[at..]);
            let Some(mark) = piece.get(at) else { break };
            at += 1;
            self.mark(*mark);
            if self.depth == 0 && matches!(mark, b'}' | b']') {
                closed = closed.or(Some(at - 1));
            }
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
        closed
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

    /// How much of what comes of a string is kept, where its rest is left out. None begins in the
    /// midst of what a backslash stands before: `escaped` is the first byte of that.
    fn kept_of_text(&mut self, bytes: &[u8], escaped: bool) -> Option<usize> {
        if TEXT_BYTES_MAX < self.text_bytes {
            return Some(0);
        }
        if escaped {
            self.digits = if bytes == b"u" { 4 } else { 0 };
            return None;
        }
        let digits = self.digits.min(bytes.len());
        self.digits -= digits;
        if 0 < self.digits {
            return None;
        }
        self.text_bytes += bytes.len();
        (TEXT_BYTES_MAX < self.text_bytes).then_some(digits)
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
            Place::BeforeKey if is_key && self.is_outside() => Place::BeforeObject,
            Place::BeforeKey if is_key => Place::BeforeValue,
            Place::BeforeValue if self.any => Place::BeforeValue,
            Place::BeforeKey | Place::BeforeValue | Place::BeforeObject => Place::Elsewhere,
            other => other,
        };
        self.text = Text::Outside;
        end + 1
    }

    const fn is_outside(&self) -> bool {
        !self.outer.is_empty() && !self.is_within
    }

    const fn sought(&self) -> &'static [&'static [u8]] {
        if self.is_outside() { self.outer } else { self.keys }
    }

    fn keep_candidates(&mut self, keep: impl Fn(&[u8]) -> bool) {
        for (at, key) in self.sought().iter().enumerate() {
            if !keep(key) {
                self.candidates &= !(1 << at);
            }
        }
    }

    fn mark(&mut self, mark: u8) {
        let in_value = matches!(self.place, Place::Value | Place::LongValue);
        match mark {
            b'"' if self.place == Place::BeforeKey => {
                (self.text, self.candidates) = (Text::Key(0), u8::MAX >> (8 - self.sought().len()));
            }
            b'"' => (self.text, self.text_bytes, self.digits) = (Text::Other, 0, 0),
            b'{' | b'[' => {
                let is_object = mark == b'{';
                if self.depth == 0 {
                    self.level = if is_object { 1 } else { 2 };
                } else if is_object && self.place == Place::BeforeObject {
                    self.level += 1;
                    self.is_within = true;
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
                if self.is_within && self.depth < self.level {
                    self.level -= 1;
                    self.is_within = false;
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

    #[test]
    fn a_value_without_end_is_let_go_and_its_end_is_found() {
        let mut capture = Capture::new(&[b"usage"]);
        capture.read(b"{\"usage\":{\"a\":", |_, _| panic!("not complete"));
        for _ in 0..100 {
            capture.read(&[b'1'; 1024], |_, _| panic!("not complete"));
        }
        assert_eq!(capture.kept.capacity(), 0);
        let mut objects = 0;
        capture.read(b"},\"usage\":{}}", |_, _| objects += 1);
        assert_eq!(objects, 1);
    }

    #[test]
    fn a_long_text_is_let_go_and_the_element_that_has_it_is_found_without() {
        let long = "x".repeat(2 * VALUE_BYTES_MAX);
        let body = format!(
            r#"{{"id":"{long}","output":[{{"r":"{long}\"{long}","t":2}},{{"s":1}}],"id":"b"}}"#
        );
        let mut capture = Capture::of_any(&[b"id", b"output"]);
        let mut found = Vec::new();
        for piece in body.as_bytes().chunks(4_096) {
            capture.read(piece, |_, value| {
                found.push(String::from_utf8_lossy(value).into_owned());
            });
        }
        assert_eq!(found, [r#"{"r":"","t":2}"#, r#"{"s":1}"#, r#""b""#]);
        assert!(capture.kept.capacity() < VALUE_BYTES_MAX);
    }
}
