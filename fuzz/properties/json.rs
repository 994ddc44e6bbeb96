//! What must hold of the JSON scanner and of the readers of requests, whatever the bytes are.

use std::fmt;

use meteor::dialect::call_facts::Edit;
use meteor::dialect::endpoint::Endpoint;
use meteor::dialect::json::{self, Fault};
use meteor::dialect::{billable_units, parse, prompt};
use meteor::domain::usage::Usage;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How deep the values within are compared, too.
const LEVELS: u32 = 3;

/// The model that the path names, and a bound that is put where there is none.
const MODEL: &str = "m";
const BOUND: u64 = 64;

/// Checks all of it for these bytes.
pub fn check(bytes: &[u8]) {
    agrees_with_serde(bytes, LEVELS);
    for endpoint in Endpoint::ALL {
        edits_are_valid(endpoint, bytes);
    }
}

/// The scanner takes what serde takes, and finds the same in it.
fn agrees_with_serde(bytes: &[u8], levels: u32) {
    let mut found = Vec::new();
    let read = json::fields(bytes, |key, place| found.push((key.into_owned(), &bytes[place])));
    let Ok(text) = std::str::from_utf8(bytes) else {
        return assert_eq!(read, Err(Fault::NotUtf8));
    };
    let is_valid = serde_json::from_str::<IgnoredAny>(text).is_ok();
    match read {
        Ok(()) | Err(Fault::NotAnObject) => assert!(is_valid, "serde refuses it"),
        Err(Fault::Malformed(at)) => assert!(at <= bytes.len() && !is_valid, "serde takes it"),
        Err(Fault::TooDeep) => {
            let opened = bytes.iter().filter(|byte| b"[{".contains(byte)).count();
            return assert!(json::DEPTH_MAX < u32::try_from(opened).expect("few"));
        }
        Err(Fault::NotUtf8) => panic!("it is UTF-8"),
    }
    // Serde reads no key with half a surrogate in it.
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

/// Strings and whole numbers are what serde says that they are.
fn value_agrees_with_serde(value: &str) {
    let text = json::string_of(value.as_bytes());
    assert_eq!(text.is_some(), value.starts_with('"'));
    if let Ok(theirs) = serde_json::from_str::<String>(value) {
        assert_eq!(text.as_deref(), Some(theirs.as_str()));
    }
    let count = json::count_of(value.as_bytes());
    match serde_json::from_str::<u64>(value) {
        Ok(theirs) => assert_eq!(count, Some(theirs.min(Usage::COUNT_MAX))),
        Err(_) => assert!(count.is_none() || value.contains('.'), "no whole number"),
    }
}

/// A request that was read can be changed as the gateway does, and is then read as changed.
fn edits_are_valid(endpoint: Endpoint, body: &[u8]) {
    let Ok(request) = parse::request(endpoint, Some(MODEL), body) else { return };
    let _ = (prompt::of(endpoint, body), billable_units::units(endpoint, body));

    let again = |edit: &Edit| {
        let edited = edit_body(body, std::slice::from_ref(edit));
        parse::request(endpoint, Some(MODEL), &edited).expect("an edited request is a request")
    };
    if let Some(edit) = &request.include_usage {
        let edited = again(edit);
        assert_eq!((edited.include_usage, &edited.model), (None, &request.model));
    }
    let clamp = parse::clamp_edit(endpoint, "max_tokens", body, BOUND);
    if let Some(edit) = &clamp {
        // A completion has a bound even if it names none.
        let is_bound = endpoint == Endpoint::Completions;
        assert!(is_bound || request.output_tokens_max.is_none());
        assert_eq!(request.choices, again(edit).choices);
        assert_eq!(again(edit).output_tokens_max, Some(BOUND));
    }
    let mut edits: Vec<Edit> = request.renamed(body, "\"another\"").collect();
    assert_eq!(edits.len(), request.model_places.len());
    edits.extend(request.include_usage.clone());
    edits.extend(clamp);
    let edited = edit_body(body, &edits);
    serde_json::from_slice::<IgnoredAny>(&edited).expect("all edits together leave it valid");
    for place in request.model_places.iter().filter(|place| !place.is_empty()) {
        let said = json::string_of(&body[place.clone()]).expect("a name");
        assert!(said == request.model || said.strip_prefix("models/") == Some(&request.model));
    }
}

/// The body with these changes, which do not overlap.
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

/// The fields of an object as serde sees them, in their order, doubles included.
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
