//! Reads JSON request bodies field by field and reports every invalid field, not only the first.

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

/// A type that can be read from a request body.
pub trait Body: Sized {
    /// Schema name in the OpenAPI document.
    const NAME: &'static str;

    /// Reads the fields. Returns `None` only after an error was recorded.
    fn read(fields: &mut BodyReader) -> Option<Self>;

    /// Adds the fields to the OpenAPI schema.
    fn describe(schema: &mut BodySchema);
}

/// Implements [`Body`] from one list of fields, used both for reading and for the OpenAPI schema.
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

            fn describe(schema: &mut $crate::admin::body::BodySchema) {
                $(let _ = schema.$presence($wire $(, $argument)*);)*
            }
        }
    };
}

pub(crate) use body;

/// The fields of an object that are not read yet, and the errors found so far.
#[derive(Debug)]
pub struct BodyReader {
    remaining: Vec<(String, Box<RawValue>)>,
    parent_pointer: String,
    errors: Vec<FieldError>,
}

/// The OpenAPI schema of an object.
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

/// Parses a whole body.
pub fn read<B: Body>(json: &[u8]) -> Result<B, ApiError> {
    // An empty body means `{}`.
    let json = if json.is_empty() { b"{}" } else { json };
    let entries: RawObject = serde_json::from_slice(json)
        .map_err(|error| ApiError::malformed_json(&error.to_string()))?;
    let mut fields =
        BodyReader { remaining: entries.0, parent_pointer: String::new(), errors: Vec::new() };
    let body = B::read(&mut fields);
    fields.reject_unknown();
    body.filter(|_| fields.errors.is_empty()).ok_or_else(|| ApiError::invalid(fields.errors))
}

/// Parses an object nested in the field `param`.
pub fn read_nested<T>(
    json: &RawValue,
    param: &str,
    read: impl FnOnce(&mut BodyReader) -> Option<T>,
) -> Result<T, Vec<FieldError>> {
    let entries: Result<RawObject, _> = serde_json::from_str(json.get());
    let Ok(entries) = entries else {
        return Err(vec![FieldError::new(param, "not_an_object", "expected an object")]);
    };
    let mut fields =
        BodyReader { remaining: entries.0, parent_pointer: param.to_owned(), errors: Vec::new() };
    let value = read(&mut fields);
    fields.reject_unknown();
    value.filter(|_| fields.errors.is_empty()).ok_or(fields.errors)
}

impl BodyReader {
    /// The field must be present.
    pub fn required<K: FieldType>(&mut self, name: &str, field_type: K) -> Option<K::Value> {
        match self.take(name) {
            Some(json) => self.parse_value(name, &field_type, &json),
            None => self.push_error(name, "required", format!("missing required field \"{name}\"")),
        }
    }

    /// The field may be absent or `null`.
    pub fn optional<K: FieldType>(
        &mut self,
        name: &str,
        field_type: K,
    ) -> Option<Option<K::Value>> {
        Some(self.nullable(name, field_type)?.flatten())
    }

    /// The field may be absent; `value` is the default.
    pub fn with_default<K: FieldType>(
        &mut self,
        name: &str,
        field_type: K,
        value: K::Value,
    ) -> Option<K::Value> {
        Some(self.optional_update(name, field_type)?.unwrap_or(value))
    }

    /// The field may be absent, which means unchanged.
    pub fn optional_update<K: FieldType>(
        &mut self,
        name: &str,
        field_type: K,
    ) -> Option<Option<K::Value>> {
        match self.take(name) {
            Some(json) => self.parse_value(name, &field_type, &json).map(Some),
            None => Some(None),
        }
    }

    /// The field must be present, in a type whose other fields may be absent.
    pub fn required_in_patch<K: FieldType>(
        &mut self,
        name: &str,
        field_type: K,
    ) -> Option<Option<K::Value>> {
        self.required(name, field_type).map(Some)
    }

    /// The field may be absent (unchanged) or `null` (cleared).
    pub fn nullable<K: FieldType>(
        &mut self,
        name: &str,
        field_type: K,
    ) -> Option<Option<Option<K::Value>>> {
        match self.take(name) {
            Some(json) if json.get() == "null" => Some(Some(None)),
            Some(json) => self.parse_value(name, &field_type, &json).map(|value| Some(Some(value))),
            None => Some(None),
        }
    }

    /// The field must be absent. `reason` and `message` tell the client why.
    pub fn read_only(&mut self, name: &str, reason: &'static str, message: &str) -> Option<()> {
        match self.take(name) {
            Some(_) => self.push_error(name, reason, message.to_owned()),
            None => Some(()),
        }
    }

    fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        let index = self.remaining.iter().position(|(field, _)| field == name)?;
        let value = self.remaining.remove(index).1;
        if self.remaining.iter().any(|(other, _)| other == name) {
            let _: Option<()> =
                self.push_error(name, "duplicate", format!("duplicate field \"{name}\""));
            self.remaining.retain(|(other, _)| other != name);
        }
        Some(value)
    }

    fn parse_value<K: FieldType>(
        &mut self,
        name: &str,
        field_type: &K,
        json: &RawValue,
    ) -> Option<K::Value> {
        let param = self.pointer(name);
        let errors = match field_type.read_at(json, &param) {
            Ok(value) => return Some(value),
            Err(errors) => errors,
        };
        // The reader of the outermost object names the field in all messages.
        let is_nested = !self.parent_pointer.is_empty();
        self.errors.extend(errors.into_iter().map(|error| {
            if is_nested {
                return error;
            }
            let message = format!("{}: {}", error.param.trim_start_matches('/'), error.message);
            FieldError { message, ..error }
        }));
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
            let name: String = name.chars().take(100).collect();
            let message = format!("unknown field \"{name}\"");
            let _: Option<()> = self.push_error(&name, "unknown_field", message);
        }
    }
}

impl BodySchema {
    /// Returns the schema of a body.
    pub fn of<B: Body>() -> Object {
        let mut schema = Self::default();
        B::describe(&mut schema);
        schema.build()
    }

    /// Returns the schema of the fields added so far. Unknown fields are not allowed.
    pub fn build(self) -> Object {
        let none = AdditionalProperties::FreeForm(false);
        self.0.additional_properties(Some(none)).build()
    }

    pub fn required<K: FieldType>(&mut self, name: &str, field_type: K) {
        self.add(name, field_type.schema());
        self.0 = std::mem::take(&mut self.0).required(name);
    }

    pub fn required_in_patch<K: FieldType>(&mut self, name: &str, field_type: K) {
        self.required(name, field_type);
    }

    pub fn optional<K: FieldType>(&mut self, name: &str, field_type: K) {
        self.nullable(name, field_type);
    }

    pub fn with_default<K: FieldType>(&mut self, name: &str, field_type: K, _value: K::Value) {
        self.optional_update(name, field_type);
    }

    pub fn optional_update<K: FieldType>(&mut self, name: &str, field_type: K) {
        self.add(name, field_type.schema());
    }

    pub fn nullable<K: FieldType>(&mut self, name: &str, field_type: K) {
        let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
        self.add(name, OneOfBuilder::new().item(null).item(field_type.schema()));
    }

    /// Adds nothing, because clients cannot write a read-only field.
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
    #[expect(clippy::option_option, reason = "absent, null and a string differ")]
    struct TestBody {
        name: String,
        note: Option<Option<String>>,
        count: i64,
        cost: Option<Nano>,
    }

    body! { TestBody as "TestBody" {
        name: required("name", Text { min: 1, max: 5 }),
        note: nullable("note", Text { min: 0, max: 5 }),
        count: with_default("count", IntegerIn { min: 0, max: 9 }, 7),
        cost: optional("cost", MoneyAmount::NonNegative),
    }}

    fn errors(json: &str) -> Vec<String> {
        let error = read::<TestBody>(json.as_bytes()).expect_err(json).to_json();
        let error: serde_json::Value = serde_json::from_str(&error).expect("JSON");
        let errors = error["error"]["errors"].as_array().expect("a list").clone();
        let text = |error: &serde_json::Value, field: &str| {
            error[field].as_str().unwrap_or_default().to_owned()
        };
        errors
            .iter()
            .map(|error| format!("{} {}", text(error, "param"), text(error, "reason")))
            .collect()
    }

    #[test]
    fn absent_null_and_present_fields_differ() {
        let body = read::<TestBody>(br#"{"name":"a"}"#).expect("a body");
        assert_eq!((body.name.as_str(), body.note, body.count), ("a", None, 7));
        let body = read::<TestBody>(br#"{"name":"a","note":null,"cost":"0.1"}"#).expect("a body");
        assert_eq!((body.note, body.cost), (Some(None), Some(Nano(100_000_000))));
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let json = r#"{"note":1,"count":10,"cost":1e3,"colour":1,"na/me":2}"#;
        let expected = [
            "/name required",
            "/note not_a_string",
            "/count not_in_range",
            "/cost not_an_amount",
            "/colour unknown_field",
            "/na~1me unknown_field",
        ];
        assert_eq!(errors(json), expected);
        assert_eq!(errors(r#"{"name":"a","name":"b"}"#), ["/name duplicate"]);
        assert_eq!(errors(r#"{"name":null,"count":null}"#).len(), 2, "null is not a value");
        for json in ["{", "[]", "1", "\"\"", "{\"name\":\"\u{1}\"}", "{} {}"] {
            assert!(errors(json).len() < 2, "{json}");
        }
    }
}
