//! Meters an answer that is one JSON document, as it passes.

use crate::dialect::anthropic::usage::Counts;
use crate::dialect::capture::Capture;
use crate::dialect::endpoint::Dialect;
use crate::dialect::gemini::searches::Searches;
use crate::dialect::meter::{Reading, lacks_input, tokens_in};
use crate::dialect::openai::answer::Answer;
use crate::dialect::{anthropic, estimate, gemini};
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::Usage;

/// Where an answer of Anthropic names what the provider keeps.
const CONTAINER: &[u8] = b"container";
/// Where any dialect says that it failed, though the status says otherwise.
const ERROR: &[u8] = b"error";

/// Meters an answer that is one JSON document.
#[derive(Debug)]
pub struct BodyMeter {
    dialect: Dialect,
    capture: Capture,
    reported: Option<Usage>,
    /// What an answer of Anthropic's reports.
    counts: Counts,
    service_tier: ServiceTier,
    searches: Searches,
    kept_id: Option<Box<str>>,
    counted: u64,
    failed: bool,
    /// What an answer in the OpenAI dialect says.
    answer: Answer,
}

impl BodyMeter {
    /// A meter for an answer in that dialect.
    pub fn new(dialect: Dialect) -> Self {
        let capture = match dialect {
            Dialect::OpenAi => Capture::of_any(&Answer::FIELDS),
            Dialect::Anthropic => Capture::new(&[b"usage", ERROR, CONTAINER]),
            Dialect::Gemini => Capture::new(&[b"usageMetadata", ERROR]),
        };
        Self {
            dialect,
            capture,
            reported: None,
            counts: Counts::default(),
            service_tier: ServiceTier::DEFAULT,
            searches: Searches::default(),
            kept_id: None,
            counted: 0,
            failed: false,
            answer: Answer::default(),
        }
    }

    /// Reads what one read brought.
    pub fn read(&mut self, chunk: &[u8]) {
        self.counted += estimate::tokens_of_bytes(chunk);
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
        let (kept_id, failed) = (&mut self.kept_id, &mut self.failed);
        let answer = &mut self.answer;
        self.capture.read(chunk, |key, object| match key {
            _ if dialect == Dialect::OpenAi => answer.field(key, object),
            CONTAINER => *kept_id = anthropic::outside::container_id(object),
            ERROR => *failed = true,
            _ => {
                let (usage, named) = read(object);
                (*reported, *tier) = (usage.or(*reported), named.unwrap_or(*tier));
            }
        });
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn kept_id(&self) -> Option<&str> {
        self.kept_id.as_deref().or(self.answer.kept_id())
    }

    /// What was learned so far.
    pub fn reading(&self) -> Reading {
        let reported = self.reported.or(self.answer.usage());
        let mut reading = Reading {
            reported,
            shares: self.counts.shares(),
            lacks_input: lacks_input(self.dialect, reported),
            service_tier: self.answer.service_tier().unwrap_or(self.service_tier),
            counted_output: tokens_in(self.dialect, self.counted),
            counted_pieces: self.answer.pieces(),
            terminated: false,
            finished: false,
            failed: self.failed || self.answer.failed(),
        };
        reading.tell_searches(&self.searches);
        reading
    }
}
