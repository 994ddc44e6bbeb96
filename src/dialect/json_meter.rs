//! Meters a response that is one JSON document, while the relay forwards it.

use crate::dialect::anthropic::usage::Counts;
use crate::dialect::endpoint::Dialect;
use crate::dialect::gemini::search_counter::SearchCounter;
use crate::dialect::json_extractor::JsonExtractor;
use crate::dialect::openai::response_facts::ResponseFacts;
use crate::dialect::stream_meter::{UsageReading, input_missing, tokens_in};
use crate::dialect::{anthropic, estimate, gemini};
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::Usage;

/// The field of an Anthropic response with the id of a stored container.
const CONTAINER: &[u8] = b"container";
/// The field that reports a failure in every dialect, even if the status is 200.
const ERROR: &[u8] = b"error";

/// Meters a response that is one JSON document.
#[derive(Debug)]
pub struct JsonBodyMeter {
    dialect: Dialect,
    extractor: JsonExtractor,
    reported: Option<Usage>,
    /// Used in the Anthropic dialect.
    counts: Counts,
    service_tier: ServiceTier,
    searches: SearchCounter,
    state_id: Option<Box<str>>,
    counted_tokens: u64,
    failed: bool,
    /// Used in the OpenAI dialect.
    response: ResponseFacts,
}

impl JsonBodyMeter {
    pub fn new(dialect: Dialect) -> Self {
        let extractor = match dialect {
            Dialect::OpenAi => JsonExtractor::any_value(&ResponseFacts::FIELDS),
            Dialect::Anthropic => JsonExtractor::new(&[b"usage", ERROR, CONTAINER]),
            Dialect::Gemini => JsonExtractor::new(&[b"usageMetadata", ERROR]),
        };
        Self {
            dialect,
            extractor,
            reported: None,
            counts: Counts::default(),
            service_tier: ServiceTier::DEFAULT,
            searches: SearchCounter::default(),
            state_id: None,
            counted_tokens: 0,
            failed: false,
            response: ResponseFacts::default(),
        }
    }

    /// Reads the next chunk of the response.
    pub fn read(&mut self, chunk: &[u8]) {
        self.counted_tokens += estimate::tokens_of_bytes(chunk);
        let dialect = self.dialect;
        if dialect == Dialect::Gemini {
            self.searches.read(chunk);
        }
        let counts = &mut self.counts;
        let mut read = |object: &[u8]| match dialect {
            Dialect::Gemini => (gemini::usage::read(object), gemini::usage::service_tier(object)),
            _ => {
                *counts = Counts::default();
                counts.read(object);
                (counts.usage(), counts.service_tier())
            }
        };
        let (reported, tier) = (&mut self.reported, &mut self.service_tier);
        let (state_id, failed) = (&mut self.state_id, &mut self.failed);
        let response = &mut self.response;
        self.extractor.read(chunk, |key, object| match key {
            _ if dialect == Dialect::OpenAi => response.field(key, object),
            CONTAINER => *state_id = anthropic::external_refs::container_id(object),
            ERROR => *failed = true,
            _ => {
                let (usage, named_tier) = read(object);
                (*reported, *tier) = (usage.or(*reported), named_tier.unwrap_or(*tier));
            }
        });
    }

    /// Returns the id of the object that the provider stores for the caller, at most 256 bytes.
    pub fn state_id(&self) -> Option<&str> {
        self.state_id.as_deref().or(self.response.state_id())
    }

    /// Returns the usage read so far.
    pub fn reading(&self) -> UsageReading {
        let reported = self.reported.or(self.response.usage());
        let mut reading = UsageReading {
            reported,
            shares: self.counts.shares(),
            input_missing: input_missing(self.dialect, reported),
            service_tier: self.response.service_tier().unwrap_or(self.service_tier),
            counted_output: tokens_in(self.dialect, self.counted_tokens),
            counted_item_units: self.response.item_units(),
            terminated: false,
            finished: false,
            failed: self.failed || self.response.failed(),
        };
        reading.add_searches(&self.searches);
        reading
    }
}
