//! Reads the events of an Anthropic stream.

use crate::dialect::anthropic::external_refs::container_id;
use crate::dialect::anthropic::usage::Counts;
use crate::dialect::event::{EventFacts, StreamEnd};
use crate::dialect::{estimate, json};

/// The fields of a delta whose text was generated.
const GENERATED: [&str; 4] = ["text", "thinking", "partial_json", "content"];

/// Reads the data of an event, and into `counts` what it reports.
pub fn read(data: &[u8], counts: &mut Counts) -> EventFacts {
    let mut event = EventFacts::default();
    let (mut kind, mut usage, mut message, mut delta, mut block) = (None, None, None, None, None);
    let read = json::fields(data, |key, value| {
        let value = &data[value];
        match &*key {
            "type" => kind = json::string_of(value),
            "usage" => usage = Some(value),
            "message" => message = Some(value),
            "delta" => delta = Some(value),
            "content_block" => block = Some(value),
            _ => {}
        }
    });
    if read.is_err() {
        return event;
    }
    match kind.as_deref() {
        Some("message_start") => {
            // A start that comes again begins again.
            *counts = Counts::default();
            let message = message.unwrap_or_default();
            json::each_named(message, &["usage"], |usage| counts.read(usage));
            event.set_usage(counts);
            event.state_id = container_id_in(message);
        }
        Some("content_block_start") => {
            event.output_tokens = tokens(block.unwrap_or_default(), &["name", "text"]);
        }
        Some("content_block_delta") => {
            event.output_tokens = tokens(delta.unwrap_or_default(), &GENERATED);
        }
        Some("message_delta") => {
            counts.read(usage.unwrap_or_default());
            event.set_usage(counts);
            event.state_id = container_id_in(delta.unwrap_or_default());
            (event.end, event.has_finish_reason) = (StreamEnd::Closing, true);
        }
        Some("message_stop") => event.end = StreamEnd::Terminated,
        Some("error") => event.failed = true,
        _ => {}
    }
    event
}

impl EventFacts {
    fn set_usage(&mut self, counts: &Counts) {
        (self.usage, self.shares) = (counts.usage(), counts.shares());
        self.service_tier = counts.service_tier();
    }
}

fn container_id_in(object: &[u8]) -> Option<Box<str>> {
    let mut id = None;
    json::each_named(object, &["container"], |container| id = container_id(container));
    id
}

fn tokens(object: &[u8], names: &[&str]) -> u64 {
    let mut tokens = 0;
    json::each_named(object, names, |text| {
        tokens += json::string_of(text).map_or(0, |text| estimate::tokens(&text));
    });
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::Usage;

    #[test]
    fn a_start_and_a_delta_report_together() {
        let mut counts = Counts::default();
        let start = br#"{"type":"message_start","message":{"content":[],
            "usage":{"input_tokens":9,"output_tokens":1}}}"#;
        assert_eq!(read(start, &mut counts).usage, Some(Usage::from_tokens(9, 1)));
        let last = read(br#"{"usage":{"output_tokens":5},"type":"message_delta"}"#, &mut counts);
        assert_eq!(last.usage, Some(Usage::from_tokens(9, 5)));
        assert_eq!((last.end, last.has_finish_reason), (StreamEnd::Closing, true));
        assert_eq!(read(start, &mut counts).usage, Some(Usage::from_tokens(9, 1)), "begun again");
        assert_eq!(read(br#"{"type":"message_stop"}"#, &mut counts).end, StreamEnd::Terminated);
    }

    #[test]
    fn the_container_is_named_by_the_start_or_the_last_delta() {
        for (data, id) in [
            (
                r#"{"type":"message_start","message":{"container":{"id":"c","expires_at":"2"}}}"#,
                true,
            ),
            (r#"{"type":"message_delta","delta":{"container":{"id":"c"}}}"#, true),
            (r#"{"type":"message_delta","delta":{"container":null}}"#, false),
            (r#"{"type":"message_start","message":{"content":[{"container":{"id":"c"}}]}}"#, false),
            (r#"{"type":"content_block_delta","delta":{"container":{"id":"c"}}}"#, false),
        ] {
            let facts = read(data.as_bytes(), &mut Counts::default());
            assert_eq!(facts.state_id.as_deref(), id.then_some("c"), "{data}");
        }
    }

    #[test]
    fn generated_text_is_counted() {
        for (data, tokens) in [
            (
                r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"hello you"}}"#,
                3,
            ),
            (r#"{"type":"content_block_delta","delta":{"thinking":"hello you"}}"#, 3),
            (r#"{"type":"content_block_delta","delta":{"partial_json":"{\"a\":"}}"#, 5),
            (r#"{"type":"content_block_delta","delta":{"signature":"aaaa"}}"#, 0),
            (r#"{"type":"content_block_start","content_block":{"name":"tool","input":{}}}"#, 1),
            (r#"{"type":"content_block_start","content_block":{"content":[{"text":"a"}]}}"#, 0),
            (r#"{"type":"ping"}"#, 0),
            (r#"{"type":"content_block_delta","delta":{"text":"cut"#, 0),
        ] {
            let facts = read(data.as_bytes(), &mut Counts::default());
            assert_eq!(
                facts,
                EventFacts { output_tokens: tokens, ..EventFacts::default() },
                "{data}"
            );
        }
        let error = br#"{"type":"error","error":{"message":"m"}}"#;
        let facts = read(error, &mut Counts::default());
        assert_eq!(facts, EventFacts { failed: true, ..EventFacts::default() });
    }
}
