//! Meters a response with images or audio in constant memory, and holds back its end until the call
//! is settled.

use bytes::Bytes;

use crate::dialect::json_extractor::JsonExtractor;
use crate::dialect::media::kind::Media;
use crate::dialect::media::usage;
use crate::dialect::stream_meter::{Metered, UsageReading};
use crate::dialect::{estimate, json};
use crate::domain::usage::{Unit, Usage};

/// Maximum buffered length of a line. Its beginning identifies it, and texts are short.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Maximum of bytes that are held back after a possible end.
const HELD_BYTES_MAX: usize = 64 * 1024;

const DATA: &[u8] = b"data:";

/// Meters one response.
///
/// If a response reports no usage, the bound of the call is billed, except for what the meter can
/// count: images and transcribed text.
#[derive(Debug)]
pub struct MediaMeter {
    media: Media,
    is_stream: bool,
    /// Maximum usage of the call.
    max_usage: Usage,
    extractor: JsonExtractor,
    reported: Option<Usage>,
    images: u64,
    text_tokens: u64,
    line: Line,
    event: Event,
    /// Whether a document is JSON; none before its first bytes.
    is_json: Option<bool>,
    /// Whether the response is complete.
    is_complete: bool,
    /// Whether the bytes so far may look complete to a client, so that the tail is held back.
    holding_tail: bool,
    held: Vec<Bytes>,
}

/// The current event of a stream.
#[derive(Debug, Default)]
struct Event {
    reported: Option<Usage>,
    /// Whether its name is that of the last event of an image or a text.
    is_final: bool,
}

/// The current line of a stream.
#[derive(Debug, Default)]
struct Line {
    /// At most [`LINE_BYTES_MAX`] bytes.
    prefix: Vec<u8>,
    length: usize,
}

impl MediaMeter {
    pub fn new(media: Media, is_stream: bool, max_usage: Usage) -> Self {
        Self {
            media,
            is_stream,
            max_usage,
            extractor: JsonExtractor::new(&[b"usage", b"data"]),
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

    pub const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Returns the usage read so far.
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

    /// Reads the next chunk of the response.
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
        let mut forward = std::mem::take(&mut self.held);
        self.held.extend(Some(chunk.slice(from..)).filter(|held| !held.is_empty()));
        forward.extend(Some(chunk.slice(..from)).filter(|bytes| !bytes.is_empty()));
        Metered { forward, ..Metered::default() }
    }

    /// Returns the bytes that were held back, at the end of the response.
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
        let first = piece.trim_ascii_start().first();
        self.is_json = self.is_json.or(first.map(|first| *first == b'{'));
        if self.is_json == Some(false) {
            // A plain-text transcript may contain anything, even a usage report.
            self.text_tokens += estimate::tokens_of_bytes(piece);
            return;
        }
        let (media, reported) = (self.media, &mut self.reported);
        self.extractor.read(piece, |key, object| {
            if key == b"usage" {
                *reported = usage::read(media, object).or(*reported);
            }
        });
        self.images = self.extractor.elements_seen();
        if media == Media::Transcription {
            self.text_tokens += estimate::tokens_of_bytes(piece);
        }
    }

    /// Reads a piece of a stream. Returns the position from which to hold back the piece; none to
    /// hold back all of it and what is held already.
    fn scan_lines(&mut self, piece: &[u8]) -> Option<usize> {
        let mut held_from = if self.holding_tail { None } else { Some(piece.len()) };
        let mut at = 0;
        while at < piece.len() {
            let end = memchr::memchr(b'\n', &piece[at..]).map(|end| at + end);
            let was_holding = self.holding_tail;
            self.continue_line(&piece[at..end.unwrap_or(piece.len())]);
            if was_holding && !self.holding_tail {
                held_from = Some(piece.len());
            }
            let Some(end) = end else { break };
            let was_holding = self.holding_tail;
            self.end_line();
            if !was_holding && self.holding_tail {
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
        let available = LINE_BYTES_MAX.saturating_sub(self.line.prefix.len());
        self.line.prefix.extend_from_slice(&piece[..piece.len().min(available)]);
        let Some(data) = self.line.prefix.strip_prefix(DATA) else { return };
        // Another event begins, unless this is `data: [DONE]`.
        self.holding_tail &= data.trim_ascii_start().first().is_none_or(|first| *first == b'[');
        let inside = &piece[DATA.len().saturating_sub(before).min(piece.len())..];
        let (media, reported) = (self.media, &mut self.event.reported);
        self.extractor.read(inside, |key, object| {
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
            self.extractor = JsonExtractor::new(&[b"usage", b"data"]);
        }
    }

    fn end_data_line(&mut self, data: &[u8]) {
        let mut is_final = self.event.is_final;
        let mut tokens = 0;
        json::each_named(data, &["type"], |name| {
            is_final |= is_final_event(json::string_of(name).unwrap_or_default().as_bytes());
        });
        if self.media == Media::Transcription {
            let texts: &[&str] = if is_final { &["text"] } else { &["delta"] };
            json::each_named(data, texts, |text| {
                tokens = estimate::tokens(&json::string_of(text).unwrap_or_default());
            });
        }
        let reported = self.event.reported.take();
        if is_final {
            self.text_tokens = self.text_tokens.max(tokens);
            self.images += 1;
            (self.is_complete, self.holding_tail) = (true, true);
        } else {
            self.text_tokens += tokens;
        }
        self.reported = match (self.reported, reported) {
            // Each image has a report of its own.
            (Some(before), Some(more)) if is_final && self.media == Media::Images => Some(
                more.counts()
                    .fold(before, |sum, (unit, count)| sum.with(unit, sum.get(unit) + count)),
            ),
            (before, now) => now.or(before),
        };
    }
}

/// Whether an event of this name is the last of an image, of speech or of a transcript.
fn is_final_event(name: &[u8]) -> bool {
    name.ends_with(b".completed") || name.ends_with(b".done")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max_usage() -> Usage {
        Usage::from_tokens(100, 50).with(Unit::OutputImageTokens, 50).with(Unit::Images, 3)
    }

    /// Returns the bytes forwarded before the end, the bytes held back, and the usage.
    fn read(media: Media, is_stream: bool, pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, UsageReading) {
        let mut meter = MediaMeter::new(media, is_stream, max_usage());
        let mut passed = Vec::new();
        for piece in pieces {
            let metered = meter.read(Bytes::copy_from_slice(piece));
            assert!(metered.held.is_empty());
            passed.extend(metered.forward.concat());
        }
        let end = meter.finish();
        (passed, end.to_vec(), meter.reading())
    }

    #[test]
    fn images_are_counted_and_their_usage_is_found_at_any_cut() {
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
    fn without_a_report_the_maximum_applies_except_for_counted_units() {
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
    fn a_stream_is_held_from_the_end_of_its_last_event() {
        let last = STREAM.find("272}}").expect("the usage") + 5;
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
    fn reports_of_several_images_are_added() {
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
    fn a_large_image_is_not_buffered() {
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
    fn transcribed_text_is_counted_until_usage_is_reported() {
        let delta = "data: {\"type\":\"transcript.text.delta\",\"delta\":\"hello you\"}\n\n";
        let (passed, end, reading) =
            read(Media::Transcription, true, &[delta.repeat(3).as_bytes()]);
        assert_eq!((passed.len(), end.len()), (3 * delta.len(), 0));
        assert_eq!((reading.counted_output, reading.input_missing), (9, true));
        let done = "data: {\"type\":\"transcript.text.done\",\"text\":\"hello you\",\"usage\":\
                    {\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":45}}\n\n";
        let (.., reading) = read(Media::Transcription, true, &[delta.as_bytes(), done.as_bytes()]);
        let usage = reading.reported.expect("always");
        assert_eq!((usage.get(Unit::InputAudioTokens), usage.get(Unit::OutputTokens)), (14, 45));
        assert!(reading.finished);
    }

    #[test]
    fn an_endless_stream_after_its_end_is_not_buffered() {
        let mut meter = MediaMeter::new(Media::Speech, true, max_usage());
        meter.read(Bytes::from_static(b"data: {\"type\":\"speech.audio.done\"}\n"));
        let comments = Bytes::from(": keep-alive\n".repeat(1_000));
        let passed: usize = (0..100)
            .flat_map(|_| meter.read(comments.clone()).forward)
            .map(|pass| pass.len())
            .sum();
        assert!(1_000_000 < passed, "{passed}");
    }
}
