//! Policy fields: the few top-level fields of a request that routing, limits and prices depend on.
//!
//! A reader declares its fields with [`policy_fields!`], each with its kind. One pass over the body
//! finds them all.

use std::ops::Range;

use crate::dialect::call_facts::ParseError;
use crate::dialect::json;
use crate::dialect::multipart::{self, Part};

/// Declares a struct of policy fields with a typed accessor for each, and a constructor for each
/// format that the body can have:
///
/// ```text
/// policy_fields! {
///     struct EmbeddingFields from json {
///         model: ModelName = "model",
///         background: Background = "background",
///     }
/// }
/// let fields = EmbeddingFields::from_json(body)?;
/// fields.background().reject()?;
/// ```
macro_rules! policy_fields {
    (@constructor json) => {
        fn from_json(body: &'a [u8]) -> Result<Self, $crate::dialect::call_facts::ParseError> {
            let spans = $crate::dialect::policy_fields::spans_in_json(body, &Self::NAMES)?;
            Ok(Self::from_spans(body, false, spans))
        }
    };
    (@constructor form) => {
        /// Calls `on_other` with every part that is not a policy field.
        fn from_form(
            body: &'a [u8],
            boundary: &str,
            on_other: impl FnMut(&$crate::dialect::multipart::Part<'a>),
        ) -> Result<Self, $crate::dialect::call_facts::ParseError> {
            let names = &Self::NAMES;
            let spans =
                $crate::dialect::policy_fields::spans_in_form(body, boundary, names, on_other)?;
            Ok(Self::from_spans(body, true, spans))
        }
    };
    (
        $(#[$doc:meta])*
        struct $Fields:ident from $($format:ident),+ {
            $($field:ident: $Kind:ident = $name:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $Fields<'a> {
            body: &'a [u8],
            is_form: bool,
            $($field: Option<std::ops::Range<usize>>,)+
        }

        impl<'a> $Fields<'a> {
            const NAMES: [&'static str; [$($name),+].len()] = [$($name),+];

            $($crate::dialect::policy_fields::policy_fields! { @constructor $format })+

            fn from_spans(
                body: &'a [u8],
                is_form: bool,
                spans: [Option<std::ops::Range<usize>>; [$($name),+].len()],
            ) -> Self {
                let [$($field),+] = spans;
                Self { body, is_form, $($field),+ }
            }

            $(fn $field(&self) -> $Kind<'a> {
                $Kind($crate::dialect::field_kinds::Field {
                    name: $name,
                    body: self.body,
                    is_form: self.is_form,
                    span: self.$field.clone(),
                })
            })+
        }
    };
}
pub(crate) use policy_fields;

/// Finds the fields with these names, and checks that the body is one JSON object.
///
/// A policy field that appears twice is refused: the gateway would price one value and the upstream
/// might use the other. A name in the wrong letter case is refused because some upstreams ignore
/// the case.
pub fn spans_in_json<const N: usize>(
    body: &[u8],
    names: &[&'static str; N],
) -> Result<[Option<Range<usize>>; N], ParseError> {
    let mut spans = [const { None }; N];
    let mut error = None;
    json::fields(body, |key, value| {
        error = error.take().or(record(names, &mut spans, &key, value).err());
    })?;
    error.map_or(Ok(spans), Err)
}

/// Finds the same in a form, and calls `on_other` with every other part. A policy field must be
/// neither a file nor a list.
pub fn spans_in_form<'a, const N: usize>(
    body: &'a [u8],
    boundary: &str,
    names: &[&'static str; N],
    mut on_other: impl FnMut(&Part<'a>),
) -> Result<[Option<Range<usize>>; N], ParseError> {
    let mut spans = [const { None }; N];
    let mut error = None;
    multipart::parts(body, boundary, |part| {
        let is_list = part.name.ends_with(']');
        let name =
            if is_list { part.name.split('[').next().unwrap_or_default() } else { part.name };
        match record(names, &mut spans, name, part.value.clone()) {
            Ok(None) => on_other(&part),
            Ok(Some(field)) if is_list || part.is_file => {
                error = Some(ParseError::for_field(field, "must be a plain form field"));
            }
            Ok(Some(_)) => {}
            Err(failed) => error = Some(failed),
        }
    })
    .map_err(|message| ParseError { param: None, message })?;
    error.map_or(Ok(spans), Err)
}

/// Records a value if `key` is a policy field, and returns the name of that field.
fn record<const N: usize>(
    names: &[&'static str; N],
    spans: &mut [Option<Range<usize>>; N],
    key: &str,
    value: Range<usize>,
) -> Result<Option<&'static str>, ParseError> {
    if let Some(at) = names.iter().position(|name| *name == key) {
        if spans[at].replace(value).is_some() {
            let what = "appears more than once in the body; send it once";
            return Err(ParseError::for_field(names[at], what));
        }
        return Ok(Some(names[at]));
    }
    match names.iter().find(|name| differs_by_case(key, name)) {
        None => Ok(None),
        Some(name) => {
            let message = format!(
                "unknown field `{key}`; did you mean `{name}`? Field names are case-sensitive"
            );
            Err(ParseError { param: Some(name), message })
        }
    }
}

/// Whether `key` equals `name` if the case of all letters is ignored, by Unicode's rules.
fn differs_by_case(key: &str, name: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(name);
    }
    key.chars().map(fold).eq(name.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_fields_in_another_letter_case_are_refused() {
        for (body, refused) in [
            (r#"{"MAX_TOKENS":1}"#, true),
            (r#"{"max_tokens":1,"Max_tokens":2}"#, true),
            (r#"{"max_to\u212aens":1}"#, true),
            ("{\"max_token\u{17f}\":1}", true),
            (r#"{"max_tokens":1,"maxTokens":2,"MAX":3}"#, false),
        ] {
            let read = spans_in_json(body.as_bytes(), &["max_tokens"]).map(|_| ());
            assert_eq!(
                read.map_err(|error| error.param),
                if refused { Err(Some("max_tokens")) } else { Ok(()) },
                "{body}"
            );
        }
        let error = spans_in_json(br#"{"MAX_TOKENS":1}"#, &["max_tokens"]).expect_err("refused");
        assert_eq!(
            error.message,
            "unknown field `MAX_TOKENS`; did you mean `max_tokens`? Field names are case-sensitive"
        );
    }
}
