//! Meters: what an answer says of its usage, read as it passes, and where its end begins.

use bytes::{Bytes, BytesMut};

use crate::dialect::capture::Capture;
use crate::dialect::endpoint::Dialect;
use crate::dialect::openai::{event, usage};
use crate::dialect::{estimate, sse};
use crate::domain::usage::Usage;

/// What one piece of an answer becomes for the client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// To be sent at once, in order.
    pub pass: Vec<Bytes>,
    /// The terminator and what follows it: to be sent once the call is settled.
    pub end: Vec<Bytes>,
}

/// What was learned so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// The last usage that the provider reported.
    pub reported: Option<Usage>,
    /// Output tokens by our own count.
    pub counted_output: u64,
    /// Whether the terminator was seen: the call can be settled.
    pub terminated: bool,
    /// Whether the provider said all it has to say, though its terminator may be still to come.
    pub finished: bool,
}

/// The longest incomplete event that is held back or kept for metering. A longer one passes
/// unread: no usage event is so long.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

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
    reading: Reading,
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
            reading: Reading::default(),
        }
    }

    /// What was learned so far.
    pub const fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Reads what one read brought.
    pub fn read(&mut self, chunk: Bytes) -> Passage {
        let mut passage = Passage::default();
        // Bytes of the partial event that went to the client with an earlier chunk.
        let sent = std::mem::take(&mut self.sent);
        let whole = if self.partial.is_empty() {
            chunk
        } else {
            self.partial.extend_from_slice(&chunk);
            std::mem::take(&mut self.partial).freeze()
        };
        let mut at = 0;
        let mut search_from = std::mem::take(&mut self.searched);
        while let Some(length) = sse::event_end(&whole[at..], search_from) {
            search_from = 0;
            let event = at..at + length;
            at = event.end;
            self.event(&whole, event, sent, &mut passage);
        }
        let rest = whole.slice(at..);
        let is_too_long = EVENT_BYTES_MAX < rest.len();
        if is_too_long || !(self.strips || may_be_terminator(&rest)) {
            self.push(&mut passage, whole.slice(at.max(sent)..));
            self.sent = rest.len();
        }
        if is_too_long {
            self.sent = 0;
        } else {
            self.searched = rest.len();
            self.partial = BytesMut::from(&rest[..]);
        }
        passage
    }

    /// What is left when the upstream ends without completing its last event.
    pub fn finish(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.partial).freeze();
        rest.slice(self.sent.min(rest.len())..)
    }

    fn event(
        &mut self,
        whole: &Bytes,
        range: std::ops::Range<usize>,
        sent: usize,
        passage: &mut Passage,
    ) {
        let bytes = whole.slice(range.start.max(sent.min(range.end))..range.end);
        let event = &whole[range.clone()];
        let Some(data) = sse::data(event) else { return self.push(passage, bytes) };
        let facts = match self.dialect {
            Dialect::OpenAi | Dialect::Anthropic | Dialect::Gemini => event::event(&data),
        };
        self.reading.reported = facts.usage.or(self.reading.reported);
        self.reading.counted_output += facts.output_tokens;
        if facts.terminator {
            self.reading.terminated = true;
        } else {
            // An answer that has begun was generated, though it may have said nothing yet.
            self.reading.counted_output = self.reading.counted_output.max(1);
        }
        if self.strips && facts.only_usage {
            return;
        }
        match facts.null_usage {
            Some(null) if self.strips => {
                // One data line in all streams seen; where there are more, the event passes whole.
                let Some(start) = memchr::memmem::find(event, &data) else {
                    return self.push(passage, bytes);
                };
                let cut = range.start + start + null.start..range.start + start + null.end;
                self.push(passage, whole.slice(range.start..cut.start));
                self.push(passage, whole.slice(cut.end..range.end));
            }
            _ => self.push(passage, bytes),
        }
    }

    fn push(&self, passage: &mut Passage, bytes: Bytes) {
        if !bytes.is_empty() {
            let list = if self.reading.terminated { &mut passage.end } else { &mut passage.pass };
            list.push(bytes);
        }
    }
}

/// Whether an incomplete event is, or may become, the terminator: clients that read lines stop at
/// its first one.
fn may_be_terminator(event: &[u8]) -> bool {
    [&b"data: [DONE]"[..], b"data:[DONE]"].iter().any(|terminator| {
        !event.is_empty() && event.starts_with(&terminator[..terminator.len().min(event.len())])
    })
}

/// Meters an answer that is one JSON document.
#[derive(Debug)]
pub struct BodyMeter {
    capture: Capture,
    reported: Option<Usage>,
    counted: u64,
}

impl BodyMeter {
    /// A meter for an answer in that dialect.
    pub const fn new(dialect: Dialect) -> Self {
        let key: &[u8] = match dialect {
            Dialect::OpenAi | Dialect::Anthropic => b"\"usage\"",
            Dialect::Gemini => b"\"usageMetadata\"",
        };
        Self { capture: Capture::new(key), reported: None, counted: 0 }
    }

    /// Reads what one read brought.
    pub fn read(&mut self, chunk: &[u8]) {
        self.counted += estimate::tokens_of_bytes(chunk);
        let reported = &mut self.reported;
        self.capture.read(chunk, |object| *reported = usage::read(object).or(*reported));
    }

    /// What was learned so far.
    pub const fn reading(&self) -> Reading {
        Reading {
            reported: self.reported,
            counted_output: self.counted,
            terminated: false,
            finished: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"one two\"}}],\"usage\":null}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );
    const STRIPPED: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"one two\"}}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n",
    );

    fn run(strips: bool, pieces: &[&str]) -> (String, String, Reading) {
        let mut meter = StreamMeter::new(Dialect::OpenAi, strips);
        let (mut pass, mut end) = (Vec::new(), Vec::new());
        for piece in pieces {
            let passage = meter.read(Bytes::copy_from_slice(piece.as_bytes()));
            pass.extend(passage.pass.concat());
            end.extend(passage.end.concat());
        }
        end.extend(meter.finish());
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(pass), text(end), *meter.reading())
    }

    #[test]
    fn cut_anywhere_the_client_sees_the_same_and_the_meter_reads_the_same() {
        for cut in 0..STREAM.len() {
            let pieces = [&STREAM[..cut], &STREAM[cut..]];
            let (pass, end, reading) = run(true, &pieces);
            assert_eq!((pass.as_str(), end.as_str()), (STRIPPED, "data: [DONE]\n\n"), "{cut}");
            assert_eq!(reading.reported, Some(Usage::tokens_of(3, 2)));
            assert_eq!(reading.counted_output, 2);
            let (pass, end, reading) = run(false, &pieces);
            assert_eq!(pass + &end, STREAM, "{cut}");
            assert_eq!(end, "data: [DONE]\n\n", "{cut}");
            assert!(reading.terminated);
            assert_eq!(reading.reported, Some(Usage::tokens_of(3, 2)));
        }
    }

    #[test]
    fn byte_by_byte_is_no_different() {
        let pieces: Vec<&str> = (0..STREAM.len()).map(|at| &STREAM[at..=at]).collect();
        let (pass, end, reading) = run(true, &pieces);
        assert_eq!((pass.as_str(), end.as_str()), (STRIPPED, "data: [DONE]\n\n"));
        assert!(reading.terminated);
        let (pass, end, _) = run(false, &pieces);
        assert_eq!(pass + &end, STREAM);
    }

    #[test]
    fn an_endless_event_passes_unread() {
        let mut meter = StreamMeter::new(Dialect::OpenAi, true);
        let mut passed =
            meter.read(Bytes::from_static(b"data: {\"choices\":\"")).pass.concat().len();
        for _ in 0..80 {
            passed += meter.read(Bytes::from(vec![b'x'; 64 * 1024])).pass.concat().len();
        }
        assert!(EVENT_BYTES_MAX < passed);
    }

    #[test]
    fn a_terminator_without_its_blank_line_is_held_back_too() {
        for strips in [false, true] {
            let (pass, end, _) = run(strips, &["data: {}\n\nda", "ta: [DO", "NE]\n"]);
            assert_eq!((pass.as_str(), end.as_str()), ("data: {}\n\n", "data: [DONE]\n"));
        }
    }

    #[test]
    fn a_body_reports_its_last_usage() {
        let mut meter = BodyMeter::new(Dialect::OpenAi);
        meter.read(br#"{"choices":[{"message":{"content":"\"usage\":{}"}}],"usa"#);
        meter.read(br#"ge":{"prompt_tokens":5,"completion_tokens":6}}"#);
        assert_eq!(meter.reading().reported, Some(Usage::tokens_of(5, 6)));
    }
}
