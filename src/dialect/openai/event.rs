//! The events of an OpenAI stream: what each says.

use std::ops::Range;

use crate::dialect::openai::usage;
use crate::dialect::{estimate, json};
use crate::domain::usage::Usage;

/// What one event of a chat stream says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// It is the end: `[DONE]`.
    pub terminator: bool,
    /// The usage it reports.
    pub usage: Option<Usage>,
    /// It reports usage and carries no choice: the extra chunk of `include_usage`.
    pub only_usage: bool,
    /// Where `"usage":null` stands in the data, with one of its commas.
    pub null_usage: Option<Range<usize>>,
    /// Output tokens by our own count of its text.
    pub output_tokens: u64,
}

/// Reads the data of an event. What is not understood says nothing and passes.
pub fn event(data: &[u8]) -> Event {
    let mut event = Event::default();
    if data.trim_ascii() == b"[DONE]" {
        event.terminator = true;
        return event;
    }
    let (mut no_choices, mut before) = (false, None);
    let read = json::fields(data, |key, value| {
        let end = value.end;
        match &*key {
            "choices" => {
                no_choices = data[value.clone()].iter().all(|byte| b"[] \n\r\t".contains(byte));
                event.output_tokens = output_tokens(&data[value]);
            }
            "usage" if &data[value.clone()] == b"null" => {
                event.null_usage = Some(before.unwrap_or(0)..end);
            }
            "usage" => event.usage = usage::read(&data[value]),
            "x_groq" => event.usage = event.usage.or(usage_inside(&data[value])),
            _ => {}
        }
        before = Some(end);
    });
    if read.is_err() {
        return Event::default();
    }
    if let Some(range) = &mut event.null_usage
        && range.start == 0
    {
        *range = first_field(data, range.end);
    }
    event.only_usage = no_choices && event.usage.is_some();
    event
}

/// The first field of an object, from its quote to the comma behind it.
fn first_field(data: &[u8], end: usize) -> Range<usize> {
    let start = data.iter().position(|byte| *byte == b'"').unwrap_or(end);
    let comma = data[end..].iter().position(|byte| !byte.is_ascii_whitespace());
    let comma = comma.filter(|at| data[end + at] == b',').map_or(end, |at| end + at + 1);
    start..comma
}

fn usage_inside(object: &[u8]) -> Option<Usage> {
    let mut found = None;
    json::fields(object, |key, value| {
        if key == "usage" {
            found = usage::read(&object[value]);
        }
    })
    .ok()?;
    found
}

/// The fields of a choice, at any depth, whose text was generated.
const GENERATED: [&[u8]; 7] =
    [b"content", b"reasoning_content", b"reasoning", b"refusal", b"arguments", b"text", b"name"];

/// Counts the generated text in `choices`: every string value of a known field.
fn output_tokens(choices: &[u8]) -> u64 {
    let mut tokens = 0;
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
    tokens
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
    fn events_say_what_they_carry() {
        assert!(event(b"[DONE]").terminator);
        let text = br#"{"id":"x","choices":[{"delta":{"role":"assistant","content":"hello you"}}],"usage":null}"#;
        let delta = event(text);
        assert_eq!(delta.output_tokens, 3);
        let range = delta.null_usage.expect("usage is null");
        assert_eq!(&text[range], br#","usage":null"#);
        let first = br#"{"usage":null ,"choices":[]}"#;
        let range = event(first).null_usage.expect("usage is null");
        assert_eq!(&first[range], br#""usage":null ,"#);
        let last = event(br#"{"choices":[ ],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#);
        assert!(last.only_usage && last.usage == Some(Usage::tokens_of(3, 4)));
        let azure = event(br#"{"choices":[],"prompt_filter_results":[]}"#);
        assert_eq!(azure, Event::default());
        let groq = event(br#"{"choices":[{}],"x_groq":{"usage":{"prompt_tokens":1}}}"#);
        assert!(!groq.only_usage && groq.usage == Some(Usage::tokens_of(1, 0)));
        assert_eq!(event(b"{\"choices\":[{"), Event::default());
    }
}
