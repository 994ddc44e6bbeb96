//! Tests of the usage that the meters read, and of the bytes that they forward.

use bytes::Bytes;

use crate::dialect::endpoint::Dialect;
use crate::dialect::json_meter::JsonBodyMeter;
use crate::dialect::stream_meter::{StreamMeter, UsageReading};
use crate::domain::usage::{Unit, Usage};

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

pub fn run(strips: bool, pieces: &[&str]) -> (String, String, UsageReading) {
    run_in(Dialect::OpenAi, strips, pieces)
}

pub fn run_in(dialect: Dialect, strips: bool, pieces: &[&str]) -> (String, String, UsageReading) {
    let mut meter = StreamMeter::new(dialect, strips);
    let (mut pass, mut end) = (Vec::new(), Vec::new());
    for piece in pieces {
        let metered = meter.read(Bytes::copy_from_slice(piece.as_bytes()));
        pass.extend(metered.forward.concat());
        end.extend(metered.held.concat());
    }
    end.extend(meter.finish());
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(pass), text(end), meter.reading().clone())
}

#[test]
fn bytes_and_usage_are_the_same_at_any_cut() {
    for cut in 0..STREAM.len() {
        let pieces = [&STREAM[..cut], &STREAM[cut..]];
        let (pass, end, reading) = run(true, &pieces);
        assert_eq!((pass.as_str(), end.as_str()), (STRIPPED, "data: [DONE]\n\n"), "{cut}");
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
        assert_eq!(reading.counted_output, 2);
        let (pass, end, reading) = run(false, &pieces);
        assert_eq!(pass + &end, STREAM, "{cut}");
        assert_eq!(end, "data: [DONE]\n\n", "{cut}");
        assert!(reading.terminated);
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
    }
}

#[test]
fn bytes_and_usage_are_the_same_in_single_bytes() {
    let pieces: Vec<&str> = (0..STREAM.len()).map(|at| &STREAM[at..=at]).collect();
    let (pass, end, reading) = run(true, &pieces);
    assert_eq!((pass.as_str(), end.as_str()), (STRIPPED, "data: [DONE]\n\n"));
    assert!(reading.terminated);
    let (pass, end, _) = run(false, &pieces);
    assert_eq!(pass + &end, STREAM);
}

/// Returns each stream of this file with each kind of line end.
fn framed() -> Vec<(Dialect, String)> {
    let long = "data: {\"choices\":[{\"delta\":\ndata: {\"content\":\"héllo 🌍\"}}]}\n\n";
    let streams = [
        (Dialect::OpenAi, STREAM.replace("\r\n", "\n")),
        (Dialect::OpenAi, "\u{feff}".to_owned() + STREAM),
        (Dialect::OpenAi, [long, ":\n", STREAM].concat()),
        (Dialect::OpenAi, STREAM.replace("data: [DONE]\n\n", "")),
        (Dialect::Anthropic, [MESSAGE, ":alive\n\n", MESSAGE_END].concat()),
        (Dialect::Gemini, gemini_stream().replace("\r\n", "\n")),
    ];
    let ends = ["\n", "\r\n", "\r"];
    let each = ends.into_iter().flat_map(|end| {
        let with = move |(dialect, text): &(Dialect, String)| (*dialect, text.replace('\n', end));
        streams.iter().map(with).collect::<Vec<_>>()
    });
    each.filter(|(_, text)| !text.contains("\r\r\n")).collect()
}

#[test]
fn bytes_and_usage_are_the_same_with_any_line_end() {
    let mut streams = 0;
    for (dialect, text) in framed() {
        streams += 1;
        for strips in [false, true] {
            let whole = run_in(dialect, strips, &[&text]);
            let joined =
                |(pass, end, reading): (String, String, UsageReading)| (pass + &end, reading);
            let (forwarded, reading) = joined(whole);
            assert!(reading.reported.is_some() && 0 < reading.counted_output, "{text:?}");
            assert_eq!(forwarded == text, !strips || dialect != Dialect::OpenAi, "{text:?}");
            for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                let two = run_in(dialect, strips, &[&text[..cut], &text[cut..]]);
                assert_eq!(
                    joined(two),
                    (forwarded.clone(), reading.clone()),
                    "{cut} {strips} {text:?}"
                );
            }
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            assert_eq!(joined(run_in(dialect, strips, &letters)), (forwarded, reading), "{text:?}");
        }
    }
    assert!(12 <= streams, "{streams}");
}

#[test]
fn an_error_in_a_stream_is_a_failure_in_every_dialect() {
    let error = r#"{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}"#;
    let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
    let event = |data: &str| format!("data: {data}\n\n");
    for (dialect, stream) in [
        (Dialect::OpenAi, event(error)),
        (Dialect::OpenAi, "event: error\r".to_owned() + &event(error).replace('\n', "\r")),
        (Dialect::Anthropic, event(anthropic)),
        (Dialect::Gemini, event(error)),
        (Dialect::Gemini, event(&error.replace(':', ":\n")).replacen("data: ", "", 1)),
        (Dialect::Gemini, error.to_owned()),
    ] {
        let (pass, end, reading) = run_in(dialect, false, &[&stream]);
        assert_eq!(pass + &end, stream);
        assert!(reading.failed && !reading.finished, "{stream:?}");
        let mut meter = JsonBodyMeter::new(dialect);
        meter.read(error.as_bytes());
        assert!(meter.reading().failed);
        let mut meter = JsonBodyMeter::new(dialect);
        meter.read(br#"{"error":null,"content":[{"error":{}}]}"#);
        assert!(!meter.reading().failed);
    }
}

#[test]
fn events_after_a_held_tail_flush_it() {
    let [delta, ping, finish] = {
        let mut events = MESSAGE_END.split_inclusive("\n\n");
        [events.next(), events.next(), events.next()].map(|event| event.expect("three events"))
    };
    let mut meter = StreamMeter::new(Dialect::Anthropic, false);
    let mut read = |text: &str| {
        let metered = meter.read(Bytes::copy_from_slice(text.as_bytes()));
        (metered.forward.is_empty(), metered.flush_held)
    };
    assert_eq!(read(MESSAGE), (false, false));
    assert_eq!(read(delta), (true, false));
    assert_eq!(read(ping), (true, true));
    assert_eq!(read(": alive\n\n"), (true, true));
    assert_eq!(read(finish), (true, false));
}

#[test]
fn the_tier_is_that_of_the_response() {
    let (_, _, reading) = run_in(
        Dialect::Anthropic,
        false,
        &[&MESSAGE.replace("\"output_tokens\":1", "\"service_tier\":\"priority\""), MESSAGE_END],
    );
    assert_eq!(reading.service_tier.name(), "priority");
    let (_, _, reading) =
        run_in(Dialect::Gemini, false, &[&gemini_stream().replace("ON_DEMAND", "ON_DEMAND_FLEX")]);
    assert_eq!(reading.service_tier.name(), "flex");
    let mut meter = JsonBodyMeter::new(Dialect::Anthropic);
    meter.read(br#"{"usage":{"input_tokens":1,"service_tier":"priority","speed":"fast"}}"#);
    assert_eq!(meter.reading().service_tier.name(), "fast");
}

#[test]
fn searches_of_gemini_are_added_to_its_usage() {
    let grounding = r#""groundingMetadata":{"webSearchQueries":["a","b"]}"#;
    let chunk = |more: &str| {
        format!(
            r#"{{"candidates":[{{"finishReason":"STOP",{grounding}}}],"modelVersion":"gemini-3"{more}}}"#
        )
    };
    let usage = r#","usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":6}"#;
    let wanted = Some(Usage::from_tokens(5, 6).with(Unit::WebSearches, 2));
    for (text, reported) in [(chunk(usage), wanted), (chunk(""), None)] {
        let stream = format!("data: {text}\n\ndata: {{\"candidates\":[]}}\n\n");
        let (_, _, reading) = run_in(Dialect::Gemini, false, &[&stream]);
        assert_eq!(
            (reading.reported, reading.counted_item_units.get(Unit::WebSearches)),
            (reported, 2)
        );
        let mut meter = JsonBodyMeter::new(Dialect::Gemini);
        text.as_bytes().chunks(3).for_each(|piece| meter.read(piece));
        let reading = meter.reading();
        assert_eq!(
            (reading.reported, reading.counted_item_units.get(Unit::WebSearches)),
            (reported, 2)
        );
    }
}

#[test]
fn a_terminator_without_a_blank_line_is_held_back() {
    for strips in [false, true] {
        let (pass, end, _) = run(strips, &["data: {}\n\nda", "ta: [DO", "NE]\n"]);
        assert_eq!((pass.as_str(), end.as_str()), ("data: {}\n\n", "data: [DONE]\n"));
    }
}

#[test]
fn a_terminator_with_other_fields_is_held_back() {
    for (before, terminator) in [
        ("event: end\nid: 7\n", "data: [DONE]\n\n"),
        ("retry: 1\r\n", "data:  [DONE] \r\n\r\n"),
        ("", "data: \ndata: [DONE]\nid: 7\n\n"),
    ] {
        let stream = [before, terminator].concat();
        for (cut, strips) in (0..stream.len()).flat_map(|cut| [(cut, false), (cut, true)]) {
            let (pass, end, reading) = run(strips, &[&stream[..cut], &stream[cut..]]);
            assert_eq!((pass.as_str(), end.as_str()), (before, terminator), "{cut} {strips}");
            assert!(reading.terminated);
        }
    }
}

const MESSAGE: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":",
    "{\"input_tokens\":5,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,",
    "\"delta\":{\"type\":\"text_delta\",\"text\":\"hello you\"}}\n\n",
);
const MESSAGE_END: &str = concat!(
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":",
    "{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

#[test]
fn a_message_is_held_back_from_its_delta() {
    let stream = [MESSAGE, MESSAGE_END].concat();
    for cut in 0..stream.len() {
        let (pass, end, reading) =
            run_in(Dialect::Anthropic, false, &[&stream[..cut], &stream[cut..]]);
        assert_eq!((pass.as_str(), end.as_str()), (MESSAGE, MESSAGE_END), "{cut}");
        let usage = Usage::from_tokens(9, 9).with(Unit::CachedInputTokens, 4);
        assert_eq!(reading.reported, Some(usage), "{cut}");
        assert_eq!(reading.counted_output, 4, "three tokens, and three tenths more");
        assert!(reading.terminated && reading.finished);
    }
}

#[test]
fn a_message_with_an_error_is_not_terminated() {
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"m\"}}\n\n";
    let (pass, end, reading) = run_in(Dialect::Anthropic, false, &[MESSAGE, error]);
    assert_eq!((pass, end.as_str()), ([MESSAGE, error].concat(), ""));
    assert!(!reading.terminated && !reading.finished);
    let usage = Usage::from_tokens(9, 1).with(Unit::CachedInputTokens, 4);
    assert_eq!((reading.reported, reading.counted_output), (Some(usage), 4));
}

fn gemini_stream() -> String {
    let chunk = |candidates: &str, usage: &str| {
        format!("data: {{\"candidates\":[{candidates}],\"usageMetadata\":{{{usage}}}}}\r\n\r\n")
    };
    [
        chunk("", r#""trafficType":"ON_DEMAND""#),
        chunk(
            r#"{"content":{"parts":[{"text":"hello you"}]}}"#,
            r#""promptTokenCount":15,"candidatesTokenCount":198"#,
        ),
        chunk(
            r#"{"finishReason":"STOP"}"#,
            r#""promptTokenCount":14,"candidatesTokenCount":46,"thoughtsTokenCount":7"#,
        ),
    ]
    .concat()
}

#[test]
fn the_last_usage_of_a_gemini_stream_applies() {
    let stream = gemini_stream();
    let usage = Usage::from_tokens(14, 53).with(Unit::ReasoningTokens, 7);
    for cut in 0..stream.len() {
        let (pass, end, reading) =
            run_in(Dialect::Gemini, false, &[&stream[..cut], &stream[cut..]]);
        assert_eq!((pass.as_str(), end.as_str()), (stream.as_str(), ""), "{cut}");
        assert_eq!((reading.reported, reading.counted_output), (Some(usage), 4));
        assert!(reading.finished && !reading.terminated);
    }
    let (_, _, reading) = run_in(Dialect::Gemini, false, &[stream.trim_end()]);
    assert_eq!(reading.reported, Some(usage), "without the last blank line, too");
}

#[test]
fn usage_may_be_in_every_chunk() {
    let chunk = |content: &str, finish: &str, usage: u64| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{content}\"}},\
             \"finish_reason\":{finish}}}],\"usage\":{{\"prompt_tokens\":{usage},\
             \"completion_tokens\":{usage}}}}}\n\n"
        )
    };
    let finish = "\"stop\"";
    let (_, _, reading) = run(true, &[&chunk("a", "null", 0), &chunk("b", finish, 7)]);
    assert_eq!(reading.reported, Some(Usage::from_tokens(7, 7)), "zeros come first");
    assert!(reading.finished && !reading.terminated, "a clean end without a terminator");
    let (_, _, reading) = run(true, &[&chunk("b", finish, 7), &chunk("", finish, 0)]);
    assert_eq!(reading.reported, Some(Usage::from_tokens(7, 7)), "two finish chunks");
    let (_, _, reading) = run(true, &[&chunk("b", finish, 7), &chunk("c", "null", 8)]);
    assert!(!reading.finished, "another choice continues");
}

#[test]
fn a_response_without_text_is_one_token() {
    let (_, _, reading) = run(false, &["data: {}\n\n", "data: [DONE]\n\n"]);
    assert_eq!((reading.counted_output, reading.terminated), (1, true));
    let (_, _, reading) = run(false, &["data: [DONE]\n\n"]);
    assert_eq!(reading.counted_output, 0, "no content");
}

#[test]
fn bodies_report_their_usage() {
    let mut meter = JsonBodyMeter::new(Dialect::OpenAi);
    meter.read(br#"{"choices":[{"message":{"content":"\"usage\":{}"}}],"usa"#);
    meter.read(br#"ge":{"prompt_tokens":5,"completion_tokens":6}}"#);
    assert_eq!(meter.reading().reported, Some(Usage::from_tokens(5, 6)));
    let mut meter = JsonBodyMeter::new(Dialect::Anthropic);
    meter.read(br#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":0}}}],"#);
    meter.read(br#""usage":{"input_tokens":5,"cache_read_input_tokens":1,"output_tokens":6}}"#);
    let usage = Usage::from_tokens(6, 6).with(Unit::CachedInputTokens, 1);
    assert_eq!(meter.reading().reported, Some(usage));
    let mut meter = JsonBodyMeter::new(Dialect::Gemini);
    meter.read(b"[{\"usageMetadata\":{\"promptTokenCount\":5,\"candidatesTokenCount\":1}}\n,\r\n");
    meter.read(b"{\"usageMetadata\":{\"promptTokenCount\":5,\"candidatesTokenCount\":6}}\n]");
    assert_eq!(meter.reading().reported, Some(Usage::from_tokens(5, 6)));
}

#[test]
fn a_state_id_is_found_at_the_top_level_only() {
    let whole = |dialect, body: &str| {
        let mut meter = JsonBodyMeter::new(dialect);
        body.as_bytes().chunks(7).for_each(|chunk| meter.read(chunk));
        meter.state_id().map(str::to_owned)
    };
    let body = r#"{"content":[{"container":{"id":"d"}}],"container":{"expires_at":"2","id":"c"}}"#;
    assert_eq!(whole(Dialect::Anthropic, body).as_deref(), Some("c"));
    assert_eq!(whole(Dialect::OpenAi, body), None);
    let deeper = r#"{"content":[{"container":{"id":"d"}}],"container":null}"#;
    assert_eq!(whole(Dialect::Anthropic, deeper), None);

    let mut meter = StreamMeter::new(Dialect::Anthropic, false);
    let mut read = |event: &str| {
        meter.read(Bytes::from(format!("data: {event}\n\n")));
        meter.state_id().map(str::to_owned)
    };
    assert_eq!(read(r#"{"type":"message_start","message":{"container":null}}"#), None);
    let last = r#"{"type":"message_delta","delta":{"container":{"id":"c"}}}"#;
    assert_eq!(read(last).as_deref(), Some("c"));
    assert_eq!(read(r#"{"type":"message_stop"}"#).as_deref(), Some("c"), "the id stays");
}
