//! Extracts a few values from a JSON body that arrives in pieces, without buffering the body.

/// Maximum length of a buffered value. A usage object has a few hundred bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Approximate maximum length of a string in a value. A longer one, such as an image, is dropped.
const STRING_BYTES_MAX: usize = 1024;

/// Number of bytes that are checked per step when skipping content.
const STEP_BYTES: usize = 32;

/// Extracts the values of some keys of the outermost object, or of each object in the outermost
/// array.
///
/// The same keys at a greater depth are content: a model may quote a usage report, or pass one to a
/// tool. Keys with escapes are not found; no provider writes them.
#[derive(Debug)]
pub struct JsonExtractor {
    keys: &'static [&'static [u8]],
    /// The key of the object with the watched fields. Empty if the outermost object has them.
    outer: &'static [&'static [u8]],
    /// Whether the object of `outer` is open.
    in_outer: bool,
    /// Whether values of any type are extracted, rather than objects only.
    any_value: bool,
    /// One bit per watched key that the key being read can still match.
    candidates: u8,
    /// The beginning of an incomplete value.
    buffer: Vec<u8>,
    /// Number of open objects and arrays.
    depth: usize,
    /// Depth of the watched fields: 1, plus 1 in an array and 1 in `outer`.
    field_depth: usize,
    /// Whether an object, rather than an array, is open at that depth.
    in_object: bool,
    /// Depth in the array of a watched key; 0 outside of such an array.
    array_depth: usize,
    elements_seen: u64,
    /// Depth around the value.
    value_depth: usize,
    position: Position,
    string_state: StringState,
    /// Bytes of the current string kept so far. Greater than [`STRING_BYTES_MAX`] if the remainder
    /// is being dropped.
    string_bytes: usize,
    /// Digits of a `\u` escape that are still to come.
    escape_digits: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// In content that is skipped.
    Elsewhere,
    /// Before a key of a watched object.
    BeforeKey,
    /// Between a watched key and its value.
    BeforeValue,
    /// Between `outer` and its value.
    BeforeOuter,
    /// In a value.
    Value,
    /// In a value that is too long to buffer.
    OversizedValue,
    /// In an array whose objects are extracted one by one.
    Elements,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StringState {
    /// Not in a string.
    Outside,
    /// In a string whose first bytes, this many, match a watched key.
    Key(usize),
    /// In another string.
    Other,
    /// After a backslash in a string.
    Escaped,
}

impl JsonExtractor {
    /// Extracts the objects of at most 8 keys.
    pub const fn new(keys: &'static [&'static [u8]]) -> Self {
        Self::with_keys(&[], keys, false)
    }

    /// Extracts values of any type. Each object in an array is extracted by itself.
    pub const fn any_value(keys: &'static [&'static [u8]]) -> Self {
        Self::with_keys(&[], keys, true)
    }

    /// Extracts values of any type from the fields of the object of `outer`.
    pub const fn nested_in(
        outer: &'static [&'static [u8]; 1],
        keys: &'static [&'static [u8]],
    ) -> Self {
        Self::with_keys(outer, keys, true)
    }

    const fn with_keys(
        outer: &'static [&'static [u8]],
        keys: &'static [&'static [u8]],
        any_value: bool,
    ) -> Self {
        Self {
            keys,
            outer,
            in_outer: false,
            any_value,
            candidates: 0,
            buffer: Vec::new(),
            depth: 0,
            field_depth: 1,
            in_object: false,
            array_depth: 0,
            elements_seen: 0,
            value_depth: 0,
            position: Position::Elsewhere,
            string_state: StringState::Outside,
            string_bytes: 0,
            escape_digits: 0,
        }
    }

    /// Returns the number of objects in the arrays of the keys.
    pub const fn elements_seen(&self) -> u64 {
        self.elements_seen
    }

    /// Reads the next piece and calls `on_value` with each key whose value is complete. Returns the
    /// position at which the outermost object or array ends in this piece.
    pub fn read(&mut self, piece: &[u8], mut on_value: impl FnMut(&[u8], &[u8])) -> Option<usize> {
        let mut closed = None;
        // Position in this piece at which the current value begins or continues.
        let mut value = 0;
        let mut at = 0;
        while at < piece.len() {
            let before = self.position;
            if self.string_state != StringState::Outside {
                let (start, escaped) = (at, self.string_state == StringState::Escaped);
                at += self.on_string(&piece[at..]);
                if before == Position::Value
                    && let Some(retained) = self.retained_string_len(&piece[start..at], escaped)
                {
                    self.buffer_value(&piece[value..start + retained]);
                    // The value keeps the closing quote.
                    value = at - usize::from(self.string_state == StringState::Outside);
                }
                if before == Position::BeforeKey && self.position == Position::BeforeValue {
                    value = at;
                }
                continue;
            }
            at += self.skippable_len(&piece[at..]);
            let Some(mark) = piece.get(at) else { break };
            at += 1;
            self.on_structural(*mark);
            if self.depth == 0 && matches!(mark, b'}' | b']') {
                closed = closed.or(Some(at - 1));
            }
            match (before, self.position) {
                (Position::BeforeValue | Position::Elements, Position::Value) => {
                    value = at - 1;
                    self.buffer.clear();
                }
                (Position::BeforeValue, Position::Elements) => self.buffer.clear(),
                (Position::Value, Position::Elsewhere | Position::Elements) => {
                    self.emit(&piece[value..at], &mut on_value);
                }
                (Position::BeforeValue, Position::Elsewhere | Position::BeforeKey)
                    if self.any_value =>
                {
                    self.emit(&piece[value..at - 1], &mut on_value);
                }
                _ => {}
            }
        }
        if self.position == Position::Value
            || self.any_value && self.position == Position::BeforeValue
        {
            self.buffer_value(&piece[value..]);
        }
        closed
    }

    /// Passes on a value whose last bytes are `end`. A scalar value still has its colon.
    fn emit(&mut self, end: &[u8], on_value: &mut impl FnMut(&[u8], &[u8])) {
        let key = self.keys[self.candidates.trailing_zeros() as usize];
        let bare = |value: &[u8]| {
            let value = value.trim_ascii();
            value.strip_prefix(b":").unwrap_or(value).trim_ascii().to_vec()
        };
        if self.buffer.is_empty() && end.starts_with(b"{") {
            on_value(key, end);
        } else {
            self.buffer.extend_from_slice(end);
            on_value(key, &bare(&self.buffer));
            self.buffer.clear();
        }
    }

    /// Returns how many of the bytes of a string to keep before dropping the remainder; none to
    /// keep all. Never cuts an escape: `escaped` is whether `bytes` is the byte after a backslash.
    fn retained_string_len(&mut self, bytes: &[u8], escaped: bool) -> Option<usize> {
        if STRING_BYTES_MAX < self.string_bytes {
            return Some(0);
        }
        if escaped {
            self.escape_digits = if bytes == b"u" { 4 } else { 0 };
            return None;
        }
        let digits = self.escape_digits.min(bytes.len());
        self.escape_digits -= digits;
        if 0 < self.escape_digits {
            return None;
        }
        self.string_bytes += bytes.len();
        (STRING_BYTES_MAX < self.string_bytes).then_some(digits)
    }

    /// Buffers the beginning of a value, unless the value is too long.
    fn buffer_value(&mut self, beginning: &[u8]) {
        self.buffer.extend_from_slice(beginning);
        if VALUE_BYTES_MAX < self.buffer.len() {
            self.buffer = Vec::new();
            let is_object = self.position == Position::Value;
            self.position = if is_object { Position::OversizedValue } else { Position::Elsewhere };
        }
    }

    /// Returns the number of leading bytes, outside of strings, that do not change the state.
    fn skippable_len(&self, bytes: &[u8]) -> usize {
        // Commas matter only between watched fields; elsewhere there may be thousands of numbers.
        let comma = if self.depth == self.field_depth { b',' } else { b'"' };
        // Brackets and braces differ in one bit.
        let is_mark =
            |byte: u8| byte == b'"' || byte == comma || byte | 0x20 == b'{' || byte | 0x20 == b'}';
        // Without an early exit, the compiler vectorizes a step.
        let has_mark = |step: &&[u8]| step.iter().fold(false, |any, byte| any | is_mark(*byte));
        let steps = bytes.chunks(STEP_BYTES).take_while(|step| !has_mark(step));
        let skipped: usize = steps.map(<[u8]>::len).sum();
        let rest = &bytes[skipped..];
        skipped + rest.iter().position(|byte| is_mark(*byte)).unwrap_or(rest.len())
    }

    /// Reads the next bytes of a string. Returns their number, including the closing quote.
    fn on_string(&mut self, bytes: &[u8]) -> usize {
        if self.string_state == StringState::Escaped {
            self.string_state = StringState::Other;
            return 1;
        }
        let end = memchr::memchr2(b'"', b'\\', bytes);
        let run = &bytes[..end.unwrap_or(bytes.len())];
        if let StringState::Key(length) = self.string_state {
            self.retain_candidates(|key| {
                key.get(length..).is_some_and(|rest| rest.starts_with(run))
            });
            let may_be_key = self.candidates != 0;
            self.string_state =
                if may_be_key { StringState::Key(length + run.len()) } else { StringState::Other };
        }
        let Some(end) = end else { return bytes.len() };
        if bytes[end] == b'\\' {
            self.string_state = StringState::Escaped;
            return end + 1;
        }
        if let (Position::BeforeKey, StringState::Key(length)) = (self.position, self.string_state)
        {
            self.retain_candidates(|key| key.len() == length);
        }
        let is_key = matches!(self.string_state, StringState::Key(_)) && self.candidates != 0;
        self.position = match self.position {
            Position::BeforeKey if is_key && self.expects_outer() => Position::BeforeOuter,
            Position::BeforeKey if is_key => Position::BeforeValue,
            Position::BeforeValue if self.any_value => Position::BeforeValue,
            Position::BeforeKey | Position::BeforeValue | Position::BeforeOuter => {
                Position::Elsewhere
            }
            other => other,
        };
        self.string_state = StringState::Outside;
        end + 1
    }

    const fn expects_outer(&self) -> bool {
        !self.outer.is_empty() && !self.in_outer
    }

    const fn watched_keys(&self) -> &'static [&'static [u8]] {
        if self.expects_outer() { self.outer } else { self.keys }
    }

    fn retain_candidates(&mut self, keep: impl Fn(&[u8]) -> bool) {
        for (at, key) in self.watched_keys().iter().enumerate() {
            if !keep(key) {
                self.candidates &= !(1 << at);
            }
        }
    }

    fn on_structural(&mut self, mark: u8) {
        let in_value = matches!(self.position, Position::Value | Position::OversizedValue);
        match mark {
            b'"' if self.position == Position::BeforeKey => {
                (self.string_state, self.candidates) =
                    (StringState::Key(0), u8::MAX >> (8 - self.watched_keys().len()));
            }
            b'"' => {
                (self.string_state, self.string_bytes, self.escape_digits) =
                    (StringState::Other, 0, 0);
            }
            b'{' | b'[' => {
                let is_object = mark == b'{';
                if self.depth == 0 {
                    self.field_depth = if is_object { 1 } else { 2 };
                } else if is_object && self.position == Position::BeforeOuter {
                    self.field_depth += 1;
                    self.in_outer = true;
                }
                self.elements_seen +=
                    u64::from(is_object && 0 < self.array_depth && self.depth == self.array_depth);
                self.depth += 1;
                if !is_object && self.position == Position::BeforeValue {
                    self.array_depth = self.depth;
                }
                if self.depth == self.field_depth {
                    self.in_object = is_object;
                }
                let is_element =
                    self.position == Position::Elements && self.depth == self.field_depth + 2;
                self.position = match self.position {
                    Position::BeforeValue if is_object => Position::Value,
                    Position::BeforeValue if self.any_value => Position::Elements,
                    Position::Elements if is_object && is_element => Position::Value,
                    position if in_value || position == Position::Elements => position,
                    _ if is_object && self.depth == self.field_depth => Position::BeforeKey,
                    _ => Position::Elsewhere,
                };
                if !in_value && self.position == Position::Value {
                    self.value_depth = self.depth - 1;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth < self.array_depth {
                    self.array_depth = 0;
                }
                if self.in_outer && self.depth < self.field_depth {
                    self.field_depth -= 1;
                    self.in_outer = false;
                }
                let is_inside =
                    if in_value { self.value_depth } else { self.field_depth } < self.depth;
                self.position = match self.position {
                    position if is_inside && (in_value || position == Position::Elements) => {
                        position
                    }
                    _ if in_value && self.field_depth < self.value_depth => Position::Elements,
                    _ => Position::Elsewhere,
                };
            }
            _ if self.in_object => self.position = Position::BeforeKey,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversized_value_is_dropped_and_its_end_is_found() {
        let mut extractor = JsonExtractor::new(&[b"usage"]);
        extractor.read(b"{\"usage\":{\"a\":", |_, _| panic!("not complete"));
        for _ in 0..100 {
            extractor.read(&[b'1'; 1024], |_, _| panic!("not complete"));
        }
        assert_eq!(extractor.buffer.capacity(), 0);
        let mut objects = 0;
        extractor.read(b"},\"usage\":{}}", |_, _| objects += 1);
        assert_eq!(objects, 1);
    }

    #[test]
    fn a_long_string_is_dropped_from_its_element() {
        let long = "x".repeat(2 * VALUE_BYTES_MAX);
        let body = format!(
            r#"{{"id":"{long}","output":[{{"r":"{long}\"{long}","t":2}},{{"s":1}}],"id":"b"}}"#
        );
        let mut extractor = JsonExtractor::any_value(&[b"id", b"output"]);
        let mut found = Vec::new();
        for piece in body.as_bytes().chunks(4_096) {
            extractor.read(piece, |_, value| {
                found.push(String::from_utf8_lossy(value).into_owned());
            });
        }
        assert_eq!(found, [r#"{"r":"","t":2}"#, r#"{"s":1}"#, r#""b""#]);
        assert!(extractor.buffer.capacity() < VALUE_BYTES_MAX);
    }
}
