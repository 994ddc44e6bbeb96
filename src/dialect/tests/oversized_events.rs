//! Events that come in many pieces, or are too long to be kept.

use bytes::Bytes;

use crate::dialect::endpoint::Dialect;
use crate::dialect::stream_meter::{StreamMeter, UsageReading};
use crate::dialect::tests::meters::run_in;
use crate::domain::usage::{Unit, Usage};

/// To look at all that came with each piece would take minutes.
#[test]
fn an_event_that_comes_byte_by_byte_is_looked_at_once() {
    let text = "hello ".repeat(150_000);
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":2}"#;
    let event = format!("data: {{\"choices\":[{{\"delta\":\"{text}\"}}],{usage}}}\n\n");
    let pieces: Vec<&str> = (0..event.len()).map(|at| &event[at..=at]).collect();
    for strips in [false, true] {
        let (pass, end, reading) = run_in(Dialect::OpenAi, strips, &pieces);
        assert!(pass == event && end.is_empty(), "{strips}");
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
    }
    let lines = "data:\n".repeat(150_000) + "data: {\"error\":1}\n\n";
    let (pass, _, reading) = run_in(Dialect::OpenAi, false, &[&lines]);
    assert!(pass == lines && reading.failed);
}

/// More than is kept of an event.
const LONG_BYTES: usize = 5 << 20;

/// What stands for what is long.
const FILL: &str = "FILL";

const CREATED: &str = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\
    \"object\":\"response\",\"usage\":null}}\n\n";

/// The response that a last event repeats, with more than it says of its own usage.
const RESPONSE: &str = r#"{"id":"resp_1","object":"response","service_tier":"flex",
    "metadata":{"usage":{"input_tokens":1,"output_tokens":1},"type":"response.failed"},"output":[
    {"type":"image_generation_call","result":"FILL","usage":{"input_tokens":2}},
    {"type":"web_search_call","status":"completed","action":{"type":"search"}},
    {"type":"message","content":[{"text":"\"usage\":{\"input_tokens\":3,\"output_tokens\":3}}"}]}],
    "tool_usage":{"web_search":{"num_requests":4}},"error":ERROR,
    "usage":{"input_tokens":14,"input_tokens_details":{"cached_tokens":2},"output_tokens":6}}"#;

/// Last events of each kind, their names where they may stand, and what ends their lines.
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

/// All of it, and what of it passes before the settlement.
fn read(pieces: &[&str]) -> (String, usize, UsageReading, Option<String>) {
    let mut meter = StreamMeter::new(Dialect::OpenAi, false);
    let (mut pass, mut end) = (Vec::new(), Vec::new());
    for piece in pieces {
        let passage = meter.read(Bytes::copy_from_slice(piece.as_bytes()));
        pass.extend(passage.forward.concat());
        end.extend(passage.held.concat());
        assert_eq!(meter.reading().terminated, !end.is_empty(), "it waits for its settlement");
    }
    let passed = pass.len();
    pass.extend(end);
    pass.extend(meter.finish());
    let text = String::from_utf8(pass).expect("text");
    (text, passed, meter.reading().clone(), meter.state_id().map(str::to_owned))
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
fn the_last_event_of_a_response_is_read_however_long_it_is_and_its_end_waits() {
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

        let (before, after) = short.split_once(FILL).expect("there");
        let long = short.replace(FILL, &fill);
        let closed = long.rfind('}').expect("there");
        let letters = |text| cut(text, || 1);
        let whole_fill = [letters(before), vec![&*fill], letters(after)].concat();
        let mut random = |most| {
            let next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                1 + (seed >> 33) as usize % most
            };
            cut(&long, next)
        };
        let ways = [whole_fill, random(400_000), random(900)];
        for pieces in ways {
            let (text, passed, its, its_id) = read(&pieces);
            assert!(text == long, "all of it comes");
            assert_eq!(passed, closed, "{event}");
            assert_eq!((its, &its_id), (reading.clone(), &id), "{event}");
        }
    }
}

#[test]
fn an_event_that_has_its_name_last_ends_behind_its_settlement_wherever_it_is_cut() {
    let response = r#""response":{"usage":{"input_tokens":5}},"type":"response.completed""#;
    for end in ["\n", "\r\n", "\r"] {
        let last = format!("{CREATED}data: {{{response}}}\n\n").replace('\n', end);
        let closed = last.rfind('}').expect("there");
        for at in 0..last.len() {
            let (all, passed, reading, _) = read(&[&last[..at], &last[at..]]);
            assert!(all == last && passed <= closed, "{at}: {passed} of {closed}");
            assert_eq!(reading.reported, Some(Usage::from_tokens(5, 0)));
        }
        let (all, passed, ..) = read(&cut(&last, || 1));
        assert!(all == last && passed == closed, "{passed} of {closed}");
    }
}

#[test]
fn of_a_long_event_nothing_is_kept() {
    let mut meter = StreamMeter::new(Dialect::OpenAi, false);
    let fill = Bytes::from("A".repeat(1 << 20));
    meter
        .read(Bytes::from_static(b"data: {\"type\":\"response.completed\",\"response\":{\"a\":\""));
    for at in 0..30 {
        let passed = meter.read(fill.clone()).forward.concat().len();
        assert_eq!(passed == fill.len(), 4 <= at, "{at}");
    }
    let passage = meter.read(Bytes::from_static(b"\",\"usage\":{\"input_tokens\":5}}} "));
    assert_eq!(passage.held.concat(), b"} ");
    assert_eq!(meter.reading().reported, Some(Usage::from_tokens(5, 0)));
    assert_eq!(meter.read(Bytes::from_static(b"\n\n")).held.concat(), b"\n\n");
}

#[test]
fn a_long_event_that_is_not_the_last_passes_whole_and_what_follows_is_read() {
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
        let (all, passed, reading, _) = read(&cut(&text, || 1_000_003));
        assert!(all == text);
        assert_eq!(passed, event.len());
        assert_eq!((reading.reported, reading.counted_output), (reported, 1));
    }
    let comment = format!(": {image}\ndata: [DONE]\n\n");
    let (_, passed, reading, _) = read(&cut(&comment, || 1_000_003));
    assert_eq!((passed, reading.terminated), (LONG_BYTES + 3, true));
}

#[test]
fn an_endless_event_passes_unread() {
    let mut meter = StreamMeter::new(Dialect::OpenAi, true);
    let mut passed =
        meter.read(Bytes::from_static(b"data: {\"choices\":\"")).forward.concat().len();
    for _ in 0..80 {
        passed += meter.read(Bytes::from(vec![b'x'; 64 * 1024])).forward.concat().len();
    }
    assert!(4 * 1024 * 1024 < passed);
}

#[test]
fn an_image_that_is_too_long_to_be_kept_reports_its_usage_all_the_same() {
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
        let (pass, end, reading) = run_in(Dialect::Gemini, false, &pieces);
        assert!(pass + &end == stream, "{tokens}");
        assert_eq!(reading.reported, Some(Usage::from_tokens(5, tokens)));
        assert_eq!(reading.service_tier.name(), "flex");
    }
}

/// What may be long in coming behind an end is not kept until it has come.
#[test]
fn behind_what_may_be_the_end_a_long_event_shows_that_its_provider_is_alive() {
    let mut meter = StreamMeter::new(Dialect::Anthropic, false);
    let delta = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":2}}\n\ndata: ";
    assert!(!meter.read(Bytes::from(delta)).flush_held);
    let alive = (0..6).map(|_| meter.read(Bytes::from(vec![b'x'; 1 << 20])).flush_held);
    assert_eq!(alive.collect::<Vec<_>>(), [false, false, false, true, true, true]);
}
