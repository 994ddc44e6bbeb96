//! The unusual ways in which providers report usage and end a stream in the OpenAI dialect.

use bytes::Bytes;

use crate::dialect::endpoint::Dialect;
use crate::dialect::json_meter::JsonBodyMeter;
use crate::dialect::stream_meter::{StreamMeter, UsageReading};
use crate::dialect::tests::meters::run;
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::{Unit, Usage};

const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one two\"}}]}\n\n";
const FINISH: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// Returns a usage object with this number of input tokens and of output tokens.
fn usage(tokens: u64) -> String {
    format!(r#""usage":{{"prompt_tokens":{tokens},"completion_tokens":{tokens}}}"#)
}

fn chunk(choices: &str, rest: &str) -> String {
    format!("data: {{\"choices\":[{choices}],{rest}}}\n\n")
}

/// Returns what a client that does not request usage receives, and the metered usage.
fn stripped(pieces: &[&str]) -> (String, UsageReading) {
    let (pass, end, reading) = run(true, pieces);
    (pass + &end, reading)
}

fn both(tokens: u64) -> Usage {
    Usage::from_tokens(tokens, tokens)
}

#[test]
fn usage_is_in_a_chunk_without_choices_after_the_text() {
    let (received, reading) = stripped(&[TEXT, FINISH, &chunk("", &usage(7)), DONE]);
    assert_eq!((received, reading.reported), ([TEXT, FINISH, DONE].concat(), Some(both(7))));
}

#[test]
fn usage_is_in_the_chunk_with_the_finish_reason() {
    let finish_with_usage = chunk(r#"{"delta":{},"finish_reason":"stop"}"#, &usage(7));
    let (received, reading) = stripped(&[TEXT, &finish_with_usage, DONE]);
    assert_eq!(
        (received, reading.reported),
        ([TEXT, &finish_with_usage, DONE].concat(), Some(both(7)))
    );
}

#[test]
fn usage_is_in_a_chunk_before_the_last() {
    let reporting = chunk(r#"{"index":0,"delta":{}}"#, &usage(7));
    let (received, reading) = stripped(&[TEXT, &reporting, FINISH, DONE]);
    assert_eq!(
        (received, reading.reported),
        ([TEXT, &reporting, FINISH, DONE].concat(), Some(both(7)))
    );
}

#[test]
fn usage_in_every_chunk_is_cumulative() {
    let chunk_with = |tokens| chunk(r#"{"index":0,"delta":{"content":"a"}}"#, &usage(tokens));
    let last = format!(r#""object":"chat.completion.done",{}"#, usage(9));
    let last = chunk(r#"{"message":{"content":"aaa"},"finish_reason":"stop"}"#, &last);
    let (_, reading) = stripped(&[&chunk_with(3), &chunk_with(5), &last]);
    assert_eq!(reading.reported, Some(both(9)));
    assert!(reading.finished);
}

#[test]
fn usage_is_in_an_extension_field() {
    let finish_with_usage = r#"{"delta":{},"finish_reason":"stop"}"#;
    let extension = chunk(finish_with_usage, &format!(r#""x_groq":{{"id":"r",{}}}"#, usage(7)));
    assert_eq!(stripped(&[TEXT, &extension, DONE]).1.reported, Some(both(7)));
}

#[test]
fn usage_is_null_before_it_is_reported() {
    let (received, reading) = stripped(&[
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
        &chunk("", &usage(7)),
        DONE,
    ]);
    let bare = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    assert_eq!((received, reading.reported), ([bare, DONE].concat(), Some(both(7))));
}

#[test]
fn usage_is_zero_before_it_is_reported() {
    let zero = chunk(r#"{"text":"a"}"#, &usage(0));
    let (_, reading) = stripped(&[&zero, &zero, &chunk("", &usage(7)), DONE]);
    assert_eq!(reading.reported, Some(both(7)));
    let (_, reading) = stripped(&[&zero, DONE]);
    assert_eq!((reading.reported, reading.counted_output), (None, 1), "zeros are no report");
}

#[test]
fn a_stream_without_usage_is_counted() {
    let (received, reading) = stripped(&[TEXT, FINISH, DONE]);
    assert_eq!(received, [TEXT, FINISH, DONE].concat());
    assert_eq!((reading.reported, reading.counted_output), (None, 2));
    assert!(reading.terminated);
}

#[test]
fn a_first_chunk_without_choices_and_usage_is_forwarded() {
    let first = chunk("", r#""prompt_filter_results":[{"prompt_index":0}]"#);
    let (received, reading) = stripped(&[&first, TEXT, &chunk("", &usage(7)), DONE]);
    assert_eq!((received, reading.reported), ([&first, TEXT, DONE].concat(), Some(both(7))));
}

#[test]
fn a_stream_may_have_two_finish_reasons() {
    let finish_with_usage = chunk(r#"{"delta":{},"finish_reason":"stop"}"#, &usage(7));
    let (received, reading) = stripped(&[TEXT, FINISH, &finish_with_usage, DONE]);
    assert_eq!(
        (received, reading.reported),
        ([TEXT, FINISH, &finish_with_usage, DONE].concat(), Some(both(7)))
    );
    let (_, reading) = stripped(&[TEXT, &finish_with_usage, FINISH]);
    assert_eq!((reading.reported, reading.finished), (Some(both(7)), true));
}

#[test]
fn a_stream_may_end_without_a_terminator() {
    let finish_with_usage = chunk(r#"{"delta":{},"finish_reason":"stop"}"#, &usage(7));
    let (received, reading) = stripped(&[TEXT, &finish_with_usage]);
    assert_eq!((received, reading.reported), ([TEXT, &finish_with_usage].concat(), Some(both(7))));
    assert!(reading.finished && !reading.terminated);
}

const CREATED: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",",
    "\"object\":\"response\",\"service_tier\":\"auto\",\"store\":true,\"output\":[],\"usage\":null}}\n\n",
    "event: response.output_text.delta\n",
    "data: {\"type\":\"response.output_text.delta\",\"delta\":\"one two\"}\n\n",
);

/// Returns the last event with this name, and these fields in its response.
fn last(name: &str, fields: &str) -> String {
    format!(
        "event: response.{name}\ndata: {{\"type\":\"response.{name}\",\"sequence_number\":4,\
         \"response\":{{\"id\":\"resp_1\",\"object\":\"response\",{fields}}}}}\n\n"
    )
}

const COMPLETED: &str = r#""service_tier":"default","error":null,"output":[{"type":"message"}],
    "usage":{"input_tokens":5,"output_tokens":6,"output_tokens_details":{"reasoning_tokens":4}}"#;

#[test]
fn the_last_event_of_a_response_is_held_back() {
    let completed = last("completed", &COMPLETED.replace('\n', ""));
    let stream = [CREATED, &completed].concat();
    for cut in 0..stream.len() {
        let (pass, end, reading) = run(false, &[&stream[..cut], &stream[cut..]]);
        assert_eq!((pass.as_str(), end.as_str()), (CREATED, completed.as_str()), "{cut}");
        let usage = Usage::from_tokens(5, 6).with(Unit::ReasoningTokens, 4);
        assert_eq!((reading.reported, reading.counted_output), (Some(usage), 2), "{cut}");
        assert_eq!(reading.service_tier.name(), "default", "{cut}");
        assert!(reading.terminated && !reading.failed);
    }
}

#[test]
fn events_may_be_named_in_their_data_only() {
    let bare = |text: &str| {
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("event:"));
        lines.collect::<String>()
    };
    let completed = bare(&last("completed", &COMPLETED.replace('\n', "")));
    let (pass, end, reading) = run(false, &[&bare(CREATED), &completed]);
    assert_eq!((pass, end), (bare(CREATED), completed));
    assert!(reading.terminated);
}

#[test]
fn failures_without_usage_are_counted_and_reported() {
    let failed = last("failed", r#""status":"failed","error":{"code":"c"},"usage":null"#);
    for error in [
        r#"{"type":"error","sequence_number":2,"error":{"code":"insufficient_quota"}}"#,
        r#"{"type":"error","code":"insufficient_quota","message":"m","param":null}"#,
    ] {
        let error = format!("event: error\ndata: {error}\n\n");
        let (pass, end, reading) = run(false, &[CREATED, &error, &failed]);
        assert_eq!((pass, &end), ([CREATED, &error].concat(), &failed));
        assert_eq!((reading.reported, reading.counted_output), (None, 2));
        assert!(reading.terminated && reading.failed);
        let (_, _, reading) = run(false, &[CREATED, &error]);
        assert!(!reading.terminated && reading.failed, "the failure may be left out");
    }
}

#[test]
fn an_incomplete_response_has_its_usage() {
    let incomplete = last(
        "incomplete",
        r#""incomplete_details":{"reason":"max_output_tokens"},"error":null,
           "usage":{"input_tokens":5,"output_tokens":16}"#
            .replace('\n', "")
            .as_str(),
    );
    let (_, end, reading) = run(false, &[CREATED, &incomplete]);
    assert_eq!((end, reading.reported), (incomplete, Some(Usage::from_tokens(5, 16))));
    assert!(reading.terminated && !reading.failed);
}

/// Returns a meter that has read `text` in pieces of 7 bytes.
fn body(text: &str) -> JsonBodyMeter {
    let mut meter = JsonBodyMeter::new(Dialect::OpenAi);
    text.as_bytes().chunks(7).for_each(|piece| meter.read(piece));
    meter
}

#[test]
fn a_response_may_name_its_usage_as_a_chat_does() {
    let meter = body(
        r#"{"id":"resp_1","object":"response","output":[{"usage":{"prompt_tokens":99}}],
            "usage":{"prompt_tokens":7,"completion_tokens":6,"total_tokens":13},"error":null}"#,
    );
    let reading = meter.reading();
    assert_eq!(reading.reported, Some(Usage::from_tokens(7, 6)));
    assert_eq!((meter.state_id(), reading.failed), (Some("resp_1"), false));
}

#[test]
fn searches_of_a_body_and_of_a_stream_are_counted_once() {
    let search = r#"{"type":"web_search_call","status":"completed","action":{"type":"search"}}"#;
    let usage = r#""usage":{"input_tokens":5,"output_tokens":6}"#;
    let two = format!(r#""output":[{search},{{"type":"message"}},{search}]"#);
    let expected = Some(Usage::from_tokens(5, 6).with(Unit::WebSearches, 2));
    let meter = body(&format!(r#"{{{two},"service_tier":"flex",{usage}}}"#));
    assert_eq!(meter.reading().reported, expected);
    assert_eq!(meter.reading().service_tier, ServiceTier::new("flex").expect("short"));

    let done = format!(
        "event: response.output_item.done\ndata: {{\"type\":\"response.output_item.done\",\
         \"output_index\":0,\"item\":{search}}}\n\n"
    );
    let completed = last("completed", &format!("{two},{usage}"));
    let (_, _, reading) = run(false, &[CREATED, &done, &done, &completed]);
    assert_eq!(reading.reported, expected);
    let (_, _, reading) = run(false, &[CREATED, &done, &done]);
    assert_eq!(
        (reading.reported, reading.counted_item_units.get(Unit::WebSearches)),
        (None, 2),
        "cut off"
    );
}

#[test]
fn a_stored_response_has_a_state_id() {
    let state_id = |text: &str| {
        let mut meter = StreamMeter::new(Dialect::OpenAi, false);
        meter.read(Bytes::copy_from_slice(text.as_bytes()));
        meter.state_id().map(str::to_owned)
    };
    assert_eq!(state_id(CREATED).as_deref(), Some("resp_1"));
    assert_eq!(state_id(&CREATED.replace("true", "false")), None);
    assert_eq!(state_id(TEXT), None);
    assert_eq!(body(r#"{"id":"resp_1","object":"response","store":false}"#).state_id(), None);
    assert_eq!(body(r#"{"id":"chatcmpl-1","object":"chat.completion"}"#).state_id(), None);
}

#[test]
fn all_generated_text_of_a_response_is_counted() {
    let counted = |data: &str| {
        let event = format!("data: {data}\n\n");
        run(false, &[&event]).2.counted_output
    };
    for (data, tokens) in [
        (r#"{"type":"response.reasoning_summary_text.delta","delta":"one two"}"#, 2),
        (r#"{"type":"response.function_call_arguments.delta","delta":"{\"a\":"}"#, 5),
        (r#"{"type":"response.output_item.added","item":{"name":"get_weather"}}"#, 4),
        (r#"{"type":"response.audio.delta","delta":"QUJDREVGR0hJSktMTU5PUFFSU1RVVg=="}"#, 1),
        (r#"{"type":"response.shell_call_output_content.delta","delta":{"stdout":"a b"}}"#, 1),
        (r#"{"type":"response.output_text.done","text":"one two three"}"#, 1),
    ] {
        assert_eq!(counted(data), tokens, "{data}");
    }
}
