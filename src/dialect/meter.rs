//! Meters: what an answer says of its usage, read as it passes, and where its end begins.

use bytes::{Bytes, BytesMut};

use crate::dialect::anthropic::usage::Counts;
use crate::dialect::capture::Capture;
use crate::dialect::endpoint::Dialect;
use crate::dialect::event::{End, Event};
use crate::dialect::gemini::searches::Searches;
use crate::dialect::openai::long::LongEvent;
use crate::dialect::{anthropic, gemini, openai, sse};
use crate::domain::pieces::Pieces;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariffs::Share;
use crate::domain::usage::{Unit, Usage};

/// What one piece of an answer becomes for the client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// To be sent at once, in order.
    pub pass: Vec<Bytes>,
    /// The terminator and what follows it: to be sent once the call is settled.
    pub end: Vec<Bytes>,
    /// Whether something was held back behind the end that is not the terminator: that may be long
    /// in coming, and a client must not take its upstream for dead.
    pub is_alive: bool,
}

/// What was learned so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the answer")]
pub struct Reading {
    /// The last usage that the provider reported.
    ///
    /// Each report replaces the one before it as a whole.
    pub reported: Option<Usage>,
    /// What other models had of it.
    pub shares: Vec<Share>,
    /// Whether that report leaves the input out: the caller's own count has to stand for it.
    pub lacks_input: bool,
    /// The tier of service that the answer names.
    pub service_tier: ServiceTier,
    /// Output tokens by our own count.
    pub counted_output: u64,
    /// What is priced by the piece, by our own count.
    pub counted_pieces: Pieces,
    /// Whether the terminator was seen: the call can be settled.
    pub terminated: bool,
    /// Whether the provider said all it has to say, though its terminator may be still to come.
    pub finished: bool,
    /// Whether the provider said that it failed in the midst of its answer.
    pub failed: bool,
}

impl Reading {
    /// Adds what an answer of Gemini's searched for, which no report says.
    pub fn tell_searches(&mut self, searches: &Searches) {
        if let count @ 1.. = searches.count() {
            self.counted_pieces.web_searches = count;
            self.reported = self.reported.map(|usage| usage.with(Unit::WebSearches, count));
        }
    }
}

/// The longest incomplete event that is held back or kept for metering. A longer one passes, and is
/// watched for its report: one may bring images, or repeat all that was generated, beside it.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether a report leaves the input out. Gemini leaves out what is 0, and no prompt is; others say
/// 0 if they mean it.
pub fn lacks_input(dialect: Dialect, reported: Option<Usage>) -> bool {
    let prompt = |usage: Usage| usage.get(Unit::InputTokens) - usage.get(Unit::ToolUseInputTokens);
    dialect == Dialect::Gemini && reported.is_some_and(|usage| prompt(usage) == 0)
}

/// Meters a stream of events.
#[derive(Debug)]
pub struct StreamMeter {
    dialect: Dialect,
    /// Whether what only the gateway asked for is taken out again.
    strips: bool,
    /// The incomplete event at the end of what came.
    partial: BytesMut,
    /// How much of `partial` was searched for its end.
    searched: usize,
    /// How much of `partial` went to the client.
    sent: usize,
    /// What watches an event that is too long to be kept, of which some has passed.
    long: Option<(sse::Walk, Long)>,
    /// Whether what comes now is held back.
    closing: bool,
    /// Whether the last event passed, where it ended with a CR whose LF may be still to come.
    before_lf: Option<bool>,
    /// Whether the reason was told why the generation ended.
    ended: bool,
    /// Tokens of the text that came, in the vocabulary that `estimate` knows.
    text_tokens: u64,
    /// What an Anthropic stream reported so far.
    counts: Counts,
    /// What a Gemini stream searched for so far.
    searches: Searches,
    reading: Reading,
    kept_id: Option<Box<str>>,
}

/// What watches an event that is too long to be kept.
#[derive(Debug)]
enum Long {
    OpenAi(Box<LongEvent>),
    /// None brings its report beside what may be long.
    Anthropic,
    Gemini(Capture),
}

impl Long {
    fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(Box::default()),
            Dialect::Anthropic => Self::Anthropic,
            Dialect::Gemini => Self::Gemini(Capture::new(&[b"usageMetadata"])),
        }
    }
}

impl StreamMeter {
    /// A meter that lets every byte pass, or one that `strips` the usage the client did not want.
    pub fn new(dialect: Dialect, strips: bool) -> Self {
        Self {
            dialect,
            strips,
            partial: BytesMut::new(),
            searched: 0,
            sent: 0,
            long: None,
            closing: false,
            before_lf: None,
            ended: false,
            text_tokens: 0,
            counts: Counts::default(),
            searches: Searches::default(),
            reading: Reading::default(),
            kept_id: None,
        }
    }

    /// What was learned so far.
    pub const fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn kept_id(&self) -> Option<&str> {
        self.kept_id.as_deref()
    }

    /// Reads what one read brought.
    pub fn read(&mut self, mut chunk: Bytes) -> Passage {
        let mut passage = Passage::default();
        if let Some(first) = chunk.first()
            && let Some(has_passed) = self.before_lf.take()
            && *first == b'\n'
        {
            let feed = chunk.split_to(1);
            if has_passed {
                self.push(&mut passage, feed);
            }
        }
        self.pass_long(&mut chunk, 0, &mut passage);
        while let Some((event, sent)) = self.complete(&mut chunk) {
            let passes = self.event(&event, sent, &mut passage);
            let may_go_on = chunk.is_empty() && event.ends_with(b"\r");
            self.before_lf = may_go_on.then_some(passes);
        }
        if EVENT_BYTES_MAX < self.partial.len() {
            let mut begun = std::mem::take(&mut self.partial).freeze();
            let sent = std::mem::take(&mut self.sent);
            self.long = Some((sse::Walk::new(&begun), Long::new(self.dialect)));
            self.pass_long(&mut begun, sent, &mut passage);
        } else if !self.strips {
            let passes = self.before_closing(&self.partial, self.sent);
            let bytes = Bytes::copy_from_slice(&self.partial[self.sent..passes]);
            self.push(&mut passage, bytes);
            self.sent = passes;
        }
        passage
    }

    /// Takes the next event that is complete, and how much of it went to the client before; what
    /// is not complete is kept. Each byte is copied and searched once, however many pieces come.
    fn complete(&mut self, chunk: &mut Bytes) -> Option<(Bytes, usize)> {
        if self.partial.is_empty() {
            match sse::event_end(chunk, 0) {
                Some(end) => return Some((chunk.split_to(end), 0)),
                None => self.searched = chunk.len(),
            }
        }
        let came = std::mem::take(chunk);
        self.partial.extend_from_slice(&came);
        let Some(end) = sse::event_end(&self.partial, self.searched) else {
            self.searched = self.partial.len();
            return None;
        };
        let beyond = self.partial.len() - end;
        *chunk = came.slice(came.len() - beyond..);
        let mut event = std::mem::take(&mut self.partial).freeze();
        event.truncate(end);
        Some((event, std::mem::take(&mut self.sent)))
    }

    /// What is left when the upstream ends without completing its last event; that is read, too.
    pub fn finish(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.partial).freeze();
        if let Some(data) = sse::data(&rest)
            && self.learn(&data).only_usage
            && self.strips
        {
            return Bytes::new();
        }
        rest.slice(self.sent.min(rest.len())..)
    }

    /// Lets pass what came of an event that is too long to be kept, up to its end in `chunk`. The
    /// client has `sent` bytes of that.
    fn pass_long(&mut self, chunk: &mut Bytes, sent: usize, passage: &mut Passage) {
        let Some((mut walk, mut long)) = self.long.take() else { return };
        let was_closing = self.closing;
        let mut closing = None;
        let end = walk.read(chunk, |at, data| {
            let end = self.watch(&mut long, data).map(|end| at + end);
            closing = closing.or(end);
        });
        let piece = chunk.split_to(end.unwrap_or(chunk.len()));
        let closing =
            closing.filter(|_| self.closing && !was_closing).map_or(sent, |at| at.max(sent));
        if sent < closing {
            passage.pass.push(piece.slice(sent..closing));
        }
        self.push(passage, piece.slice(closing..));
        // It may be long in coming, and is not kept.
        passage.is_alive |= was_closing && !self.reading.terminated;
        if end.is_none() {
            self.long = Some((walk, long));
        } else if chunk.is_empty() && piece.ends_with(b"\r") {
            self.before_lf = Some(true);
        }
    }

    /// Watches a piece of the data of an event that is too long to be kept. Returns where in it
    /// all was said, which may be the end.
    fn watch(&mut self, long: &mut Long, piece: &[u8]) -> Option<usize> {
        let reading = &mut self.reading;
        reading.counted_output = reading.counted_output.max(1);
        match long {
            Long::OpenAi(event) => {
                let end = event.read(piece)?;
                self.note(&mut std::mem::take(event).said());
                return Some(end);
            }
            Long::Anthropic => {}
            Long::Gemini(capture) => {
                let (mut said, reported) = (Event::default(), reading.reported);
                capture.read(piece, |_, object| {
                    said.usage = gemini::usage::read(object).or(said.usage);
                    said.service_tier = gemini::usage::service_tier(object).or(said.service_tier);
                    // Nobody saw whether it says why it ended. Where more is said, it did not.
                    said.finish |= said.usage.or(reported).is_some();
                });
                self.searches.read(piece);
                self.note(&mut said);
            }
        }
        None
    }

    /// Learns what an event says.
    fn learn(&mut self, data: &[u8]) -> Event {
        let mut facts = match self.dialect {
            Dialect::OpenAi => openai::event::event(data),
            Dialect::Anthropic => anthropic::event::event(data, &mut self.counts),
            Dialect::Gemini => {
                self.searches.read(data);
                gemini::event::event(data)
            }
        };
        self.note(&mut facts);
        facts
    }

    /// Notes what an event says.
    fn note(&mut self, facts: &mut Event) {
        self.closing |= facts.end != End::Ahead;
        // Of several choices another one may go on.
        self.ended = facts.finish || self.ended && facts.output_tokens == 0;
        self.text_tokens += facts.output_tokens;
        self.kept_id = facts.kept_id.take().or(self.kept_id.take());
        let reading = &mut self.reading;
        reading.counted_pieces = reading.counted_pieces.and(facts.pieces);
        if facts.usage.is_some() {
            reading.reported = facts.usage;
            reading.shares = std::mem::take(&mut facts.shares);
        }
        reading.tell_searches(&self.searches);
        reading.lacks_input = lacks_input(self.dialect, reading.reported);
        reading.terminated |= facts.end == End::Here;
        reading.finished = reading.terminated || self.ended && reading.reported.is_some();
        reading.failed |= facts.failed;
        reading.service_tier = facts.service_tier.unwrap_or(reading.service_tier);
        // An answer that has begun was generated, though it may have said nothing yet.
        let least = if facts.end == End::Here { reading.counted_output } else { 1 };
        reading.counted_output = tokens_in(self.dialect, self.text_tokens).max(least);
    }

    /// Whether the event passes, of which the client has `sent` bytes.
    fn event(&mut self, event: &Bytes, sent: usize, passage: &mut Passage) -> bool {
        let was_closing = self.closing;
        let data = sse::data(event);
        let facts = data.as_deref().map(|data| self.learn(data)).unwrap_or_default();
        passage.is_alive |= was_closing && facts.end == End::Ahead && !self.reading.terminated;
        if self.strips && facts.only_usage {
            return false;
        }
        if self.closing && !was_closing {
            let before = match self.dialect {
                Dialect::OpenAi => openai::event::before_last(event),
                Dialect::Anthropic | Dialect::Gemini => self.before_closing(event, sent),
            };
            let closing = sent.max(before);
            if sent < closing {
                passage.pass.push(event.slice(sent..closing));
            }
            self.push(passage, event.slice(closing..));
            return true;
        }
        // One data line in all streams seen; where there are more, the event passes whole.
        let cut = facts.null_usage.filter(|_| self.strips).and_then(|null| {
            let start = memchr::memmem::find(event, data.as_deref()?)?;
            Some(start + null.start..start + null.end)
        });
        match cut {
            Some(cut) => {
                self.push(passage, event.slice(..cut.start));
                self.push(passage, event.slice(cut.end..));
            }
            None => self.push(passage, event.slice(sent..)),
        }
        true
    }

    fn push(&self, passage: &mut Passage, bytes: Bytes) {
        if !bytes.is_empty() {
            let list = if self.closing { &mut passage.end } else { &mut passage.pass };
            list.push(bytes);
        }
    }

    /// How much of an event comes before what a client takes for the end, or what may become so:
    /// clients that read lines act on it before its blank line. They have `sent` bytes of it.
    fn before_closing(&self, event: &[u8], sent: usize) -> usize {
        match self.dialect {
            Dialect::OpenAi => openai::event::before_end(event, sent),
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
