//! Reads an event that is too long to buffer, piece by piece.

use crate::dialect::event::EventFacts;
use crate::dialect::json_extractor::JsonExtractor;
use crate::dialect::openai::event;
use crate::dialect::openai::response_facts::ResponseFacts;
use crate::dialect::openai::usage;
use crate::dialect::{json, tier};
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::Usage;

/// Collects the facts of an oversized event, such as the last event of a response, which repeats
/// the whole output.
#[derive(Debug)]
pub struct OversizedEvent {
    fields: JsonExtractor,
    response_fields: JsonExtractor,
    kind: Option<String>,
    usage: Option<Usage>,
    service_tier: Option<ServiceTier>,
    response: ResponseFacts,
    /// The item of the event, without its long strings.
    item: Vec<u8>,
}

impl Default for OversizedEvent {
    fn default() -> Self {
        Self {
            fields: JsonExtractor::any_value(&[b"type", b"usage", b"service_tier", b"item"]),
            response_fields: JsonExtractor::nested_in(&[b"response"], &ResponseFacts::FIELDS),
            kind: None,
            usage: None,
            service_tier: None,
            response: ResponseFacts::default(),
            item: Vec::new(),
        }
    }
}

impl OversizedEvent {
    /// Reads the next piece of the event's data. Returns the position in it at which the JSON ends.
    pub fn read(&mut self, data: &[u8]) -> Option<usize> {
        let (kind, response) = (&mut self.kind, &mut self.response);
        let item = &mut self.item;
        let (usage, service_tier) = (&mut self.usage, &mut self.service_tier);
        self.response_fields.read(data, |key, value| response.field(key, value));
        self.fields.read(data, |key, value| match key {
            b"type" => *kind = json::string_of(value).map(Into::into),
            b"usage" => *usage = usage::read(value).or(*usage),
            b"item" => *item = value.to_vec(),
            _ => *service_tier = tier::parse(value),
        })
    }

    /// Returns the facts of the event.
    pub fn finish(self) -> EventFacts {
        let Self { kind, usage, service_tier, response, item, .. } = self;
        kind.and_then(|kind| event::named_event(&kind, response, &item)).unwrap_or_else(|| {
            EventFacts {
                usage,
                service_tier,
                // The finish reason was not read. Later output would reset this flag.
                has_finish_reason: usage.is_some(),
                ..EventFacts::default()
            }
        })
    }
}
