//! JSON form of money and timestamps.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::money::Nano;
use crate::domain::time::UnixMs;

/// An amount, serialized as an exact decimal JSON number. Never a float.
#[derive(Debug, Clone, Copy)]
pub struct Money(pub Nano);

/// A timestamp, serialized as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339(pub UnixMs);

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        text.serialize(serializer)
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .format(Some(SchemaFormat::Custom("decimal".into())))
            .description(Some(
                "Exact decimal number with 2 to 9 decimals; a string with `?money=string`.",
            ))
            .into()
    }
}

impl PartialSchema for Rfc3339 {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl ToSchema for Money {}
impl ToSchema for Rfc3339 {}

/// Turns every amount of a JSON text into a string.
///
/// Only amounts are written with a decimal point, so every number with a point is an amount.
pub fn money_as_strings(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 64);
    let mut rest = json;
    while let Some(at) = rest.find(|letter: char| letter == '"' || is_numeric(letter)) {
        let (before, token) = rest.split_at(at);
        out.push_str(before);
        let end = if token.starts_with('"') {
            end_of_string(token)
        } else {
            token.find(|letter| !is_numeric(letter)).unwrap_or(token.len())
        };
        let (token, after) = token.split_at(end);
        if !token.starts_with('"') && token.contains('.') {
            out.extend(["\"", token, "\""]);
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

const fn is_numeric(letter: char) -> bool {
    letter.is_ascii_digit() || matches!(letter, '-' | '.')
}

/// Returns the length of the JSON string at the start of `text`, quotes included.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '"' if !escaped => return at + 1,
            '\\' if !escaped => escaped = true,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact_in_both_forms() {
        let json = serde_json::to_string(&[Money(Nano(375)), Money(Nano(-500_000_000))]);
        let json = json.expect("serializable");
        assert_eq!(json, "[0.000000375,-0.50]");
        let json = format!(r#"{{"a.b":"1.5 \" 2.5\\","n":7,"m":{json},"t":true}}"#);
        let text = r#"{"a.b":"1.5 \" 2.5\\","n":7,"m":["0.000000375","-0.50"],"t":true}"#;
        assert_eq!(money_as_strings(&json), text);
    }
}
