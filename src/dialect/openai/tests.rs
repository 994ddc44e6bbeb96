//! The odd ways in which providers end a stream in the OpenAI dialect, and one test for each.

use bytes::Bytes;

use crate::dialect::endpoint::Dialect;
use crate::dialect::json_meter::JsonBodyMeter;
use crate::dialect::stream_meter::{StreamMeter, UsageReading};
use crate::dialect::tests::meters::run;
use crate::domain::service_tier::ServiceTier;
use crate::domain::usage::{Unit, Usage};

const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one two\"}}]}\n\n";
const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// Usage of so many tokens in, and as many out.
fn usage(tokens: u64) -> String {
    format!(r#""usage":{{"prompt_tokens":{tokens},"completion_tokens":{tokens}}}"#)
}

fn chunk(choices: &str, rest: &str) -> String {
    format!("data: {{\"choices\":[{choices}],{rest}}}\n\n")
}

/// What a client sees that did not ask for usage, and what is metered.
fn stripped(pieces: &[&str]) -> (String, UsageReading) {
    let (pass, end, reading) = run(true, pieces);
    (pass + &end, reading)
}

fn both(tokens: u64) -> Usage {
    Usage::from_tokens(tokens, tokens)
}

#[test]
fn edge_01_usage_comes_in_a_chunk_without_choices_behind_the_last_word() {
    let (seen, reading) = stripped(&[TEXT, STOP, &chunk("", &usage(7)), DONE]);
    assert_eq!((seen, reading.reported), ([TEXT, STOP, DONE].concat(), Some(both(7))));
}

#[test]
fn edge_02_usage_comes_with_the_last_word() {
    let stop = chunk(r#"{"delta":{},"finish_reason":"stop"}"#, &usage(7));
    let (seen, reading) = stripped(&[TEXT, &stop, DONE]);
    assert_eq!((seen, reading.reported), ([TEXT, &stop, DONE].concat(), Some(both(7))));
}

#[test]
fn edge_03_usage_comes_with_a_choice_and_is_not_last() {
    let told = chunk(r#"{"index":0,"delta":{}}"#, &usage(7));
    let (seen, reading) = stripped(&[TEXT, &told, STOP, DONE]);
    assert_eq!((seen, reading.reported), ([TEXT, &told, STOP, DONE].concat(), Some(both(7))));
}

#[test]
fn edge_04_usage_in_every_chunk_is_of_all_so_far() {
    let said = |tokens| chunk(r#"{"index":0,"delta":{"content":"a"}}"#, &usage(tokens));
    let last = format!(r#""object":"chat.completion.done",{}"#, usage(9));
    let last = chunk(r#"{"message":{"content":"aaa"},"finish_reason":"stop"}"#, &last);
    let (_, reading) = stripped(&[&said(3), &said(5), &last]);
    assert_eq!(reading.reported, Some(both(9)));
    assert!(reading.finished);
}

#[test]
fn edge_05_usage_stands_in_a_place_of_the_providers_own() {
    let stop = r#"{"delta":{},"finish_reason":"stop"}"#;
    let own = chunk(stop, &format!(r#""x_groq":{{"id":"r",{}}}"#, usage(7)));
    assert_eq!(stripped(&[TEXT, &own, DONE]).1.reported, Some(both(7)));
}

#[test]
fn edge_06_usage_is_null_before_it_is_told() {
    let (seen, reading) = stripped(&[
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
        &chunk("", &usage(7)),
        DONE,
    ]);
    let bare = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    assert_eq!((seen, reading.reported), ([bare, DONE].concat(), Some(both(7))));
}

#[test]
fn edge_07_usage_is_zero_before_it_is_told() {
    let zero = chunk(r#"{"text":"a"}"#, &usage(0));
    let (_, reading) = stripped(&[&zero, &zero, &chunk("", &usage(7)), DONE]);
    assert_eq!(reading.reported, Some(both(7)));
    let (_, reading) = stripped(&[&zero, DONE]);
    assert_eq!((reading.reported, reading.counted_output), (None, 1), "it was told nothing");
}

#[test]
fn edge_08_a_whole_stream_without_usage_is_counted() {
    let (seen, reading) = stripped(&[TEXT, STOP, DONE]);
    assert_eq!(seen, [TEXT, STOP, DONE].concat());
    assert_eq!((reading.reported, reading.counted_output), (None, 2));
    assert!(reading.terminated);
}

#[test]
fn edge_09_a_first_chunk_without_choices_and_usage_passes() {
    let first = chunk("", r#""prompt_filter_results":[{"prompt_index":0}]"#);
    let (seen, reading) = stripped(&[&first, TEXT, &chunk("", &usage(7)), DONE]);
    assert_eq!((seen, reading.reported), ([&first, TEXT, DONE].concat(), Some(both(7))));
}

#[test]
fn edge_10_a_stream_says_twice_that_it_is_finished() {
    let stop = chunk(r#"{"delta":{},"finish_reason":"stop"}"#, &usage(7));
    let (seen, reading) = stripped(&[TEXT, STOP, &stop, DONE]);
    assert_eq!((seen, reading.reported), ([TEXT, STOP, &stop, DONE].concat(), Some(both(7))));
    let (_, reading) = stripped(&[TEXT, &stop, STOP]);
    assert_eq!((reading.reported, reading.finished), (Some(both(7)), true));
}

#[test]
fn edge_30_a_stream_ends_without_its_terminator() {
    let stop = chunk(r#"{"delta":{},"finish_reason":"stop"}"#, &usage(7));
    let (seen, reading) = stripped(&[TEXT, &stop]);
    assert_eq!((seen, reading.reported), ([TEXT, &stop].concat(), Some(both(7))));
    assert!(reading.finished && !reading.terminated);
}

const CREATED: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",",
    "\"object\":\"response\",\"service_tier\":\"auto\",\"store\":true,\"output\":[],\"usage\":null}}\n\n",
    "event: response.output_text.delta\n",
    "data: {\"type\":\"response.output_text.delta\",\"delta\":\"one two\"}\n\n",
);

/// The last event, of that name and with these fields in its response.
fn last(name: &str, fields: &str) -> String {
    format!(
        "event: response.{name}\ndata: {{\"type\":\"response.{name}\",\"sequence_number\":4,\
         \"response\":{{\"id\":\"resp_1\",\"object\":\"response\",{fields}}}}}\n\n"
    )
}

const COMPLETED: &str = r#""service_tier":"default","error":null,"output":[{"type":"message"}],
    "usage":{"input_tokens":5,"output_tokens":6,"output_tokens_details":{"reasoning_tokens":4}}"#;

#[test]
fn the_last_event_of_a_response_is_held_back_however_it_is_cut() {
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
fn a_response_whose_events_have_no_name_but_in_their_data_is_held_back_too() {
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
fn edge_31_an_error_and_a_failure_without_usage_are_counted_and_told() {
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
fn edge_32_an_incomplete_response_is_whole_and_has_its_usage() {
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

/// What a body says in pieces of seven bytes.
fn body(text: &str) -> JsonBodyMeter {
    let mut meter = JsonBodyMeter::new(Dialect::OpenAi);
    text.as_bytes().chunks(7).for_each(|piece| meter.read(piece));
    meter
}

#[test]
fn edge_33_a_response_tells_its_usage_by_the_names_of_a_chat() {
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
fn a_response_is_kept_by_its_id_unless_it_is_not_stored() {
    let kept = |text: &str| {
        let mut meter = StreamMeter::new(Dialect::OpenAi, false);
        meter.read(Bytes::copy_from_slice(text.as_bytes()));
        meter.state_id().map(str::to_owned)
    };
    assert_eq!(kept(CREATED).as_deref(), Some("resp_1"));
    assert_eq!(kept(&CREATED.replace("true", "false")), None);
    assert_eq!(kept(TEXT), None);
    assert_eq!(body(r#"{"id":"resp_1","object":"response","store":false}"#).state_id(), None);
    assert_eq!(body(r#"{"id":"chatcmpl-1","object":"chat.completion"}"#).state_id(), None);
}

#[test]
fn what_a_response_generates_is_counted_whatever_it_is() {
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
