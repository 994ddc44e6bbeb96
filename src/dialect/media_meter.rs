//! Meters an answer of images or audio: what it says of its usage, in constant memory however long
//! its images are, and what of it waits for the settlement.

use bytes::Bytes;

use crate::dialect::json_extractor::JsonExtractor;
use crate::dialect::media::kind::Media;
use crate::dialect::media::usage;
use crate::dialect::stream_meter::{Metered, UsageReading};
use crate::dialect::{estimate, json};
use crate::domain::usage::{Unit, Usage};

/// How much of a line of a stream is kept: its beginning says what it is, and texts are short.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// The most that is held back behind what may be the end.
const HELD_BYTES_MAX: usize = 64 * 1024;

const DATA: &[u8] = b"data:";

/// Meters one answer.
///
/// An answer that reports no usage is taken to use all that its call was bound by, but for what can
/// be counted: its images, and the text that was heard.
#[derive(Debug)]
pub struct MediaMeter {
    media: Media,
    is_stream: bool,
    /// All that it can use; of pieces, those that are priced.
    max_usage: Usage,
    capture: JsonExtractor,
    reported: Option<Usage>,
    images: u64,
    text_tokens: u64,
    line: Line,
    event: Event,
    /// Whether a document is JSON, once it has begun.
    is_json: Option<bool>,
    /// Whether all was said.
    is_complete: bool,
    /// Whether a client may take what came for all.
    holding_tail: bool,
    held: Vec<Bytes>,
}

/// An event of a stream, as far as it came.
#[derive(Debug, Default)]
struct Event {
    reported: Option<Usage>,
    /// Whether its name says that it is the last of something.
    is_final: bool,
}

/// A line of a stream, as far as it came.
#[derive(Debug, Default)]
struct Line {
    /// Its beginning.
    prefix: Vec<u8>,
    length: usize,
}

impl MediaMeter {
    /// A meter for an answer that can use `most`.
    pub fn new(media: Media, is_stream: bool, max_usage: Usage) -> Self {
        Self {
            media,
            is_stream,
            max_usage,
            capture: JsonExtractor::new(&[b"usage", b"data"]),
            reported: None,
            images: 0,
            text_tokens: 0,
            line: Line::default(),
            event: Event::default(),
            is_json: None,
            is_complete: false,
            holding_tail: false,
            held: Vec::new(),
        }
    }

    /// Whether it is one of events.
    pub const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// What was learned so far.
    pub fn reading(&self) -> UsageReading {
        let mut usage = self.reported.unwrap_or(self.max_usage);
        for unit in Unit::MEDIA {
            if usage.get(*unit) == 0 {
                usage = usage.with(*unit, self.max_usage.get(*unit));
            }
        }
        if 0 < self.images && 0 < self.max_usage.get(Unit::Images) {
            usage = usage.with(Unit::Images, self.images);
        }
        UsageReading {
            reported: Some(usage),
            input_missing: self.reported.is_none(),
            counted_output: self.text_tokens,
            finished: self.is_complete && self.reported.is_some(),
            ..UsageReading::default()
        }
    }

    /// Reads what one read brought.
    pub fn read(&mut self, chunk: Bytes) -> Metered {
        if chunk.is_empty() {
            return Metered::default();
        }
        let held_from = if self.is_stream {
            self.scan_lines(&chunk)
        } else {
            self.scan_document(&chunk);
            Some(chunk.len() - 1)
        };
        let Some(from) = held_from else {
            self.held.push(chunk);
            return Metered::default();
        };
        let mut pass = std::mem::take(&mut self.held);
        self.held.extend(Some(chunk.slice(from..)).filter(|held| !held.is_empty()));
        pass.extend(Some(chunk.slice(..from)).filter(|passes| !passes.is_empty()));
        Metered { forward: pass, ..Metered::default() }
    }

    /// The answer is whole: what was held back of it.
    pub fn finish(&mut self) -> Bytes {
        if self.is_stream {
            self.end_line();
        } else {
            self.is_complete = true;
        }
        self.held.concat().into()
    }

    fn scan_document(&mut self, piece: &[u8]) {
        if self.media == Media::Speech {
            return;
        }
        let begins = piece.trim_ascii_start().first();
        self.is_json = self.is_json.or(begins.map(|first| *first == b'{'));
        if self.is_json == Some(false) {
            // A transcript that is no JSON may say anything, a report too.
            self.text_tokens += estimate::tokens_of_bytes(piece);
            return;
        }
        let (media, reported) = (self.media, &mut self.reported);
        self.capture.read(piece, |key, object| {
            if key == b"usage" {
                *reported = usage::read(media, object).or(*reported);
            }
        });
        self.images = self.capture.elements_seen();
        if media == Media::Transcription {
            self.text_tokens += estimate::tokens_of_bytes(piece);
        }
    }

    /// Reads a piece of a stream: from where on it is held back; `None` for all of it, and of what
    /// came before.
    fn scan_lines(&mut self, piece: &[u8]) -> Option<usize> {
        let mut held_from = if self.holding_tail { None } else { Some(piece.len()) };
        let mut at = 0;
        while at < piece.len() {
            let end = memchr::memchr(b'\n', &piece[at..]).map(|end| at + end);
            let was_closing = self.holding_tail;
            self.continue_line(&piece[at..end.unwrap_or(piece.len())]);
            if was_closing && !self.holding_tail {
                held_from = Some(piece.len());
            }
            let Some(end) = end else { break };
            let was_closing = self.holding_tail;
            self.end_line();
            if !was_closing && self.holding_tail {
                held_from = Some(end);
            }
            at = end + 1;
        }
        let held: usize = self.held.iter().map(Bytes::len).sum();
        if held_from.is_none() && HELD_BYTES_MAX < held + piece.len() {
            self.holding_tail = false;
            held_from = Some(piece.len());
        }
        held_from
    }

    fn continue_line(&mut self, piece: &[u8]) {
        let before = self.line.length;
        self.line.length += piece.len();
        let room = LINE_BYTES_MAX.saturating_sub(self.line.prefix.len());
        self.line.prefix.extend_from_slice(&piece[..piece.len().min(room)]);
        let Some(data) = self.line.prefix.strip_prefix(DATA) else { return };
        // Another event comes; the mark of the end is none.
        self.holding_tail &= data.trim_ascii_start().first().is_none_or(|first| *first == b'[');
        let inside = &piece[DATA.len().saturating_sub(before).min(piece.len())..];
        let (media, reported) = (self.media, &mut self.event.reported);
        self.capture.read(inside, |key, object| {
            if key == b"usage" {
                *reported = usage::read(media, object).or(*reported);
            }
        });
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = line.prefix.trim_ascii_end();
        if let Some(name) = text.strip_prefix(b"event:") {
            self.event.is_final = is_final_event(name.trim_ascii());
        } else if let Some(data) = text.strip_prefix(DATA) {
            self.end_data_line(data);
        } else if text.is_empty() {
            self.event = Event::default();
            self.capture = JsonExtractor::new(&[b"usage", b"data"]);
        }
    }

    /// A line of data came to its end.
    fn end_data_line(&mut self, data: &[u8]) {
        let mut is_last_one = self.event.is_final;
        let mut tokens = 0;
        json::each_named(data, &["type"], |name| {
            is_last_one |= is_final_event(json::string_of(name).unwrap_or_default().as_bytes());
        });
        if self.media == Media::Transcription {
            let texts: &[&str] = if is_last_one { &["text"] } else { &["delta"] };
            json::each_named(data, texts, |text| {
                tokens = estimate::tokens(&json::string_of(text).unwrap_or_default());
            });
        }
        let reported = self.event.reported.take();
        if is_last_one {
            self.text_tokens = self.text_tokens.max(tokens);
            self.images += 1;
            (self.is_complete, self.holding_tail) = (true, true);
        } else {
            self.text_tokens += tokens;
        }
        self.reported = match (self.reported, reported) {
            // Each image reports itself.
            (Some(before), Some(more)) if is_last_one && self.media == Media::Images => Some(
                more.counts()
                    .fold(before, |sum, (unit, count)| sum.with(unit, sum.get(unit) + count)),
            ),
            (before, now) => now.or(before),
        };
    }
}

/// Whether an event of that name is the last of an image, of a speech or of a transcript.
fn is_final_event(name: &[u8]) -> bool {
    name.ends_with(b".completed") || name.ends_with(b".done")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max_usage() -> Usage {
        Usage::from_tokens(100, 50).with(Unit::OutputImageTokens, 50).with(Unit::Images, 3)
    }

    /// What passed before the end, what was held back to it, and what was learned.
    fn read(media: Media, is_stream: bool, pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, UsageReading) {
        let mut meter = MediaMeter::new(media, is_stream, max_usage());
        let mut passed = Vec::new();
        for piece in pieces {
            let passage = meter.read(Bytes::copy_from_slice(piece));
            assert!(passage.held.is_empty());
            passed.extend(passage.forward.concat());
        }
        let end = meter.finish();
        (passed, end.to_vec(), meter.reading())
    }

    #[test]
    fn images_are_counted_and_their_usage_is_found_across_any_cut() {
        let body = br#"{"created":1,"data":[{"b64_json":"{[\"","x":{"y":[{}]}},{"url":"]"}],"usage":{"input_tokens":5,"output_tokens":272}}"#;
        for cut in 0..body.len() {
            let (passed, end, reading) = read(Media::Images, false, &[&body[..cut], &body[cut..]]);
            assert_eq!((passed.len(), end), (body.len() - 1, b"}".to_vec()), "{cut}");
            let expected =
                Usage::from_tokens(5, 272).with(Unit::OutputImageTokens, 272).with(Unit::Images, 2);
            assert_eq!(reading.reported, Some(expected), "{cut}");
            assert!(reading.finished && !reading.input_missing, "{cut}");
        }
    }

    #[test]
    fn what_reports_nothing_uses_the_most_but_for_what_was_counted() {
        let (.., reading) = read(Media::Images, false, &[br#"{"data":[{"url":"u"}]}"#]);
        assert_eq!(reading.reported, Some(max_usage().with(Unit::Images, 1)));
        assert!(reading.input_missing && !reading.finished);
        let (passed, end, reading) = read(Media::Speech, false, &[b"\"usage\":{", b"", b"ID3"]);
        assert_eq!((&passed[..], &end[..]), (&b"\"usage\":{ID"[..], &b"3"[..]));
        assert_eq!((reading.reported, reading.input_missing), (Some(max_usage()), true));
        let text = "Some words that were heard. ".repeat(4);
        let (.., reading) = read(Media::Transcription, false, &[text.as_bytes()]);
        assert!((20..=40).contains(&reading.counted_output), "{reading:?}");
    }

    const STREAM: &str = "event: image_generation.partial_image\r\n\
        data: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"AAAA\"}\r\n\r\n\
        : \"a comment\n\n\
        data: {\"type\":\"image_generation.completed\",\"b64_json\":\"BBBB\",\
        \"usage\":{\"input_tokens\":5,\"output_tokens\":272}}\n\ndata: [DONE]\n\n";

    #[test]
    fn a_stream_is_held_from_the_end_of_its_last_event_wherever_it_is_cut() {
        let last = STREAM.find("272}}").expect("there") + 5;
        for cut in 0..STREAM.len() {
            let pieces = [&STREAM.as_bytes()[..cut], &STREAM.as_bytes()[cut..]];
            let (passed, end, reading) = read(Media::Images, true, &pieces);
            assert_eq!(String::from_utf8_lossy(&passed), STREAM[..last], "{cut}");
            assert_eq!(String::from_utf8_lossy(&end), STREAM[last..], "{cut}");
            let usage = reading.reported.expect("always");
            assert_eq!((usage.get(Unit::OutputTokens), usage.get(Unit::Images)), (272, 1));
            assert!(reading.finished, "{cut}");
        }
    }

    #[test]
    fn each_of_several_images_reports_itself_and_does_not_wait_for_the_next() {
        let twice = format!("{}{STREAM}", STREAM.replace("data: [DONE]\n\n", ""));
        let (passed, end, reading) = read(Media::Images, true, &[twice.as_bytes()]);
        assert_eq!(
            (passed.len() + end.len(), end.len()),
            (twice.len(), "\n\ndata: [DONE]\n\n".len())
        );
        let usage = reading.reported.expect("always");
        assert_eq!((usage.get(Unit::OutputTokens), usage.get(Unit::Images)), (544, 2));
    }

    #[test]
    fn an_image_of_many_megabytes_is_not_kept() {
        let mut meter = MediaMeter::new(Media::Images, true, max_usage());
        let begun = b"event: image_edit.completed\ndata: {\"b64_json\":\"";
        meter.read(Bytes::from_static(begun));
        for _ in 0..2_000 {
            meter.read(Bytes::from(vec![b'A'; 16 * 1024]));
        }
        assert!(meter.line.prefix.capacity() <= 2 * LINE_BYTES_MAX && meter.held.is_empty());
        meter.read(Bytes::from_static(b"\",\"usage\":{\"output_tokens\":7}}\n\n"));
        assert_eq!(meter.finish(), "\n\n");
        let usage = meter.reading().reported.expect("always");
        assert_eq!(usage.get(Unit::OutputTokens), 7);
    }

    #[test]
    fn the_text_of_a_transcript_is_counted_until_its_usage_comes() {
        let said = "data: {\"type\":\"transcript.text.delta\",\"delta\":\"hello you\"}\n\n";
        let (passed, end, reading) = read(Media::Transcription, true, &[said.repeat(3).as_bytes()]);
        assert_eq!((passed.len(), end.len()), (3 * said.len(), 0));
        assert_eq!((reading.counted_output, reading.input_missing), (9, true));
        let done = "data: {\"type\":\"transcript.text.done\",\"text\":\"hello you\",\"usage\":\
                    {\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":45}}\n\n";
        let (.., reading) = read(Media::Transcription, true, &[said.as_bytes(), done.as_bytes()]);
        let usage = reading.reported.expect("always");
        assert_eq!((usage.get(Unit::InputAudioTokens), usage.get(Unit::OutputTokens)), (14, 45));
        assert!(reading.finished);
    }

    #[test]
    fn a_stream_that_goes_on_for_ever_behind_its_end_is_not_kept() {
        let mut meter = MediaMeter::new(Media::Speech, true, max_usage());
        meter.read(Bytes::from_static(b"data: {\"type\":\"speech.audio.done\"}\n"));
        let comments = Bytes::from(": still there\n".repeat(1_000));
        let passed: usize = (0..100)
            .flat_map(|_| meter.read(comments.clone()).forward)
            .map(|pass| pass.len())
            .sum();
        assert!(1_000_000 < passed, "{passed}");
    }
}
