//! The OpenAI dialect: the policy fields of a chat request, and the facts of its events.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::request::{Edit, Fields, Request, RequestFault};
use crate::dialect::{estimate, json, usage};
use crate::domain::usage::Usage;

/// The most choices that a request may ask for.
const CHOICES_MAX: u64 = 128;

const POLICY_FIELDS: [&str; 6] =
    ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"];

/// Reads the policy fields of a chat completion request, and checks that the body is JSON.
pub fn chat_request(body: &[u8]) -> Result<Request, RequestFault> {
    let fields = Fields::read(body, POLICY_FIELDS)?;
    let model = fields.text(0, "must be the name of a model, a string")?;
    let stream = fields.flag(1)?;
    let choices = fields.count(5)?.unwrap_or(1);
    if !(1..=CHOICES_MAX).contains(&choices) {
        return Err(RequestFault::about("n", "must be from 1 to 128"));
    }
    let include_usage = if stream { include_usage(body, fields.place(2))? } else { None };
    Ok(Request {
        model,
        model_at: fields.place(0),
        stream,
        output_tokens_max: fields.count(3)?.max(fields.count(4)?),
        choices,
        include_usage,
        refers: false,
        state: None,
    })
}

/// Reads the policy fields of an embeddings request: there is no output to bound.
pub fn embeddings_request(body: &[u8]) -> Result<Request, RequestFault> {
    let fields = Fields::read(body, ["model"])?;
    Ok(Request {
        model: fields.text(0, "must be the name of a model, a string")?,
        model_at: fields.place(0),
        stream: false,
        output_tokens_max: Some(0),
        choices: 1,
        include_usage: None,
        refers: false,
        state: None,
    })
}

/// The edit that sets `stream_options.include_usage`, unless it is set.
fn include_usage(body: &[u8], options: Option<Range<usize>>) -> Result<Option<Edit>, RequestFault> {
    let edit = |range, text| Ok(Some(Edit { range, text: Cow::Borrowed(text) }));
    let Some(options) = options else {
        let start = body.iter().position(|byte| *byte == b'{').unwrap_or_default() + 1;
        return edit(start..start, r#""stream_options":{"include_usage":true},"#);
    };
    let object = &body[options.clone()];
    if object == b"null" {
        return edit(options, r#"{"include_usage":true}"#);
    }
    let (mut asked, mut fields) = (Vec::new(), 0);
    let read = json::fields(object, |key, value| {
        fields += 1;
        if key == "include_usage" {
            asked.push(value);
        }
    });
    let inside = options.start + 1;
    match (read, asked.as_slice()) {
        (Err(_), _) => Err(RequestFault::about("stream_options", "must be an object")),
        (Ok(()), []) if fields == 0 => edit(inside..inside, r#""include_usage":true"#),
        (Ok(()), []) => edit(inside..inside, r#""include_usage":true,"#),
        (Ok(()), [one]) if &object[one.clone()] == b"true" => Ok(None),
        (Ok(()), [one]) => edit(options.start + one.start..options.start + one.end, "true"),
        (Ok(()), _) => Err(RequestFault::about(
            "stream_options",
            "names `include_usage` more than once; send it once",
        )),
    }
}

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

    fn read(body: &str) -> Result<Request, RequestFault> {
        chat_request(body.as_bytes())
    }

    fn spliced(body: &str) -> String {
        let edit = read(body).expect("valid").include_usage.expect("an edit");
        format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..])
    }

    #[test]
    fn policy_fields_are_read_and_the_larger_bound_wins() {
        let request = read(
            r#"{"messages":[{"model":"no"}],"model":"gpt\u002d4o","n":2,"max_tokens":5,
               "max_completion_tokens":7,"stream":null}"#,
        )
        .expect("valid");
        assert_eq!((request.model.as_str(), request.choices), ("gpt-4o", 2));
        assert_eq!((request.output_tokens_max, request.stream), (Some(7), false));
        assert_eq!(request.include_usage, None);
    }

    #[test]
    fn a_policy_field_that_stands_twice_is_refused() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","\u006dodel":"b"}"#,
            r#"{"model":"a","max_tokens":1,"max\u005ftokens":2}"#,
        ] {
            assert!(read(body).expect_err(body).message.contains("more than once"));
        }
        assert!(read(r#"{"model":"a","temperature":1,"temperature":2}"#).is_ok());
    }

    #[test]
    fn faults_name_the_field() {
        for (body, param) in [
            (r#"{"messages":[]}"#, "model"),
            (r#"{"model":7}"#, "model"),
            (r#"{"model":"a","stream":"yes"}"#, "stream"),
            (r#"{"model":"a","n":0}"#, "n"),
            (r#"{"model":"a","max_tokens":-1}"#, "max_tokens"),
            (r#"{"model":"a","max_tokens":1.5}"#, "max_tokens"),
            (r#"{"model":"a","stream":true,"stream_options":1}"#, "stream_options"),
        ] {
            assert_eq!(read(body).expect_err(body).param, Some(param), "{body}");
        }
    }

    #[test]
    fn usage_is_asked_for_by_the_smallest_edit() {
        for (options, expected) in [
            ("", r#""stream_options":{"include_usage":true},"#),
            (r#""stream_options":null,"#, r#""stream_options":{"include_usage":true},"#),
            (r#""stream_options":{},"#, r#""stream_options":{"include_usage":true},"#),
            (
                r#""stream_options":{"include_obfuscation":false},"#,
                r#""stream_options":{"include_usage":true,"include_obfuscation":false},"#,
            ),
            (
                r#""stream_options":{"include_usage": false},"#,
                r#""stream_options":{"include_usage": true},"#,
            ),
        ] {
            let body = |options: &str| format!(r#"{{{options}"model":"a","stream":true}}"#);
            assert_eq!(spliced(&body(options)), body(expected));
        }
        let asked = r#"{"model":"a","stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(read(asked).expect("valid").include_usage, None);
    }

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
