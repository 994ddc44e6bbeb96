//! Tests of events that arrive in many pieces, or are too long to buffer.

use bytes::Bytes;

use crate::dialect::endpoint::Dialect;
use crate::dialect::stream_meter::{StreamMeter, UsageReading};
use crate::dialect::tests::meters::run_in;
use crate::domain::usage::{Unit, Usage};

/// A search of the whole buffer for each piece would take minutes.
#[test]
fn an_event_in_single_bytes_is_searched_in_linear_time() {
    let text = "hello ".repeat(150_000);
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":2}"#;
    let event = format!("data: {{\"choices\":[{{\"delta\":\"{text}\"}}],{usage}}}\n\n");
    let pieces: Vec<&str> = (0..event.len()).map(|at| &event[at..=at]).collect();
    for strips in [false, true] {
        let (forward, end, reading) = run_in(Dialect::OpenAi, strips, &pieces);
        assert!(forward == event && end.is_empty(), "{strips}");
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
    }
    let lines = "data:\n".repeat(150_000) + "data: {\"error\":1}\n\n";
    let (forward, _, reading) = run_in(Dialect::OpenAi, false, &[&lines]);
    assert!(forward == lines && reading.failed);
}

/// More than the meter buffers of an event.
const LONG_BYTES: usize = 5 << 20;

/// Placeholder of a long text.
const FILL: &str = "FILL";

const CREATED: &str = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\
    \"object\":\"response\",\"usage\":null}}\n\n";

/// The response that a last event repeats, with decoys of its usage.
const RESPONSE: &str = r#"{"id":"resp_1","object":"response","service_tier":"flex",
    "metadata":{"usage":{"input_tokens":1,"output_tokens":1},"type":"response.failed"},"output":[
    {"type":"image_generation_call","result":"FILL","usage":{"input_tokens":2}},
    {"type":"web_search_call","status":"completed","action":{"type":"search"}},
    {"type":"message","content":[{"text":"\"usage\":{\"input_tokens\":3,\"output_tokens\":3}}"}]}],
    "tool_usage":{"web_search":{"num_requests":4}},"error":ERROR,
    "usage":{"input_tokens":14,"input_tokens_details":{"cached_tokens":2},"output_tokens":6}}"#;

/// Returns last events of each kind, with their names at each possible position and each line end,
/// and whether they report a failure.
fn last_events() -> Vec<(String, bool)> {
    let mut events = Vec::new();
    for (at, kind) in ["completed", "incomplete", "failed"].into_iter().enumerate() {
        let failed = kind == "failed";
        let response = RESPONSE.replace('\n', "");
        let response = response.replace("ERROR", if failed { r#"{"code":"c"}"# } else { "null" });
        let name = format!("\"type\":\"response.{kind}\"");
        let first = format!("data: {{{name},\"response\":{response}}}\n\n");
        let last = format!("data: {{\"response\":{response},\"usage\":{{}},{name}}}\n\n");
        let line = format!("event: response.{kind}\n");
        let lines = format!("id: \"{{\n{}", last.replace(",\"", ",\ndata: \""));
        let texts = [first.clone(), line.clone() + &first, line.clone() + &last, line + &lines];
        for text in texts {
            events.push((text.replace('\n', ["\n", "\r\n", "\r"][at]), failed));
        }
    }
    events
}

/// Returns the whole text, the length that is forwarded before the settlement, the usage, and the
/// state id.
fn read(pieces: &[&str]) -> (String, usize, UsageReading, Option<String>) {
    let mut meter = StreamMeter::new(Dialect::OpenAi, false);
    let (mut forward, mut end) = (Vec::new(), Vec::new());
    for piece in pieces {
        let metered = meter.read(Bytes::copy_from_slice(piece.as_bytes()));
        forward.extend(metered.forward.concat());
        end.extend(metered.held.concat());
        assert_eq!(meter.reading().terminated, !end.is_empty(), "the end is held back");
    }
    let forwarded = forward.len();
    forward.extend(end);
    forward.extend(meter.finish());
    let text = String::from_utf8(forward).expect("text");
    (text, forwarded, meter.reading().clone(), meter.state_id().map(str::to_owned))
}

fn cut(text: &str, mut length: impl FnMut() -> usize) -> Vec<&str> {
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(length().clamp(1, rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

#[test]
fn an_oversized_last_event_is_read_and_its_end_is_held_back() {
    let fill = r"\u00e9{[\\".repeat(LONG_BYTES / 10);
    let mut seed = 7_u64;
    for (event, failed) in last_events() {
        let short = format!("{CREATED}{event}");
        let (_, _, reading, id) = read(&[&short]);
        let usage = Usage::from_tokens(14, 6).with(Unit::CachedInputTokens, 2);
        assert_eq!(
            reading.reported,
            Some(usage.with(Unit::WebSearches, 4).with(Unit::Images, 1)),
            "{event}"
        );
        assert_eq!((reading.failed, reading.service_tier.name()), (failed, "flex"), "{event}");
        assert_eq!(id.as_deref(), Some("resp_1"));

        let (before, after) = short.split_once(FILL).expect("a placeholder");
        let long = short.replace(FILL, &fill);
        let closed = long.rfind('}').expect("an object");
        let letters = |text| cut(text, || 1);
        let whole_fill = [letters(before), vec![&*fill], letters(after)].concat();
        let mut random = |max| {
            let next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                1 + (seed >> 33) as usize % max
            };
            cut(&long, next)
        };
        let cuts = [whole_fill, random(400_000), random(900)];
        for pieces in cuts {
            let (text, forwarded, long_reading, long_id) = read(&pieces);
            assert!(text == long, "the whole text is forwarded");
            assert_eq!(forwarded, closed, "{event}");
            assert_eq!((long_reading, &long_id), (reading.clone(), &id), "{event}");
        }
    }
}

#[test]
fn the_end_of_an_event_with_its_name_last_is_held_back() {
    let response = r#""response":{"usage":{"input_tokens":5}},"type":"response.completed""#;
    for end in ["\n", "\r\n", "\r"] {
        let last = format!("{CREATED}data: {{{response}}}\n\n").replace('\n', end);
        let closed = last.rfind('}').expect("an object");
        for at in 0..last.len() {
            let (all, forwarded, reading, _) = read(&[&last[..at], &last[at..]]);
            assert!(all == last && forwarded <= closed, "{at}: {forwarded} of {closed}");
            assert_eq!(reading.reported, Some(Usage::from_tokens(5, 0)));
        }
        let (all, forwarded, ..) = read(&cut(&last, || 1));
        assert!(all == last && forwarded == closed, "{forwarded} of {closed}");
    }
}

#[test]
fn an_oversized_event_is_not_buffered() {
    let mut meter = StreamMeter::new(Dialect::OpenAi, false);
    let fill = Bytes::from("A".repeat(1 << 20));
    meter
        .read(Bytes::from_static(b"data: {\"type\":\"response.completed\",\"response\":{\"a\":\""));
    for at in 0..30 {
        let forwarded = meter.read(fill.clone()).forward.concat().len();
        assert_eq!(forwarded == fill.len(), 4 <= at, "{at}");
    }
    let metered = meter.read(Bytes::from_static(b"\",\"usage\":{\"input_tokens\":5}}} "));
    assert_eq!(metered.held.concat(), b"} ");
    assert_eq!(meter.reading().reported, Some(Usage::from_tokens(5, 0)));
    assert_eq!(meter.read(Bytes::from_static(b"\n\n")).held.concat(), b"\n\n");
}

#[test]
fn an_oversized_event_before_the_last_is_forwarded() {
    let image = "A".repeat(LONG_BYTES);
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":2}"#;
    for (event, reported) in [
        (
            format!("\"type\":\"response.image_generation_call.partial_image\",\"b\":\"{image}\""),
            None,
        ),
        (
            format!(
                "\"type\":\"response.output_item.done\",{usage},\"item\":{{\"a\":\"{image}\"}}"
            ),
            None,
        ),
        (
            format!("\"choices\":[{{\"delta\":{{\"images\":[\"{image}\"]}}}}],{usage}"),
            Some(Usage::from_tokens(3, 2)),
        ),
    ] {
        let event = format!("data: {{{event}}}\r\n\r\n");
        let text = format!("{event}data: [DONE]\n\n");
        let (all, forwarded, reading, _) = read(&cut(&text, || 1_000_003));
        assert!(all == text);
        assert_eq!(forwarded, event.len());
        assert_eq!((reading.reported, reading.counted_output), (reported, 1));
    }
    let comment = format!(": {image}\ndata: [DONE]\n\n");
    let (_, forwarded, reading, _) = read(&cut(&comment, || 1_000_003));
    assert_eq!((forwarded, reading.terminated), (LONG_BYTES + 3, true));
}

#[test]
fn an_endless_event_is_forwarded() {
    let mut meter = StreamMeter::new(Dialect::OpenAi, true);
    let mut forwarded =
        meter.read(Bytes::from_static(b"data: {\"choices\":\"")).forward.concat().len();
    for _ in 0..80 {
        forwarded += meter.read(Bytes::from(vec![b'x'; 64 * 1024])).forward.concat().len();
    }
    assert!(4 * 1024 * 1024 < forwarded);
}

#[test]
fn an_oversized_image_event_reports_its_usage() {
    let image = "A".repeat(9 * 1024 * 1024);
    let event = |data: &str, tokens: u64| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"inlineData\":{{\"data\":\"{data}\"}}}}]}}}}],\
             \"usageMetadata\":{{\"promptTokenCount\":5,\"candidatesTokenCount\":{tokens},\"serviceTier\":\"flex\"}}}}\r\n\r\n"
        )
    };
    for (stream, tokens) in [
        (event(&image, 1_290), 1_290),
        (event(&image, 1_290).trim_end().to_owned(), 1_290),
        (event(&image, 1_290) + &event("A", 1_300), 1_300),
        (event(&image, 1_290) + &event(&image, 2_580), 2_580),
    ] {
        let pieces: Vec<&str> = stream
            .as_bytes()
            .chunks(1_000_003)
            .map(|piece| std::str::from_utf8(piece).expect("text"))
            .collect();
        let (forward, end, reading) = run_in(Dialect::Gemini, false, &pieces);
        assert!(forward + &end == stream, "{tokens}");
        assert_eq!(reading.reported, Some(Usage::from_tokens(5, tokens)));
        assert_eq!(reading.service_tier.name(), "flex");
    }
}

/// An event after a possible end may take long, so it is not buffered until it is complete.
#[test]
fn an_oversized_event_after_a_possible_end_flushes_the_tail() {
    let mut meter = StreamMeter::new(Dialect::Anthropic, false);
    let delta = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":2}}\n\ndata: ";
    assert!(!meter.read(Bytes::from(delta)).flush_held);
    let alive = (0..6).map(|_| meter.read(Bytes::from(vec![b'x'; 1 << 20])).flush_held);
    assert_eq!(alive.collect::<Vec<_>>(), [false, false, false, true, true, true]);
}
