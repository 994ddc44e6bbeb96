//! An answer in the OpenAI dialect: what its fields say, whether they come as one object or pass by.

use crate::dialect::external_refs::state_id;
use crate::dialect::json;
use crate::dialect::openai::usage;
use crate::dialect::tier;
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

/// What an answer says of what it used.
#[derive(Debug, Default)]
pub struct ResponseFacts {
    usage: Option<Usage>,
    /// What hosted tools did, by the items of the output.
    item_units: UnitCounts,
    /// Searches by the provider's own count, which stands beside the usage.
    reported_searches: u64,
    service_tier: Option<ServiceTier>,
    id: Option<Box<str>>,
    is_response: bool,
    is_unstored: bool,
    failed: bool,
}

impl ResponseFacts {
    /// The fields that say it.
    pub const FIELDS: [&[u8]; 8] =
        [b"usage", b"output", b"tool_usage", b"service_tier", b"id", b"object", b"store", b"error"];

    /// What a whole object says.
    pub fn from_json(object: &[u8]) -> Self {
        let mut answer = Self::default();
        // What is broken has no further fields.
        let _ = json::fields(object, |key, value| answer.field(key.as_bytes(), &object[value]));
        answer
    }

    /// Reads a field; of `output` all, or one element after the other.
    pub fn field(&mut self, key: &[u8], value: &[u8]) {
        match key {
            b"usage" => self.usage = usage::read(value).or(self.usage),
            b"output" => json::elements(value, |item| {
                self.item_units = self.item_units.plus(item_units_of(item))
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

    /// The usage that it reports. What hosted tools did is counted by what says so first: the usage,
    /// what stands beside it, the items of the output.
    pub fn usage(&self) -> Option<Usage> {
        let usage = self.usage?;
        let pieces = self.item_units().to_usage();
        let untold = pieces.counts().filter(|(unit, _)| usage.get(*unit) == 0);
        Some(untold.fold(usage, |usage, (unit, count)| usage.with(unit, count)))
    }

    /// What hosted tools did, where no usage says.
    pub const fn item_units(&self) -> UnitCounts {
        match self.reported_searches {
            0 => self.item_units,
            reported => self.item_units.with(Unit::WebSearches, reported),
        }
    }

    /// The tier of service that it names.
    pub const fn service_tier(&self) -> Option<ServiceTier> {
        self.service_tier
    }

    /// The id by which the provider keeps it, at most 256 bytes. Chats are not referred to.
    pub fn state_id(&self) -> Option<&str> {
        self.id.as_deref().filter(|_| self.is_response && !self.is_unstored)
    }

    /// Whether the generation failed.
    pub const fn failed(&self) -> bool {
        self.failed
    }
}

/// What an item of the output is of what is paid by the piece. To open a page that was found, or to
/// look for a word in it, is no search, and what failed is not billed.
pub fn item_units_of(item: &[u8]) -> UnitCounts {
    let (mut kind, mut is_search, mut is_billed) = (None, true, true);
    // As above.
    let _ = json::fields(item, |key, value| {
        let value = &item[value];
        match &*key {
            "type" => kind = json::string_of(value),
            "status" => is_billed &= value != b"\"failed\"",
            "action" => {
                json::each_named(value, &["type"], |kind| is_search = kind == b"\"search\"")
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
        let answer = ResponseFacts::from_json(format!("{{{fields}}}").as_bytes());
        answer.usage().map(|usage| usage.get(Unit::WebSearches))
    }

    #[test]
    fn searches_are_those_items_that_are_billed() {
        assert_eq!(searches_in(&format!(r#""output":{ITEMS},{USAGE}"#)), Some(2));
        assert_eq!(searches_in(&format!(r#""output":{ITEMS}"#)), None, "no usage is reported");
        assert_eq!(searches_in(USAGE), Some(0));
    }

    #[test]
    fn what_else_hosted_tools_did_is_counted_by_the_item_and_code_runs_in_one_container() {
        let usage = |items: &str| {
            let answer =
                ResponseFacts::from_json(format!(r#"{{"output":[{items}],{USAGE}}}"#).as_bytes());
            answer.usage().map(|usage| usage.counts().skip(2).collect::<Vec<_>>())
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
    fn the_providers_own_count_of_searches_is_believed_where_it_has_one() {
        let told = |count| format!(r#""tool_usage":{{"web_search":{{"num_requests":{count}}}}}"#);
        let items = format!(r#""output":{ITEMS},{USAGE}"#);
        assert_eq!(searches_in(&format!("{items},{}", told(7))), Some(7));
        assert_eq!(searches_in(&format!("{items},{}", told(0))), Some(2));
        let inside = r#""usage":{"input_tokens":5,
            "server_side_tool_usage_details":{"web_search_calls":3,"x_search_calls":1}}"#;
        assert_eq!(searches_in(&format!(r#""output":{ITEMS},{inside}"#)), Some(4));
    }

    #[test]
    fn only_a_response_that_is_kept_has_an_id_to_refer_to() {
        for (fields, id) in [
            (r#""id":"r","object":"response""#, Some("r")),
            (r#""id":"r","object":"response","store":true"#, Some("r")),
            (r#""id":"r","object":"response","store":false"#, None),
            (r#""id":"r","object":"chat.completion""#, None),
            (r#""id":7,"object":"response""#, None),
        ] {
            let answer = ResponseFacts::from_json(format!("{{{fields}}}").as_bytes());
            assert_eq!(answer.state_id(), id, "{fields}");
        }
    }

    #[test]
    fn an_error_beside_the_output_is_a_failure() {
        assert!(!ResponseFacts::from_json(br#"{"error":null}"#).failed());
        assert!(ResponseFacts::from_json(br#"{"error":{"code":"c"}}"#).failed());
    }

    /// The tier is in the answer only: what was asked for may not be what was served.
    #[test]
    fn edge_36_the_tier_is_the_one_that_the_answer_names() {
        let named = |value: &str| {
            let answer =
                ResponseFacts::from_json(format!(r#"{{"service_tier":{value}}}"#).as_bytes());
            answer.service_tier().map(|tier| tier.name().to_owned())
        };
        assert_eq!(named(r#""flex""#).as_deref(), Some("flex"));
        assert_eq!(named("null"), None);
        assert_eq!(named(r#""a name that is too long""#), None);
    }
}
