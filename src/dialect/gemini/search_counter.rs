//! Counts the web searches of a Gemini response, which its usage object does not report.

/// The keys of the list of search queries, of the model, and of a result on a map.
const KEYS: [&[u8]; 3] = [b"\"webSearchQueries\"", b"\"modelVersion\"", b"\"maps\""];
/// Prefixes of models that are billed per response; later models are billed per query.
const BILLED_PER_RESPONSE: [&[u8]; 2] = [b"gemini-1", b"gemini-2"];

/// Counts searches in a response that arrives in pieces.
///
/// A stream may repeat a list as it grows, so the longest one counts. Generated text cannot contain
/// such a list, because quotes in a string are escaped.
#[derive(Debug, Default)]
pub struct SearchCounter {
    position: Position,
    /// Bytes of the key at `key_index` that match so far.
    matched: usize,
    key_index: usize,
    name: Vec<u8>,
    queries: u64,
    max_queries: u64,
    billed_per_response: bool,
    has_maps: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Position {
    #[default]
    Elsewhere,
    /// Between a key and its value.
    BeforeValue,
    /// In the list, in a query in it, and after a backslash in a query.
    List,
    Query,
    Escaped,
    /// In the name of the model.
    Name,
}

impl SearchCounter {
    /// Reads the next piece.
    pub fn read(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(byte) = rest.first() {
            if self.position == Position::Elsewhere && self.matched == 0 {
                let Some(quote) = memchr::memchr(b'"', rest) else { return };
                (rest, self.matched) = (&rest[quote + 1..], 1);
                continue;
            }
            self.on_byte(*byte);
            rest = &rest[1..];
        }
    }

    /// Returns the number of searches to bill so far. Results on maps are billed as one search.
    pub fn billed_searches(&self) -> u64 {
        let searches = self.max_queries.max(u64::from(self.has_maps));
        if self.billed_per_response { searches.min(1) } else { searches }
    }

    fn on_byte(&mut self, byte: u8) {
        match (self.position, byte) {
            (Position::Elsewhere, _) => self.on_key_byte(byte),
            (Position::BeforeValue, b':' | b' ' | b'\n' | b'\r' | b'\t')
            | (Position::List, b',' | b' ' | b'\n' | b'\r' | b'\t') => {}
            (Position::BeforeValue, b'[') if self.key_index == 0 => {
                (self.position, self.queries) = (Position::List, 0);
            }
            (Position::BeforeValue, b'"') if self.key_index == 1 => {
                self.name.clear();
                self.position = Position::Name;
            }
            (Position::BeforeValue, b'{') if self.key_index == 2 => {
                (self.position, self.has_maps) = (Position::Elsewhere, true);
            }
            (Position::List, b'"') => {
                self.queries += 1;
                self.max_queries = self.max_queries.max(self.queries);
                self.position = Position::Query;
            }
            (Position::Query, b'\\') => self.position = Position::Escaped,
            (Position::Query, b'"') => self.position = Position::List,
            (Position::Escaped, _) => self.position = Position::Query,
            (Position::Name, b'"') => {
                self.billed_per_response = BILLED_PER_RESPONSE.contains(&&*self.name);
                self.position = Position::Elsewhere;
            }
            (Position::Name, _) if self.name.len() < BILLED_PER_RESPONSE[0].len() => {
                self.name.push(byte);
            }
            (Position::BeforeValue | Position::List, _) => {
                (self.position, self.matched) = (Position::Elsewhere, usize::from(byte == b'"'));
            }
            (Position::Query | Position::Name, _) => {}
        }
    }

    fn on_key_byte(&mut self, byte: u8) {
        match (self.matched, byte) {
            (1, _) => self.key_index = usize::from(byte == KEYS[1][1]),
            (2, b'a') if self.key_index == 1 => self.key_index = 2,
            _ => {}
        }
        let key = KEYS[self.key_index];
        if key[self.matched] != byte {
            self.matched = usize::from(byte == b'"');
        } else if self.matched + 1 == key.len() {
            (self.position, self.matched) = (Position::BeforeValue, 0);
        } else {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_billed_per_query_or_per_response() {
        let list = r#""groundingMetadata":{"webSearchQueries" : ["a \"]b", "c" ],"x":["y"]}"#;
        let again = r#""webSearchQueries":["a"]"#;
        for (body, count) in [
            (format!(r#"{{"candidates":[{{{list}}}],"modelVersion":"gemini-3-pro"}}"#), 2),
            (format!("[{{{list}}},{{{again}}}]"), 2),
            (format!(r#"[{{{again},"modelVersion": "gemini-2.5-pro"}},{{{list}}}]"#), 1),
            (format!(r#"{{"modelVersion":"gemini-2.0",{list}}}"#), 1),
            (r#"{"groundingChunks":[{"maps":{"uri":"u"}},{"maps" : {}}]}"#.to_owned(), 1),
            (format!(r#"{{"maps":{{}},{list}}}"#), 2),
            (r#"{"maps":[],"mapsWidget":{},"map":{},"modelMaps":{}}"#.to_owned(), 0),
            (r#"{"modelVersion":"gemini-2.5-pro","webSearchQueries":[]}"#.to_owned(), 0),
            (r#"{"text":"\"webSearchQueries\":[\"a\"]","webSearchQueries":null}"#.to_owned(), 0),
            (r#"{"webSearchQuerie":["a"],"w":"webSearchQueries","v":["a"]}"#.to_owned(), 0),
        ] {
            for cut in 0..body.len() {
                let mut searches = SearchCounter::default();
                searches.read(&body.as_bytes()[..cut]);
                searches.read(&body.as_bytes()[cut..]);
                assert_eq!(searches.billed_searches(), count, "{cut} {body}");
            }
        }
    }
}
