//! The policy fields of OpenAI requests.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::json;
use crate::dialect::openai::outside;
use crate::dialect::request::{Edit, Fields, Request, RequestFault, put_first};

/// The most choices that a request may ask for.
const CHOICES_MAX: u64 = 128;

const CHAT_FIELDS: [&str; 8] = [
    "model",
    "background",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "tools",
];

/// Reads the policy fields of a chat completion request, and checks that the body is JSON.
pub fn chat(body: &[u8]) -> Result<Request, RequestFault> {
    let fields = Fields::read(body, CHAT_FIELDS)?;
    let model = fields.text(0, "must be the name of a model, a string")?;
    fields.in_foreground(1)?;
    let stream = fields.flag(2)?;
    let choices = fields.count(6)?.unwrap_or(1);
    if !(1..=CHOICES_MAX).contains(&choices) {
        return Err(RequestFault::about("n", "must be from 1 to 128"));
    }
    let include_usage = if stream { include_usage(body, fields.place(3))? } else { None };
    let outside = outside::find(body, fields.value(7));
    Ok(Request {
        model,
        model_at: fields.place(0),
        stream,
        output_tokens_max: fields.count(4)?.max(fields.count(5)?),
        choices,
        include_usage,
        refers: outside.refers,
        state: outside.state,
    })
}

/// Reads the policy fields of an embeddings request: there is no output to bound.
pub fn embeddings(body: &[u8]) -> Result<Request, RequestFault> {
    let fields = Fields::read(body, ["model", "background"])?;
    fields.in_foreground(1)?;
    let outside = outside::find(body, None);
    Ok(Request {
        model: fields.text(0, "must be the name of a model, a string")?,
        model_at: fields.place(0),
        stream: false,
        output_tokens_max: Some(0),
        choices: 1,
        include_usage: None,
        refers: outside.refers,
        state: outside.state,
    })
}

/// The edit that bounds the output by `field`, in a body that names no bound in it.
pub fn clamp(body: &[u8], field: &'static str, tokens: u64) -> Option<Edit> {
    let mut place = None;
    json::fields(body, |key, value| {
        if key == field {
            place = Some(value);
        }
    })
    .ok()?;
    match place {
        None => put_first(body, 0, format!("\"{field}\":{tokens}")),
        Some(range) if &body[range.clone()] == b"null" => {
            Some(Edit { range, text: Cow::Owned(tokens.to_string()) })
        }
        Some(_) => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Request, RequestFault> {
        chat(body.as_bytes())
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
            (r#"{"model":"a","background":true}"#, "background"),
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
}
