//! Meters a stream of events: reads the usage that it reports, and holds back its end until the
//! call is settled.

use bytes::{Bytes, BytesMut};

use crate::dialect::anthropic::usage::Counts;
use crate::dialect::endpoint::Dialect;
use crate::dialect::event::{EventFacts, StreamEnd};
use crate::dialect::gemini::search_counter::SearchCounter;
use crate::dialect::json_extractor::JsonExtractor;
use crate::dialect::openai::oversized_event::OversizedEvent;
use crate::dialect::{anthropic, gemini, openai, sse};
use crate::domain::call_pricing::ModelUsageShare;
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

/// What one piece of an answer becomes for the client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metered {
    /// To be sent at once, in order.
    pub forward: Vec<Bytes>,
    /// The terminator and what follows it: to be sent once the call is settled.
    pub held: Vec<Bytes>,
    /// Whether something was held back behind the end that is not the terminator: that may be long
    /// in coming, and a client must not take its upstream for dead.
    pub flush_held: bool,
}

/// What was learned so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the answer")]
pub struct UsageReading {
    /// The last usage that the provider reported.
    ///
    /// Each report replaces the one before it as a whole.
    pub reported: Option<Usage>,
    /// What other models had of it.
    pub shares: Vec<ModelUsageShare>,
    /// Whether that report leaves the input out: the caller's own count has to stand for it.
    pub input_missing: bool,
    /// The tier of service that the answer names.
    pub service_tier: ServiceTier,
    /// Output tokens by our own count.
    pub counted_output: u64,
    /// What is priced by the piece, by our own count.
    pub counted_item_units: UnitCounts,
    /// Whether the terminator was seen: the call can be settled.
    pub terminated: bool,
    /// Whether the provider said all it has to say, though its terminator may be still to come.
    pub finished: bool,
    /// Whether the provider said that it failed in the midst of its answer.
    pub failed: bool,
}

impl UsageReading {
    /// Adds what an answer of Gemini's searched for, which no report says.
    pub fn add_searches(&mut self, searches: &SearchCounter) {
        if let count @ 1.. = searches.billed_searches() {
            self.counted_item_units = self.counted_item_units.with(Unit::WebSearches, count);
            self.reported = self.reported.map(|usage| usage.with(Unit::WebSearches, count));
        }
    }
}

/// The longest incomplete event that is held back or kept for metering. A longer one passes, and is
/// watched for its report: one may bring images, or repeat all that was generated, beside it.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether a report leaves the input out. Gemini leaves out what is 0, and no prompt is; others say
/// 0 if they mean it.
pub fn input_missing(dialect: Dialect, reported: Option<Usage>) -> bool {
    let prompt = |usage: Usage| usage.get(Unit::InputTokens) - usage.get(Unit::ToolUseInputTokens);
    dialect == Dialect::Gemini && reported.is_some_and(|usage| prompt(usage) == 0)
}

/// Meters a stream of events.
#[derive(Debug)]
pub struct StreamMeter {
    dialect: Dialect,
    /// Whether what only the gateway asked for is taken out again.
    strip_usage: bool,
    /// The incomplete event at the end of what came.
    partial: BytesMut,
    /// How much of `partial` was searched for its end.
    searched: usize,
    /// How much of `partial` went to the client.
    sent: usize,
    /// What watches an event that is too long to be kept, of which some has passed.
    oversized: Option<(sse::SseScanner, OversizedReader)>,
    /// Whether what comes now is held back.
    holding_tail: bool,
    /// Whether the last event passed, where it ended with a CR whose LF may be still to come.
    pending_lf: Option<bool>,
    /// Whether the reason was told why the generation ended.
    has_finish_reason: bool,
    /// Tokens of the text that came, in the vocabulary that `estimate` knows.
    text_tokens: u64,
    /// What an Anthropic stream reported so far.
    counts: Counts,
    /// What a Gemini stream searched for so far.
    searches: SearchCounter,
    reading: UsageReading,
    state_id: Option<Box<str>>,
}

/// What watches an event that is too long to be kept.
#[derive(Debug)]
enum OversizedReader {
    OpenAi(Box<OversizedEvent>),
    /// None brings its report beside what may be long.
    Anthropic,
    Gemini(JsonExtractor),
}

impl OversizedReader {
    fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(Box::default()),
            Dialect::Anthropic => Self::Anthropic,
            Dialect::Gemini => Self::Gemini(JsonExtractor::new(&[b"usageMetadata"])),
        }
    }
}

impl StreamMeter {
    /// A meter that lets every byte pass, or one that `strips` the usage the client did not want.
    pub fn new(dialect: Dialect, strip_usage: bool) -> Self {
        Self {
            dialect,
            strip_usage,
            partial: BytesMut::new(),
            searched: 0,
            sent: 0,
            oversized: None,
            holding_tail: false,
            pending_lf: None,
            has_finish_reason: false,
            text_tokens: 0,
            counts: Counts::default(),
            searches: SearchCounter::default(),
            reading: UsageReading::default(),
            state_id: None,
        }
    }

    /// What was learned so far.
    pub const fn reading(&self) -> &UsageReading {
        &self.reading
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn state_id(&self) -> Option<&str> {
        self.state_id.as_deref()
    }

    /// Reads what one read brought.
    pub fn read(&mut self, mut chunk: Bytes) -> Metered {
        let mut metered = Metered::default();
        if let Some(first) = chunk.first()
            && let Some(was_forwarded) = self.pending_lf.take()
            && *first == b'\n'
        {
            let lf = chunk.split_to(1);
            if was_forwarded {
                self.push(&mut metered, lf);
            }
        }
        self.forward_oversized(&mut chunk, 0, &mut metered);
        while let Some((event, sent)) = self.next_event(&mut chunk) {
            let forwarded = self.forward_event(&event, sent, &mut metered);
            let lf_may_follow = chunk.is_empty() && event.ends_with(b"\r");
            self.pending_lf = lf_may_follow.then_some(forwarded);
        }
        if EVENT_BYTES_MAX < self.partial.len() {
            let mut start = std::mem::take(&mut self.partial).freeze();
            let sent = std::mem::take(&mut self.sent);
            self.oversized =
                Some((sse::SseScanner::new(&start), OversizedReader::new(self.dialect)));
            self.forward_oversized(&mut start, sent, &mut metered);
        } else if !self.strip_usage {
            let safe = self.safe_prefix_len(&self.partial, self.sent);
            let bytes = Bytes::copy_from_slice(&self.partial[self.sent..safe]);
            self.push(&mut metered, bytes);
            self.sent = safe;
        }
        metered
    }

    /// Takes the next event that is complete, and how much of it went to the client before; what
    /// is not complete is kept. Each byte is copied and searched once, however many pieces come.
    fn next_event(&mut self, chunk: &mut Bytes) -> Option<(Bytes, usize)> {
        if self.partial.is_empty() {
            match sse::event_end(chunk, 0) {
                Some(end) => return Some((chunk.split_to(end), 0)),
                None => self.searched = chunk.len(),
            }
        }
        let received = std::mem::take(chunk);
        self.partial.extend_from_slice(&received);
        let Some(end) = sse::event_end(&self.partial, self.searched) else {
            self.searched = self.partial.len();
            return None;
        };
        let surplus = self.partial.len() - end;
        *chunk = received.slice(received.len() - surplus..);
        let mut event = std::mem::take(&mut self.partial).freeze();
        event.truncate(end);
        Some((event, std::mem::take(&mut self.sent)))
    }

    /// What is left when the upstream ends without completing its last event; that is read, too.
    pub fn finish(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.partial).freeze();
        if let Some(data) = sse::data(&rest)
            && self.apply(&data).is_usage_only
            && self.strip_usage
        {
            return Bytes::new();
        }
        rest.slice(self.sent.min(rest.len())..)
    }

    /// Lets pass what came of an event that is too long to be kept, up to its end in `chunk`. The
    /// client has `sent` bytes of that.
    fn forward_oversized(&mut self, chunk: &mut Bytes, sent: usize, metered: &mut Metered) {
        let Some((mut scanner, mut reader)) = self.oversized.take() else { return };
        let was_holding = self.holding_tail;
        let mut hold_from = None;
        let event_end = scanner.read(chunk, |at, data| {
            let data_end = self.scan_oversized(&mut reader, data).map(|end| at + end);
            hold_from = hold_from.or(data_end);
        });
        let piece = chunk.split_to(event_end.unwrap_or(chunk.len()));
        let split =
            hold_from.filter(|_| self.holding_tail && !was_holding).map_or(sent, |at| at.max(sent));
        if sent < split {
            metered.forward.push(piece.slice(sent..split));
        }
        self.push(metered, piece.slice(split..));
        // It may be long in coming, and is not kept.
        metered.flush_held |= was_holding && !self.reading.terminated;
        if event_end.is_none() {
            self.oversized = Some((scanner, reader));
        } else if chunk.is_empty() && piece.ends_with(b"\r") {
            self.pending_lf = Some(true);
        }
    }

    /// Watches a piece of the data of an event that is too long to be kept. Returns where in it
    /// all was said, which may be the end.
    fn scan_oversized(&mut self, reader: &mut OversizedReader, piece: &[u8]) -> Option<usize> {
        let reading = &mut self.reading;
        reading.counted_output = reading.counted_output.max(1);
        match reader {
            OversizedReader::OpenAi(event) => {
                let end = event.read(piece)?;
                self.record(&mut std::mem::take(event).finish());
                return Some(end);
            }
            OversizedReader::Anthropic => {}
            OversizedReader::Gemini(capture) => {
                let (mut facts, reported) = (EventFacts::default(), reading.reported);
                capture.read(piece, |_, object| {
                    facts.usage = gemini::usage::read(object).or(facts.usage);
                    facts.service_tier = gemini::usage::service_tier(object).or(facts.service_tier);
                    // Nobody saw whether it says why it ended. Where more is said, it did not.
                    facts.has_finish_reason |= facts.usage.or(reported).is_some();
                });
                self.searches.read(piece);
                self.record(&mut facts);
            }
        }
        None
    }

    /// Learns what an event says.
    fn apply(&mut self, data: &[u8]) -> EventFacts {
        let mut facts = match self.dialect {
            Dialect::OpenAi => openai::event::read(data),
            Dialect::Anthropic => anthropic::event::read(data, &mut self.counts),
            Dialect::Gemini => {
                self.searches.read(data);
                gemini::event::read(data)
            }
        };
        self.record(&mut facts);
        facts
    }

    /// Notes what an event says.
    fn record(&mut self, facts: &mut EventFacts) {
        self.holding_tail |= facts.end != StreamEnd::Open;
        // Of several choices another one may go on.
        self.has_finish_reason =
            facts.has_finish_reason || self.has_finish_reason && facts.output_tokens == 0;
        self.text_tokens += facts.output_tokens;
        self.state_id = facts.state_id.take().or(self.state_id.take());
        let reading = &mut self.reading;
        reading.counted_item_units = reading.counted_item_units.plus(facts.item_units);
        if facts.usage.is_some() {
            reading.reported = facts.usage;
            reading.shares = std::mem::take(&mut facts.shares);
        }
        reading.add_searches(&self.searches);
        reading.input_missing = input_missing(self.dialect, reading.reported);
        reading.terminated |= facts.end == StreamEnd::Terminated;
        reading.finished =
            reading.terminated || self.has_finish_reason && reading.reported.is_some();
        reading.failed |= facts.failed;
        reading.service_tier = facts.service_tier.unwrap_or(reading.service_tier);
        // An answer that has begun was generated, though it may have said nothing yet.
        let output_min =
            if facts.end == StreamEnd::Terminated { reading.counted_output } else { 1 };
        reading.counted_output = tokens_in(self.dialect, self.text_tokens).max(output_min);
    }

    /// Whether the event passes, of which the client has `sent` bytes.
    fn forward_event(&mut self, event: &Bytes, sent: usize, metered: &mut Metered) -> bool {
        let was_holding = self.holding_tail;
        let data = sse::data(event);
        let facts = data.as_deref().map(|data| self.apply(data)).unwrap_or_default();
        metered.flush_held |=
            was_holding && facts.end == StreamEnd::Open && !self.reading.terminated;
        if self.strip_usage && facts.is_usage_only {
            return false;
        }
        if self.holding_tail && !was_holding {
            let safe = match self.dialect {
                Dialect::OpenAi => openai::event::terminator_start(event),
                Dialect::Anthropic | Dialect::Gemini => self.safe_prefix_len(event, sent),
            };
            let split = sent.max(safe);
            if sent < split {
                metered.forward.push(event.slice(sent..split));
            }
            self.push(metered, event.slice(split..));
            return true;
        }
        // One data line in all streams seen; where there are more, the event passes whole.
        let cut = facts.null_usage_span.filter(|_| self.strip_usage).and_then(|null| {
            let start = memchr::memmem::find(event, data.as_deref()?)?;
            Some(start + null.start..start + null.end)
        });
        match cut {
            Some(cut) => {
                self.push(metered, event.slice(..cut.start));
                self.push(metered, event.slice(cut.end..));
            }
            None => self.push(metered, event.slice(sent..)),
        }
        true
    }

    fn push(&self, metered: &mut Metered, bytes: Bytes) {
        if !bytes.is_empty() {
            let list = if self.holding_tail { &mut metered.held } else { &mut metered.forward };
            list.push(bytes);
        }
    }

    /// How much of an event comes before what a client takes for the end, or what may become so:
    /// clients that read lines act on it before its blank line. They have `sent` bytes of it.
    fn safe_prefix_len(&self, event: &[u8], sent: usize) -> usize {
        match self.dialect {
            Dialect::OpenAi => openai::event::safe_prefix_len(event, sent),
            // Any event may; most come whole, and none is long.
            Dialect::Anthropic => 0,
            Dialect::Gemini => event.len(),
        }
    }
}

/// Tokens in a dialect's own vocabulary, of which some make more of the same text.
pub const fn tokens_in(dialect: Dialect, tokens: u64) -> u64 {
    match dialect {
        Dialect::OpenAi => tokens,
        Dialect::Anthropic | Dialect::Gemini => (tokens * 13).div_ceil(10),
    }
}
