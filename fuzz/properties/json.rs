//! Properties of the JSON scanner and of the request parsers that hold for any bytes.

use std::fmt;

use meteor::dialect::call_facts::Edit;
use meteor::dialect::endpoint::Endpoint;
use meteor::dialect::json::{self, JsonError};
use meteor::dialect::{billable_units, parse, prompt};
use meteor::domain::usage::Usage;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Nesting to which values are compared.
const LEVELS: u32 = 3;

/// The model in the path, and the output bound that is added to requests without one.
const MODEL: &str = "m";
const BOUND: u64 = 64;

/// Checks all properties for these bytes.
pub fn check(bytes: &[u8]) {
    agrees_with_serde(bytes, LEVELS);
    for endpoint in Endpoint::ALL {
        edits_are_valid(endpoint, bytes);
    }
}

/// The scanner accepts the same texts as serde, and finds the same fields and elements.
fn agrees_with_serde(bytes: &[u8], levels: u32) {
    let mut found = Vec::new();
    let read = json::fields(bytes, |key, span| found.push((key.into_owned(), &bytes[span])));
    let Ok(text) = std::str::from_utf8(bytes) else {
        return assert_eq!(read, Err(JsonError::NotUtf8));
    };
    let is_valid = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match read {
        Ok(()) | Err(JsonError::NotAnObject) => assert!(is_valid, "serde rejects it"),
        Err(JsonError::Malformed(at)) => {
            assert!(at <= bytes.len() && !is_valid, "serde accepts it");
        }
        Err(JsonError::TooDeep) => {
            let opened = bytes.iter().filter(|byte| b"[{".contains(byte)).count();
            return assert!(json::DEPTH_MAX < u32::try_from(opened).expect("few"));
        }
        Err(JsonError::NotUtf8) => panic!("it is UTF-8"),
    }
    // Serde rejects a key with a lone surrogate.
    if read.is_ok()
        && let Ok(Pairs(pairs)) = serde_json::from_str(text)
    {
        let theirs = pairs.into_iter().map(|(key, value)| (key, value.get().as_bytes()));
        assert_eq!(found, theirs.collect::<Vec<_>>());
    }
    let mut parts = Vec::new();
    json::elements(bytes, |part| parts.push(part));
    if let Ok(theirs) = serde_json::from_str::<Vec<&RawValue>>(text) {
        let theirs = theirs.into_iter().map(|part| part.get().as_bytes());
        assert_eq!(parts, theirs.collect::<Vec<_>>());
    }
    if is_valid {
        value_agrees_with_serde(text.trim_ascii());
        let within = found.into_iter().map(|(_, value)| value).chain(parts);
        within.filter(|_| 0 < levels).for_each(|value| agrees_with_serde(value, levels - 1));
    }
}

/// Strings and whole numbers have the same values as in serde.
fn value_agrees_with_serde(value: &str) {
    let text = json::string_of(value.as_bytes());
    assert_eq!(text.is_some(), value.starts_with('"'));
    if let Ok(theirs) = serde_json::from_str::<String>(value) {
        assert_eq!(text.as_deref(), Some(theirs.as_str()));
    }
    let count = json::count_of(value.as_bytes());
    match serde_json::from_str::<u64>(value) {
        Ok(theirs) => assert_eq!(count, Some(theirs.min(Usage::COUNT_MAX))),
        Err(_) => assert!(count.is_none() || value.contains('.'), "not a whole number"),
    }
}

/// A valid request stays valid after the edits of the gateway, and has the edited values.
fn edits_are_valid(endpoint: Endpoint, body: &[u8]) {
    let Ok(facts) = parse::parse_json(endpoint, Some(MODEL), body) else { return };
    let _ = (prompt::extract(endpoint, body), billable_units::possible_units(endpoint, body));

    let again = |edit: &Edit| {
        let edited = edit_body(body, std::slice::from_ref(edit));
        parse::parse_json(endpoint, Some(MODEL), &edited).expect("an edited request is a request")
    };
    if let Some(edit) = &facts.include_usage {
        let edited = again(edit);
        assert_eq!((edited.include_usage, &edited.model), (None, &facts.model));
    }
    let clamp = parse::output_clamp_edit(endpoint, "max_tokens", body, BOUND);
    if let Some(edit) = &clamp {
        // A completion has a default bound.
        let is_bound = endpoint == Endpoint::Completions;
        assert!(is_bound || facts.output_tokens_max.is_none());
        assert_eq!(facts.choices, again(edit).choices);
        assert_eq!(again(edit).output_tokens_max, Some(BOUND));
    }
    let mut edits: Vec<Edit> = facts.model_edits(body, "\"another\"").collect();
    assert_eq!(edits.len(), facts.model_spans.len());
    edits.extend(facts.include_usage.clone());
    edits.extend(clamp);
    let edited = edit_body(body, &edits);
    serde_json::from_slice::<IgnoredAny>(&edited).expect("all edits together leave it valid");
    for span in facts.model_spans.iter().filter(|span| !span.is_empty()) {
        let name = json::string_of(&body[span.clone()]).expect("a name");
        assert!(name == facts.model || name.strip_prefix("models/") == Some(&facts.model));
    }
}

/// Applies edits that do not overlap.
fn edit_body(body: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut edits: Vec<&Edit> = edits.iter().collect();
    edits.sort_by_key(|edit| edit.range.start);
    let (mut edited, mut at) = (Vec::new(), 0);
    for edit in edits {
        edited.extend_from_slice(&body[at..edit.range.start]);
        edited.extend_from_slice(edit.text.as_bytes());
        at = edit.range.end;
    }
    edited.extend_from_slice(&body[at..]);
    edited
}

/// The fields of an object as serde reads them, in their order, including duplicates.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
