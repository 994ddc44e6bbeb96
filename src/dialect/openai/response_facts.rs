//! The facts of a response in the OpenAI dialect, read from one object or field by field.

use crate::dialect::external_refs::state_id;
use crate::dialect::json;
use crate::dialect::openai::usage;
use crate::dialect::tier;
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

/// The facts of a response that metering needs.
#[derive(Debug, Default)]
pub struct ResponseFacts {
    usage: Option<Usage>,
    /// Units that hosted tools used, counted from the items of the output.
    item_units: UnitCounts,
    /// Searches that the provider reports outside of the usage.
    reported_searches: u64,
    service_tier: Option<ServiceTier>,
    id: Option<Box<str>>,
    is_response: bool,
    is_unstored: bool,
    failed: bool,
}

impl ResponseFacts {
    /// The fields that [`Self::field`] reads.
    pub const FIELDS: [&[u8]; 8] =
        [b"usage", b"output", b"tool_usage", b"service_tier", b"id", b"object", b"store", b"error"];

    /// Reads all fields of an object.
    pub fn from_json(object: &[u8]) -> Self {
        let mut facts = Self::default();
        // A malformed object keeps the fields before the error.
        let _ = json::fields(object, |key, value| facts.field(key.as_bytes(), &object[value]));
        facts
    }

    /// Reads a field. The value of `output` may be the whole array, or one element per call.
    pub fn field(&mut self, key: &[u8], value: &[u8]) {
        match key {
            b"usage" => self.usage = usage::read(value).or(self.usage),
            b"output" => json::elements(value, |item| {
                self.item_units = self.item_units.plus(item_units_of(item));
            }),
            b"tool_usage" => json::each_named(value, &["web_search"], |search| {
                json::each_named(search, &["num_requests"], |count| {
                    self.reported_searches = json::count_of(count).unwrap_or_default();
                });
            }),
            b"service_tier" => self.service_tier = tier::parse(value).or(self.service_tier),
            b"id" => self.id = state_id(value),
            b"object" => self.is_response = value == b"\"response\"",
            b"store" => self.is_unstored = value == b"false",
            b"error" => self.failed = value != b"null",
            _ => {}
        }
    }

    /// Returns the reported usage. The units of hosted tools come from the first source that has
    /// them: the usage, the report outside of the usage, the items of the output.
    pub fn usage(&self) -> Option<Usage> {
        let (usage, units) = (self.usage?, self.item_units());
        if units == UnitCounts::default() {
            return Some(usage);
        }
        let counted = units.to_usage();
        let unreported = counted.counts().filter(|(unit, _)| usage.get(*unit) == 0);
        Some(unreported.fold(usage, |usage, (unit, count)| usage.with(unit, count)))
    }

    /// Returns the units of hosted tools from outside of the usage.
    pub const fn item_units(&self) -> UnitCounts {
        match self.reported_searches {
            0 => self.item_units,
            reported => self.item_units.with(Unit::WebSearches, reported),
        }
    }

    pub const fn service_tier(&self) -> Option<ServiceTier> {
        self.service_tier
    }

    /// Returns the id of a stored response, at most 256 bytes. Requests cannot refer to a chat.
    pub fn state_id(&self) -> Option<&str> {
        self.id.as_deref().filter(|_| self.is_response && !self.is_unstored)
    }

    pub const fn failed(&self) -> bool {
        self.failed
    }
}

/// Returns the units billed for an item of the output. Opening a page and finding a word in it are
/// not searches, and failed items are not billed.
pub fn item_units_of(item: &[u8]) -> UnitCounts {
    let (mut kind, mut is_search, mut is_billed) = (None, true, true);
    // A malformed item keeps the fields before the error.
    let _ = json::fields(item, |key, value| {
        let value = &item[value];
        match &*key {
            "type" => kind = json::string_of(value),
            "status" => is_billed &= value != b"\"failed\"",
            "action" => {
                json::each_named(value, &["type"], |kind| is_search = kind == b"\"search\"");
            }
            _ => {}
        }
    });
    match kind.as_deref().filter(|_| is_billed) {
        Some("web_search_call" | "x_search_call") if is_search => {
            UnitCounts::of(Unit::WebSearches, 1)
        }
        Some("image_generation_call") => UnitCounts::of(Unit::Images, 1),
        Some("file_search_call") => UnitCounts::of(Unit::FileSearches, 1),
        Some("code_interpreter_call") => UnitCounts::of(Unit::CodeSessions, 1),
        _ => UnitCounts::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: &str = r#"[{"type":"reasoning"},{"type":"web_search_call","status":"searching",
        "action":{"type":"search"}},{"type":"web_search_call","status":"failed"},
        {"type":"web_search_call","action":{"type":"open_page"}},{"type":"x_search_call"}]"#;
    const USAGE: &str = r#""usage":{"input_tokens":5,"output_tokens":6}"#;

    fn searches_in(fields: &str) -> Option<u64> {
        let facts = ResponseFacts::from_json(format!("{{{fields}}}").as_bytes());
        facts.usage().map(|usage| usage.get(Unit::WebSearches))
    }

    #[test]
    fn billed_search_items_are_counted() {
        assert_eq!(searches_in(&format!(r#""output":{ITEMS},{USAGE}"#)), Some(2));
        assert_eq!(searches_in(&format!(r#""output":{ITEMS}"#)), None, "no usage is reported");
        assert_eq!(searches_in(USAGE), Some(0));
    }

    #[test]
    fn other_hosted_tools_are_counted_per_item() {
        let usage = |items: &str| {
            let facts =
                ResponseFacts::from_json(format!(r#"{{"output":[{items}],{USAGE}}}"#).as_bytes());
            facts.usage().map(|usage| usage.counts().skip(2).collect::<Vec<_>>())
        };
        let item = |kind: &str| format!(r#"{{"id":"i","type":"{kind}","status":"completed"}}"#);
        for (kind, unit, count) in [
            ("image_generation_call", Unit::Images, 2),
            ("file_search_call", Unit::FileSearches, 2),
            ("code_interpreter_call", Unit::CodeSessions, 1),
        ] {
            let two = format!("{},{}", item(kind), item(kind));
            assert_eq!(usage(&two), Some(vec![(unit, count)]), "{kind}");
            assert_eq!(usage(&item(kind).replace("completed", "failed")), Some(vec![]), "{kind}");
        }
        assert_eq!(usage(&item("function_call")), Some(vec![]));
    }

    #[test]
    fn a_reported_count_of_searches_has_precedence() {
        let reported =
            |count| format!(r#""tool_usage":{{"web_search":{{"num_requests":{count}}}}}"#);
        let items = format!(r#""output":{ITEMS},{USAGE}"#);
        assert_eq!(searches_in(&format!("{items},{}", reported(7))), Some(7));
        assert_eq!(searches_in(&format!("{items},{}", reported(0))), Some(2));
        let inside = r#""usage":{"input_tokens":5,
            "server_side_tool_usage_details":{"web_search_calls":3,"x_search_calls":1}}"#;
        assert_eq!(searches_in(&format!(r#""output":{ITEMS},{inside}"#)), Some(4));
    }

    #[test]
    fn only_a_stored_response_has_a_state_id() {
        for (fields, id) in [
            (r#""id":"r","object":"response""#, Some("r")),
            (r#""id":"r","object":"response","store":true"#, Some("r")),
            (r#""id":"r","object":"response","store":false"#, None),
            (r#""id":"r","object":"chat.completion""#, None),
            (r#""id":7,"object":"response""#, None),
        ] {
            let facts = ResponseFacts::from_json(format!("{{{fields}}}").as_bytes());
            assert_eq!(facts.state_id(), id, "{fields}");
        }
    }

    #[test]
    fn an_error_field_is_a_failure() {
        assert!(!ResponseFacts::from_json(br#"{"error":null}"#).failed());
        assert!(ResponseFacts::from_json(br#"{"error":{"code":"c"}}"#).failed());
    }

    /// The provider may serve another tier than the requested one.
    #[test]
    fn the_tier_is_that_of_the_response() {
        let named = |value: &str| {
            let facts =
                ResponseFacts::from_json(format!(r#"{{"service_tier":{value}}}"#).as_bytes());
            facts.service_tier().map(|tier| tier.name().to_owned())
        };
        assert_eq!(named(r#""flex""#).as_deref(), Some("flex"));
        assert_eq!(named("null"), None);
        assert_eq!(named(r#""a name that is too long""#), None);
    }
}
