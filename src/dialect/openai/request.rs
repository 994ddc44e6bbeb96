//! The policy fields of OpenAI requests.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::json;
use crate::dialect::openai::outside;
use crate::dialect::outside::TOOLS_TOKENS;
use crate::dialect::request::{Edit, Fields, Request, RequestFault, put_first};
use crate::domain::usage::{Pieces, ServiceTier};

/// The most choices that a request may ask for.
const CHOICES_MAX: u64 = 128;

const CHAT_FIELDS: [&str; 12] = [
    "model",
    "background",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "tools",
    "functions",
    "models",
    "route",
    "fallbacks",
];

const BOUNDS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

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
    (9..12).try_for_each(|at| fields.names_no_model(at))?;
    let mut outside = outside::find(body, fields.value(7))?;
    if fields.filled(7).or(fields.filled(8)).is_some() {
        outside.hidden_tokens += TOOLS_TOKENS;
    }
    Ok(Request {
        model,
        model_places: fields.place(0).into_iter().collect(),
        stream,
        output_tokens_max: fields.bound(4)?.max(fields.bound(5)?),
        choices,
        pieces: Pieces::default(),
        service_tier: ServiceTier::DEFAULT,
        include_usage,
        hides_output: false,
        outside,
    })
}

/// Reads the policy fields of an embeddings request: there is no output to bound.
pub fn embeddings(body: &[u8]) -> Result<Request, RequestFault> {
    let fields = Fields::read(body, ["model", "background", "models", "route", "fallbacks"])?;
    fields.in_foreground(1)?;
    (2..5).try_for_each(|at| fields.names_no_model(at))?;
    Ok(Request {
        model: fields.text(0, "must be the name of a model, a string")?,
        model_places: fields.place(0).into_iter().collect(),
        stream: false,
        output_tokens_max: Some(0),
        choices: 1,
        pieces: Pieces::default(),
        service_tier: ServiceTier::DEFAULT,
        include_usage: None,
        hides_output: false,
        outside: outside::find(body, None)?,
    })
}

/// The edit that bounds the output by `field`, in a body that names no bound, be it 0.
pub fn clamp(body: &[u8], field: &'static str, tokens: u64) -> Option<Edit> {
    let (mut place, mut is_bound) = (None, false);
    json::fields(body, |key, value| {
        let is_field = key == field;
        is_bound |= (is_field || BOUNDS.contains(&&*key)) && &body[value.clone()] != b"null";
        if is_field {
            place = Some(value);
        }
    })
    .ok()?;
    match place {
        _ if is_bound => None,
        None => put_first(body, 0, format!("\"{field}\":{tokens}")),
        Some(range) => Some(Edit { range, text: Cow::Owned(tokens.to_string()) }),
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
            (r#"{"model":"a","models":["dear"]}"#, "models"),
            (r#"{"model":"a","route":"fallback"}"#, "route"),
            (r#"{"model":"a","fallbacks":["dear"]}"#, "fallbacks"),
            (r#"{"model":"a","tools":[{"type":"advisor","model":"dear"}]}"#, "tools"),
            (r#"{"model":"a","tools":[{"type":"x:y","parameters":{"model":"dear"}}]}"#, "tools"),
        ] {
            assert_eq!(read(body).expect_err(body).param, Some(param), "{body}");
        }
        let empty = br#"{"model":"a","models":[ ],"route":null,"fallbacks":""}"#;
        assert!(chat(empty).is_ok() && embeddings(empty).is_ok());
        let other = br#"{"model":"a","input":"x","models":["dear"]}"#;
        assert_eq!(embeddings(other).expect_err("another model").param, Some("models"));
        let function = r#"{"model":"a","tools":[{"type":"function","function":{"model":"b"}}]}"#;
        assert!(read(function).is_ok());
    }

    #[test]
    fn tools_cost_what_no_byte_shows() {
        for (rest, tokens) in [
            (r#""tools":[{"type":"function"}],"functions":[{}]"#, TOOLS_TOKENS),
            (r#""functions":[{}]"#, TOOLS_TOKENS),
            (r#""tools":[ ],"functions":null"#, 0),
        ] {
            let body = format!(r#"{{"model":"a",{rest}}}"#);
            assert_eq!(read(&body).expect("valid").outside.hidden_tokens, tokens, "{rest}");
        }
    }

    #[test]
    fn a_bound_of_nothing_is_none() {
        for (bounds, expected) in [
            (r#""max_tokens":0"#, None),
            (r#""max_completion_tokens":0"#, None),
            (r#""max_tokens":0,"max_completion_tokens":5"#, Some(5)),
        ] {
            let body = format!(r#"{{"model":"a",{bounds}}}"#);
            assert_eq!(read(&body).expect("valid").output_tokens_max, expected, "{bounds}");
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
