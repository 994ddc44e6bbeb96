//! An event that is too long to be kept: what it says, learned as it passes.

use crate::dialect::event::EventFacts;
use crate::dialect::json_extractor::JsonExtractor;
use crate::dialect::openai::event;
use crate::dialect::openai::response_facts::ResponseFacts;
use crate::dialect::openai::usage;
use crate::dialect::{json, tier};
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::Usage;

/// Learns what such an event says, as the one that ends a response whose output it repeats.
#[derive(Debug)]
pub struct OversizedEvent {
    fields: JsonExtractor,
    response_fields: JsonExtractor,
    kind: Option<String>,
    usage: Option<Usage>,
    service_tier: Option<ServiceTier>,
    response: ResponseFacts,
    /// Without its long texts, as the items of the response are read.
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
    /// Reads on. Returns where in this piece of its data all is said.
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

    /// What it says, once all is said.
    pub fn finish(self) -> EventFacts {
        let Self { kind, usage, service_tier, response, item, .. } = self;
        kind.and_then(|kind| event::named_event(&kind, response, &item)).unwrap_or_else(|| {
            EventFacts {
                usage,
                service_tier,
                // Nobody saw whether it says why it ended. Where more is said, it did not.
                has_finish_reason: usage.is_some(),
                ..EventFacts::default()
            }
        })
    }
}
