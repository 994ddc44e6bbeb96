//! The events of an Anthropic stream: what each says.

use crate::dialect::anthropic::outside::container_id;
use crate::dialect::anthropic::usage::Counts;
use crate::dialect::event::{End, Event};
use crate::dialect::{estimate, json};

/// The fields of a delta whose text was generated.
const GENERATED: [&str; 4] = ["text", "thinking", "partial_json", "content"];

/// Reads the data of an event, and into `counts` what it reports.
pub fn event(data: &[u8], counts: &mut Counts) -> Event {
    let mut event = Event::default();
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
            json::each(message, &["usage"], |usage| counts.read(usage));
            event.tell(counts);
            event.kept_id = container_in(message);
        }
        Some("content_block_start") => {
            event.output_tokens = tokens(block.unwrap_or_default(), &["name", "text"]);
        }
        Some("content_block_delta") => {
            event.output_tokens = tokens(delta.unwrap_or_default(), &GENERATED);
        }
        Some("message_delta") => {
            counts.read(usage.unwrap_or_default());
            event.tell(counts);
            event.kept_id = container_in(delta.unwrap_or_default());
            (event.end, event.finish) = (End::Near, true);
        }
        Some("message_stop") => event.end = End::Here,
        Some("error") => event.failed = true,
        _ => {}
    }
    event
}

impl Event {
    fn tell(&mut self, counts: &Counts) {
        (self.usage, self.shares) = (counts.usage(), counts.shares());
        self.service_tier = counts.service_tier();
    }
}

fn container_in(object: &[u8]) -> Option<Box<str>> {
    let mut id = None;
    json::each(object, &["container"], |container| id = container_id(container));
    id
}

fn tokens(object: &[u8], names: &[&str]) -> u64 {
    let mut tokens = 0;
    json::each(object, names, |text| {
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
        assert_eq!(event(start, &mut counts).usage, Some(Usage::tokens_of(9, 1)));
        let last = event(br#"{"usage":{"output_tokens":5},"type":"message_delta"}"#, &mut counts);
        assert_eq!(last.usage, Some(Usage::tokens_of(9, 5)));
        assert_eq!((last.end, last.finish), (End::Near, true));
        assert_eq!(event(start, &mut counts).usage, Some(Usage::tokens_of(9, 1)), "begun again");
        assert_eq!(event(br#"{"type":"message_stop"}"#, &mut counts).end, End::Here);
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
            let said = event(data.as_bytes(), &mut Counts::default());
            assert_eq!(said.kept_id.as_deref(), id.then_some("c"), "{data}");
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
            let said = event(data.as_bytes(), &mut Counts::default());
            assert_eq!(said, Event { output_tokens: tokens, ..Event::default() }, "{data}");
        }
        let error = br#"{"type":"error","error":{"message":"m"}}"#;
        let said = event(error, &mut Counts::default());
        assert_eq!(said, Event { failed: true, ..Event::default() });
    }
}
