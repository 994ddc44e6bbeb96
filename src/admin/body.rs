//! Bodies: the fields of a JSON object, read so that every fault is found, none only first.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};

use crate::admin::api_error::ApiError;
use crate::admin::field_type::FieldType;
use crate::organization::error::FieldError;

/// What a request may have as its body.
pub trait Body: Sized {
    /// Its name in the OpenAPI document.
    const NAME: &'static str;

    /// Takes its fields; `None` only after a fault.
    fn read(fields: &mut BodyReader) -> Option<Self>;

    /// Names its fields.
    fn describe(shape: &mut BodySchema);
}

/// Gives a type the fields of a body: each once, for reading and for the document.
macro_rules! body {
    ($type:ty as $name:literal {
        $($field:ident: $presence:ident($wire:literal $(, $argument:expr)*),)*
    }) => {
        impl $crate::admin::body::Body for $type {
            const NAME: &'static str = $name;

            fn read(fields: &mut $crate::admin::body::BodyReader) -> Option<Self> {
                $(let $field = fields.$presence($wire $(, $argument)*);)*
                Some(Self { $($field: $field?,)* })
            }

            fn describe(shape: &mut $crate::admin::body::BodySchema) {
                $(let _ = shape.$presence($wire $(, $argument)*);)*
            }
        }
    };
}

pub(crate) use body;

/// The fields of an object that are still to be read, and what was wrong with the others.
#[derive(Debug)]
pub struct BodyReader {
    remaining: Vec<(String, Box<RawValue>)>,
    parent_pointer: String,
    errors: Vec<FieldError>,
}

/// The fields of an object, as the OpenAPI document has them.
#[derive(Default)]
pub struct BodySchema(ObjectBuilder);

struct RawObject(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawObjectVisitor;

        impl<'de> Visitor<'de> for RawObjectVisitor {
            type Value = RawObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(RawObject(entries))
            }
        }

        deserializer.deserialize_map(RawObjectVisitor)
    }
}

/// Reads a body whole.
pub fn read<B: Body>(json: &[u8]) -> Result<B, ApiError> {
    // A text that says nothing says that no field is given.
    let json = if json.is_empty() { b"{}" } else { json };
    let entries: RawObject = serde_json::from_slice(json)
        .map_err(|fault| ApiError::malformed_json(&fault.to_string()))?;
    let mut fields =
        BodyReader { remaining: entries.0, parent_pointer: String::new(), errors: Vec::new() };
    let body = B::read(&mut fields);
    fields.reject_unknown();
    body.filter(|_| fields.errors.is_empty()).ok_or_else(|| ApiError::invalid(fields.errors))
}

/// Reads an object that stands in a field.
pub fn read_nested<T>(
    json: &RawValue,
    param: &str,
    read: impl FnOnce(&mut BodyReader) -> Option<T>,
) -> Result<T, Vec<FieldError>> {
    let entries: Result<RawObject, _> = serde_json::from_str(json.get());
    let Ok(entries) = entries else {
        return Err(vec![FieldError::new(param, "not_an_object", "give an object")]);
    };
    let mut fields =
        BodyReader { remaining: entries.0, parent_pointer: param.to_owned(), errors: Vec::new() };
    let value = read(&mut fields);
    fields.reject_unknown();
    value.filter(|_| fields.errors.is_empty()).ok_or(fields.errors)
}

impl BodyReader {
    /// Must be given.
    pub fn required<K: FieldType>(&mut self, name: &str, kind: K) -> Option<K::Value> {
        match self.take(name) {
            Some(json) => self.parse_value(name, &kind, &json),
            None => self.push_error(name, "required", format!("{name} is required")),
        }
    }

    /// May be absent or `null`.
    pub fn optional<K: FieldType>(&mut self, name: &str, kind: K) -> Option<Option<K::Value>> {
        Some(self.nullable(name, kind)?.flatten())
    }

    /// May be absent, and is then this.
    pub fn with_default<K: FieldType>(
        &mut self,
        name: &str,
        kind: K,
        value: K::Value,
    ) -> Option<K::Value> {
        Some(self.optional_update(name, kind)?.unwrap_or(value))
    }

    /// Absent: unchanged.
    pub fn optional_update<K: FieldType>(
        &mut self,
        name: &str,
        kind: K,
    ) -> Option<Option<K::Value>> {
        match self.take(name) {
            Some(json) => self.parse_value(name, &kind, &json).map(Some),
            None => Some(None),
        }
    }

    /// Must be given, in a type that can also say that it is unchanged.
    pub fn required_in_patch<K: FieldType>(
        &mut self,
        name: &str,
        kind: K,
    ) -> Option<Option<K::Value>> {
        self.required(name, kind).map(Some)
    }

    /// Absent: unchanged; `null`: cleared.
    pub fn nullable<K: FieldType>(
        &mut self,
        name: &str,
        kind: K,
    ) -> Option<Option<Option<K::Value>>> {
        match self.take(name) {
            Some(json) if json.get() == "null" => Some(Some(None)),
            Some(json) => self.parse_value(name, &kind, &json).map(|value| Some(Some(value))),
            None => Some(None),
        }
    }

    /// Cannot be given: says why.
    pub fn read_only(&mut self, name: &str, reason: &'static str, message: &str) -> Option<()> {
        match self.take(name) {
            Some(_) => self.push_error(name, reason, message.to_owned()),
            None => Some(()),
        }
    }

    fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        let at = self.remaining.iter().position(|(known, _)| known == name)?;
        let value = self.remaining.remove(at).1;
        if self.remaining.iter().any(|(other, _)| other == name) {
            let _: Option<()> =
                self.push_error(name, "duplicate", format!("{name} is given twice"));
            self.remaining.retain(|(other, _)| other != name);
        }
        Some(value)
    }

    fn parse_value<K: FieldType>(
        &mut self,
        name: &str,
        kind: &K,
        json: &RawValue,
    ) -> Option<K::Value> {
        let param = self.pointer(name);
        let faults = match kind.read_at(json, &param) {
            Ok(value) => return Some(value),
            Err(faults) => faults,
        };
        let named = faults.into_iter().map(|fault| {
            let message = format!("{}: {}", fault.param.trim_start_matches('/'), fault.message);
            FieldError { message, ..fault }
        });
        self.errors.extend(named);
        None
    }

    fn push_error<T>(&mut self, name: &str, reason: &'static str, message: String) -> Option<T> {
        let param = self.pointer(name);
        self.errors.push(FieldError::new(param, reason, message));
        None
    }

    fn pointer(&self, name: &str) -> String {
        let escaped = name.replace('~', "~0").replace('/', "~1");
        format!("{}/{escaped}", self.parent_pointer)
    }

    fn reject_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.remaining) {
            let shown: String = name.chars().take(100).collect();
            let message = format!("{shown} cannot be set here: there is no such field to write");
            let _: Option<()> = self.push_error(&shown, "unknown_field", message);
        }
    }
}

impl BodySchema {
    /// The document's schema of a body.
    pub fn of<B: Body>() -> Object {
        let mut shape = Self::default();
        B::describe(&mut shape);
        shape.build()
    }

    /// The schema of what was named.
    pub fn build(self) -> Object {
        let closed = AdditionalProperties::FreeForm(false);
        self.0.additional_properties(Some(closed)).build()
    }

    /// Must be given.
    pub fn required<K: FieldType>(&mut self, name: &str, kind: K) {
        self.add(name, kind.schema());
        self.0 = std::mem::take(&mut self.0).required(name);
    }

    /// Must be given.
    pub fn required_in_patch<K: FieldType>(&mut self, name: &str, kind: K) {
        self.required(name, kind);
    }

    /// May be absent or `null`.
    pub fn optional<K: FieldType>(&mut self, name: &str, kind: K) {
        self.nullable(name, kind);
    }

    /// May be absent.
    pub fn with_default<K: FieldType>(&mut self, name: &str, kind: K, _value: K::Value) {
        self.optional_update(name, kind);
    }

    /// May be absent.
    pub fn optional_update<K: FieldType>(&mut self, name: &str, kind: K) {
        self.add(name, kind.schema());
    }

    /// May be absent or `null`.
    pub fn nullable<K: FieldType>(&mut self, name: &str, kind: K) {
        let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
        self.add(name, OneOfBuilder::new().item(null).item(kind.schema()));
    }

    /// Is not documented: it cannot be given.
    pub const fn read_only(&mut self, _name: &str, _reason: &'static str, _message: &str) {}

    fn add(&mut self, name: &str, schema: impl Into<RefOr<Schema>>) {
        self.0 = std::mem::take(&mut self.0).property(name, schema);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::field_type::{IntegerIn, MoneyAmount, Text};
    use crate::domain::money::Nano;

    #[derive(Debug)]
    #[expect(clippy::option_option, reason = "absent, null and a text are three things")]
    struct Thing {
        name: String,
        note: Option<Option<String>>,
        count: i64,
        cost: Option<Nano>,
    }

    body! { Thing as "Thing" {
        name: required("name", Text(1, 5)),
        note: nullable("note", Text(0, 5)),
        count: with_default("count", IntegerIn(0, 9), 7),
        cost: optional("cost", MoneyAmount::NonNegative),
    }}

    fn faults(json: &str) -> Vec<String> {
        let failure = read::<Thing>(json.as_bytes()).expect_err(json).to_json();
        let failure: serde_json::Value = serde_json::from_str(&failure).expect("JSON");
        let errors = failure["error"]["errors"].as_array().expect("a list").clone();
        let word = |error: &serde_json::Value, field: &str| {
            error[field].as_str().unwrap_or_default().to_owned()
        };
        errors
            .iter()
            .map(|error| format!("{} {}", word(error, "param"), word(error, "reason")))
            .collect()
    }

    #[test]
    fn absent_null_and_given_are_three_things() {
        let thing = read::<Thing>(br#"{"name":"a"}"#).expect("a thing");
        assert_eq!((thing.name.as_str(), thing.note, thing.count), ("a", None, 7));
        let thing = read::<Thing>(br#"{"name":"a","note":null,"cost":"0.1"}"#).expect("a thing");
        assert_eq!((thing.note, thing.cost), (Some(None), Some(Nano(100_000_000))));
    }

    #[test]
    fn every_fault_is_found_at_once() {
        let json = r#"{"note":1,"count":10,"cost":1e3,"colour":1,"na/me":2}"#;
        let expected = [
            "/name required",
            "/note not_a_string",
            "/count not_in_range",
            "/cost not_an_amount",
            "/colour unknown_field",
            "/na~1me unknown_field",
        ];
        assert_eq!(faults(json), expected);
        assert_eq!(faults(r#"{"name":"a","name":"b"}"#), ["/name duplicate"]);
        assert_eq!(faults(r#"{"name":null,"count":null}"#).len(), 2, "null is no value");
        for json in ["{", "[]", "1", "\"\"", "{\"name\":\"\u{1}\"}", "{} {}"] {
            assert!(faults(json).len() < 2, "{json}");
        }
    }
}
