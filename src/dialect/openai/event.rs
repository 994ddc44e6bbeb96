//! Reads the events of an OpenAI stream.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;

use crate::dialect::event::{EventFacts, StreamEnd};
use crate::dialect::openai::response_facts::{ResponseFacts, item_units_of};
use crate::dialect::openai::usage;
use crate::dialect::tier;
use crate::dialect::{estimate, json, sse};
use crate::domain::usage::Usage;

/// What the last event says.
const DONE: &[u8] = b"[DONE]";

/// How an event begins that has a name.
const NAMED_EVENT_PREFIXES: [&[u8]; 2] = [b"event:", b"data: {\"type\""];

/// How much of an event that is not whole yet may pass, of which `sent` bytes have: all before the
/// line that says so, or may come to say so. Of one that has a name nothing, as it may be the last;
/// as a name may also come last, what completes a line waits, too.
pub fn safe_prefix_len(event: &[u8], sent: usize) -> usize {
    let may_be = |name: &&[u8]| event.starts_with(name) || name.starts_with(event);
    if NAMED_EVENT_PREFIXES.iter().any(may_be) {
        return 0;
    }
    let new = &event[sent..before_done_line(event, sent)];
    let completes = new.iter().rev().take_while(|byte| b"} \t\r\n".contains(byte)).count();
    sent + new.len() - completes
}

/// How much of the last event comes before what says that it is.
pub fn terminator_start(event: &[u8]) -> usize {
    let before = before_done_line(event, 0);
    if event[before..].starts_with(b"data:") { before } else { 0 }
}

/// A line of which some was `sent` does not say so, however it goes on.
fn before_done_line(event: &[u8], sent: usize) -> usize {
    let goes_on = match event[..sent].last() {
        Some(b'\r') => event.get(sent) == Some(&b'\n'),
        last => last.is_some_and(|last| *last != b'\n'),
    };
    let may_be_done = |line: &[u8]| match line.strip_prefix(b"data:") {
        Some(value) => {
            let value = value.trim_ascii_start();
            DONE.starts_with(value) || value.starts_with(DONE)
        }
        None => b"data:".starts_with(line),
    };
    let mut lines = sse::lines(&event[sent..]);
    let first = if goes_on { lines.next().map_or(0, <[u8]>::len) } else { 0 };
    let more = lines.take_while(|line| !may_be_done(line.trim_ascii_end())).map(<[u8]>::len);
    sent + first + more.sum::<usize>()
}

/// Reads the data of an event. What is not understood says nothing and passes.
pub fn read(data: &[u8]) -> EventFacts {
    let mut event = EventFacts::default();
    if data.trim_ascii() == DONE {
        event.end = StreamEnd::Terminated;
        return event;
    }
    let (mut choices_empty, mut before, mut parts) = (false, None, NamedEvent::default());
    let read = json::fields(data, |key, value| {
        let end = value.end;
        match &*key {
            "choices" => {
                let choices = &data[value];
                choices_empty = choices.iter().all(|byte| b"[] \n\r\t".contains(byte));
                (event.output_tokens, event.has_finish_reason) = count_generated(choices);
                if memmem::find(choices, b"\"usage\"").is_some() {
                    json::elements(choices, |choice| read_nested_usage(choice, &mut event.usage));
                }
            }
            "usage" if &data[value.clone()] == b"null" => {
                event.null_usage_span = Some(before.unwrap_or(0)..end);
            }
            "usage" => event.usage = usage::read(&data[value]).or(event.usage),
            "error" => {
                event.failed |= !matches!(&data[value], b"null" | b"false" | b"\"\"" | b"{}");
            }
            "x_groq" => read_nested_usage(&data[value], &mut event.usage),
            "service_tier" => event.service_tier = tier::parse(&data[value]),
            "type" => parts.kind = json::string_of(&data[value]),
            "response" => parts.response = Some(ResponseFacts::from_json(&data[value])),
            "item" => parts.item = &data[value],
            "delta" => parts.delta = &data[value],
            _ => {}
        }
        before = Some(end);
    });
    if read.is_err() {
        return EventFacts::default();
    }
    if let Some(named) = parts.facts() {
        return named;
    }
    if let Some(range) = &mut event.null_usage_span
        && range.start == 0
    {
        *range = first_field_span(data, range.end);
    }
    event.is_usage_only = choices_empty && event.usage.is_some();
    event
}

/// The fields of an event that has a name, as those of the Responses API.
#[derive(Default)]
struct NamedEvent<'a> {
    kind: Option<Cow<'a, str>>,
    response: Option<ResponseFacts>,
    item: &'a [u8],
    delta: &'a [u8],
}

impl NamedEvent<'_> {
    /// What it says; `None` of what has no such name.
    fn facts(&self) -> Option<EventFacts> {
        let kind = self.kind.as_deref()?;
        // Its fields may stand beside its name, or in an object of their own.
        if kind == "error" {
            return Some(EventFacts { failed: true, ..EventFacts::default() });
        }
        let of = kind.strip_prefix("response.")?;
        let mut event = EventFacts::default();
        match of.rsplit_once('.').unwrap_or(("", of)) {
            ("", "completed" | "incomplete" | "failed") => {
                (event.end, event.has_finish_reason) = (StreamEnd::Terminated, true);
                event.failed = of == "failed";
            }
            ("output_item", "added") => {
                json::each_named(self.item, &["name"], |name| {
                    event.output_tokens += tokens_of(name);
                });
            }
            ("output_item", "done") => event.item_units = item_units_of(self.item),
            // A sound is no text.
            ("audio", "delta") => {}
            (_, "delta") => event.output_tokens = tokens_of(self.delta),
            _ => {}
        }
        if let Some(answer) = &self.response {
            event.usage = answer.usage();
            event.service_tier = answer.service_tier();
            event.failed |= answer.failed();
            event.state_id = answer.state_id().map(Into::into);
        }
        Some(event)
    }
}

/// What an event of that name says with that response and that item of its output; `None` where no
/// event has such a name.
pub fn named_event(kind: &str, response: ResponseFacts, item: &[u8]) -> Option<EventFacts> {
    NamedEvent { kind: Some(kind.into()), response: Some(response), item, delta: &[] }.facts()
}

/// Our count of a text; another value has none.
fn tokens_of(text: &[u8]) -> u64 {
    json::string_of(text).map_or(0, |text| estimate::tokens(&text))
}

/// The first field of an object, from its quote to the comma behind it.
fn first_field_span(data: &[u8], end: usize) -> Range<usize> {
    let start = data.iter().position(|byte| *byte == b'"').unwrap_or(end);
    let comma = data[end..].iter().position(|byte| !byte.is_ascii_whitespace());
    let comma = comma.filter(|at| data[end + at] == b',').map_or(end, |at| end + at + 1);
    start..comma
}

/// Takes the usage that some report inside of another object, unless there is one already.
fn read_nested_usage(holder: &[u8], usage: &mut Option<Usage>) {
    json::each_named(holder, &["usage"], |object| *usage = usage.or_else(|| usage::read(object)));
}

/// The fields of a choice, at any depth, whose text was generated.
const GENERATED: [&[u8]; 8] = [
    b"content",
    b"reasoning_content",
    b"reasoning",
    b"refusal",
    b"arguments",
    b"text",
    b"name",
    b"transcript",
];

/// Counts the generated text in `choices`, every string value of a known field, and looks for the
/// reason why one ended.
fn count_generated(choices: &[u8]) -> (u64, bool) {
    let (mut tokens, mut is_finished) = (0, false);
    let mut at = 0;
    let mut key: &[u8] = b"";
    while let Some(open) = memchr::memchr(b'"', &choices[at..]) {
        let start = at + open + 1;
        let Some(end) = string_end(choices, start) else { break };
        let text = &choices[start..end];
        at = end + 1;
        let is_key = choices[at..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
        if is_key {
            key = text;
        } else if key == b"finish_reason" {
            is_finished |= !text.is_empty();
        } else if GENERATED.contains(&key)
            && let Ok(text) = std::str::from_utf8(text)
        {
            tokens += if text.contains('\\') {
                estimate::tokens(&json::unescape(text))
            } else {
                estimate::tokens(text)
            };
        }
    }
    (tokens, is_finished)
}

fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let run = memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at + run] == b'"' {
            return Some(at + run);
        }
        at += run + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_facts_of_their_data() {
        assert_eq!(read(b"[DONE]").end, StreamEnd::Terminated);
        let text = br#"{"id":"x","choices":[{"delta":{"role":"assistant","content":"hello you"}}],"usage":null}"#;
        let delta = read(text);
        assert_eq!(delta.output_tokens, 3);
        let range = delta.null_usage_span.expect("usage is null");
        assert_eq!(&text[range], br#","usage":null"#);
        let first = br#"{"usage":null ,"choices":[]}"#;
        let range = read(first).null_usage_span.expect("usage is null");
        assert_eq!(&first[range], br#""usage":null ,"#);
        let last = read(br#"{"choices":[ ],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#);
        assert!(last.is_usage_only && last.usage == Some(Usage::from_tokens(3, 4)));
        let azure = read(br#"{"choices":[],"prompt_filter_results":[]}"#);
        assert_eq!(azure, EventFacts::default());
        let groq = read(br#"{"choices":[{}],"x_groq":{"usage":{"prompt_tokens":1}}}"#);
        assert!(!groq.is_usage_only && groq.usage == Some(Usage::from_tokens(1, 0)));
        assert_eq!(read(b"{\"choices\":[{"), EventFacts::default());
        for (data, failed) in [
            (r#"{"error":{"code":1},"choices":[]}"#, true),
            (r#"{"error":null}"#, false),
            (r#"{"error":""}"#, false),
        ] {
            assert_eq!(
                read(data.as_bytes()),
                EventFacts { failed, ..EventFacts::default() },
                "{data}"
            );
        }
    }

    #[test]
    fn usage_is_found_wherever_a_provider_puts_it() {
        let object = r#"{"prompt_tokens":3,"completion_tokens":4}"#;
        for data in [
            format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],"usage":{object}}}"#),
            format!(r#"{{"x_groq":{{"usage":{object}}},"choices":[{{"finish_reason":"stop"}}]}}"#),
            format!(r#"{{"choices":[{{"finish_reason":"stop","usage":{object}}}],"usage":null}}"#),
            format!(
                r#"{{"choices":[{{"finish_reason":"stop"}}],"x_groq":{{"usage":{object}}},
                   "usage":{{"prompt_tokens":0}}}}"#
            ),
        ] {
            let facts = read(data.as_bytes());
            assert_eq!(
                (facts.usage, facts.has_finish_reason),
                (Some(Usage::from_tokens(3, 4)), true),
                "{data}"
            );
            assert!(!facts.is_usage_only);
        }
    }

    #[test]
    fn a_text_about_usage_reports_none() {
        let facts = read(
            br#"{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9}","tool_calls":
                [{"function":{"arguments":"{\"usage\":{}"}}]},"finish_reason":null}]}"#,
        );
        assert_eq!((facts.usage, facts.has_finish_reason), (None, false));
    }
}
