//! Types of body fields and query parameters: parsing, validation and OpenAPI schema.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use utoipa::openapi::schema::{
    ArrayBuilder, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, RefOr};

use crate::clock;
use crate::domain::access::Cidr;
use crate::domain::money::{MalformedMoney, Nano};
use crate::domain::time::{Day, UnixMs};
use crate::organization::error::FieldError;
use crate::organization::passwords;
use crate::settings::secret::Secret;

/// Reason code and message of an invalid value.
pub type InvalidValue = (&'static str, String);

/// The type of a body field or query parameter.
pub trait FieldType: Copy {
    type Value;

    /// Whether the JSON form is a string. Query parameters of such types are quoted before parsing.
    const QUOTED: bool = true;

    /// Parses and validates a JSON value.
    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue>;

    /// Like [`read`](Self::read), with a JSON pointer in each error: `param`, or a nested field of
    /// it.
    fn read_at(&self, json: &RawValue, param: &str) -> Result<Self::Value, Vec<FieldError>> {
        self.read(json).map_err(|(reason, message)| vec![FieldError::new(param, reason, message)])
    }

    /// Returns the OpenAPI schema.
    fn schema(&self) -> RefOr<Schema>;
}

/// A string with a minimum and maximum number of characters.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    pub min: usize,
    pub max: usize,
}

/// One of the listed strings.
#[derive(Debug, Clone, Copy)]
pub struct OneOf(pub &'static [&'static str]);

/// One of the listed strings, parsed into an enum.
#[derive(Debug, Clone, Copy)]
pub struct EnumOf<T> {
    pub names: &'static [&'static str],
    pub parse: fn(&str) -> Option<T>,
}

/// A string with its own parser, such as an id.
#[derive(Debug, Clone, Copy)]
pub struct ParsedString<T> {
    /// Completes the error text "expected …".
    pub expected: &'static str,
    pub parse: fn(&str) -> Option<T>,
}

#[derive(Debug, Clone, Copy)]
pub struct Bool;

/// An integer from `min` to `max`, both included.
#[derive(Debug, Clone, Copy)]
pub struct IntegerIn {
    pub min: i64,
    pub max: i64,
}

/// An amount of money.
#[derive(Debug, Clone, Copy)]
pub enum MoneyAmount {
    /// More than 0.
    Positive,
    /// 0 or more.
    NonNegative,
}

/// A point in time, or a date that means its first instant in UTC.
#[derive(Debug, Clone, Copy)]
pub enum Timestamp {
    /// Later than now.
    Future,
    Any,
}

#[derive(Debug, Clone, Copy)]
pub struct Date;

/// An email address.
#[derive(Debug, Clone, Copy)]
pub struct Email;

/// A new password, checked for its length.
#[derive(Debug, Clone, Copy)]
pub struct NewPassword;

/// A secret that is only compared, such as the password at sign-in.
#[derive(Debug, Clone, Copy)]
pub struct SecretText;

/// A list with a maximum length.
#[derive(Debug, Clone, Copy)]
pub struct ListOf<T> {
    pub max: usize,
    pub item: T,
}

/// An IP network in CIDR notation.
#[derive(Debug, Clone, Copy)]
pub struct CidrText;

/// An object with string values.
#[derive(Debug, Clone, Copy)]
pub struct StringMap;

/// Glob patterns of model names.
pub const MODEL_GLOBS: ListOf<Text> = ListOf { max: 100, item: Text { min: 1, max: 200 } };
pub const NAME: Text = Text { min: 1, max: 200 };
pub const DESCRIPTION: Text = Text { min: 0, max: 2_000 };
const SECRET_TEXT: Text = Text { min: 1, max: 1_000 };
const PASSWORD_TEXT: Text =
    Text { min: *passwords::LENGTH_RANGE.start(), max: *passwords::LENGTH_RANGE.end() };
const MAP_ENTRIES_MAX: usize = 50;
const MAP_NAME_CHARS_MAX: usize = 64;
const MAP_VALUE_CHARS_MAX: usize = 500;
const MAP_VALUE: Text = Text { min: 0, max: MAP_VALUE_CHARS_MAX };

fn read_string(json: &RawValue) -> Result<String, InvalidValue> {
    serde_json::from_str(json.get()).map_err(|_| ("not_a_string", "expected a string".to_owned()))
}

fn schema_of(json_type: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(json_type))
}

impl FieldType for Text {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let text = read_string(json)?;
        let length = text.chars().count();
        if length < self.min || self.max < length || text.contains('\0') {
            let message = format!("expected {} to {} characters", self.min, self.max);
            return Err(("wrong_length", message));
        }
        Ok(text)
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).min_length(Some(self.min)).max_length(Some(self.max)).into()
    }
}

impl FieldType for OneOf {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let text = read_string(json)?;
        if self.0.contains(&text.as_str()) {
            Ok(text)
        } else {
            Err(("unknown_value", format!("expected one of {}", self.0.join(", "))))
        }
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).enum_values(Some(self.0.iter().copied())).into()
    }
}

impl<T: Copy> FieldType for EnumOf<T> {
    type Value = T;

    fn read(&self, json: &RawValue) -> Result<T, InvalidValue> {
        let name = OneOf(self.names).read(json)?;
        (self.parse)(&name).ok_or_else(|| ("unknown_value", format!("unknown value \"{name}\"")))
    }

    fn schema(&self) -> RefOr<Schema> {
        OneOf(self.names).schema()
    }
}

impl<T: Copy> FieldType for ParsedString<T> {
    type Value = T;

    fn read(&self, json: &RawValue) -> Result<T, InvalidValue> {
        let value = (self.parse)(&read_string(json)?);
        value.ok_or_else(|| ("malformed", format!("expected {}", self.expected)))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).description(Some(self.expected)).into()
    }
}

impl FieldType for Bool {
    type Value = bool;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<bool, InvalidValue> {
        serde_json::from_str(json.get())
            .map_err(|_| ("not_a_boolean", "expected true or false".to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::Boolean).into()
    }
}

impl FieldType for IntegerIn {
    type Value = i64;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<i64, InvalidValue> {
        let Self { min, max } = *self;
        let number: Option<i64> = json.get().parse().ok();
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| ("not_in_range", format!("expected an integer from {min} to {max}")))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::Integer).minimum(Some(self.min)).maximum(Some(self.max)).into()
    }
}

impl FieldType for MoneyAmount {
    type Value = Nano;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Nano, InvalidValue> {
        let text =
            if json.get().starts_with('"') { read_string(json)? } else { json.get().to_owned() };
        let amount = Nano::parse(&text).map_err(|error| match error {
            MalformedMoney::NotDecimal => {
                ("not_an_amount", "expected an amount of 0 or more, such as 1.50".to_owned())
            }
            MalformedMoney::TooFine => {
                ("too_many_decimals", "expected at most 9 decimals".to_owned())
            }
            MalformedMoney::TooLarge => ("too_large", "expected at most 9000000000".to_owned()),
        })?;
        if matches!(self, Self::Positive) && amount == Nano::ZERO {
            return Err(("not_positive", "expected more than 0".to_owned()));
        }
        Ok(amount)
    }

    fn schema(&self) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::Array(vec![Type::Number, Type::String]))
            .format(Some(SchemaFormat::Custom("decimal".into())))
            .into()
    }
}

impl FieldType for Timestamp {
    type Value = UnixMs;

    fn read(&self, json: &RawValue) -> Result<UnixMs, InvalidValue> {
        let text = read_string(json)?;
        let time = Day::parse(&text).map(Day::start).or_else(|| {
            let timestamp: jiff::Timestamp = text.parse().ok()?;
            Some(UnixMs(timestamp.as_millisecond()))
        });
        let message = "expected RFC 3339 with an offset, such as 2030-01-15T10:30:00Z";
        let time = time.ok_or_else(|| ("not_a_timestamp", message.to_owned()))?;
        if matches!(self, Self::Future) && time <= clock::wall_now() {
            return Err(("in_the_past", "expected a time in the future".to_owned()));
        }
        Ok(time)
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl FieldType for Date {
    type Value = Day;

    fn read(&self, json: &RawValue) -> Result<Day, InvalidValue> {
        let day = Day::parse(&read_string(json)?);
        day.ok_or_else(|| ("not_a_date", "expected a date such as 2030-01-15".to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Date))).into()
    }
}

impl FieldType for Email {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let text = read_string(json)?;
        let email = text.trim();
        let (name, host) = email.split_once('@').unwrap_or_default();
        let is_invalid = |c: char| c.is_whitespace() || c.is_control() || c == '@';
        if name.is_empty() || host.is_empty() || 254 < email.len() || host.contains(is_invalid) {
            let message = "expected an email address such as name@example.com";
            return Err(("not_an_email", message.to_owned()));
        }
        Ok(email.to_owned())
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Email))).into()
    }
}

impl FieldType for NewPassword {
    type Value = Secret;

    fn read(&self, json: &RawValue) -> Result<Secret, InvalidValue> {
        PASSWORD_TEXT.read(json).map(Secret::new)
    }

    fn schema(&self) -> RefOr<Schema> {
        PASSWORD_TEXT.schema()
    }
}

impl FieldType for SecretText {
    type Value = Secret;

    fn read(&self, json: &RawValue) -> Result<Secret, InvalidValue> {
        SECRET_TEXT.read(json).map(Secret::new)
    }

    fn schema(&self) -> RefOr<Schema> {
        SECRET_TEXT.schema()
    }
}

impl<T: FieldType> FieldType for ListOf<T> {
    type Value = Vec<T::Value>;

    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue> {
        let items: Vec<&RawValue> = serde_json::from_str(json.get())
            .map_err(|_| ("not_a_list", "expected a list".to_owned()))?;
        if self.max < items.len() {
            return Err(("too_many", format!("expected at most {} items", self.max)));
        }
        items.into_iter().map(|item| self.item.read(item)).collect()
    }

    fn schema(&self) -> RefOr<Schema> {
        ArrayBuilder::new().items(self.item.schema()).max_items(Some(self.max)).into()
    }
}

impl FieldType for CidrText {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let text = read_string(json)?;
        let message = "expected an IP network such as 10.0.0.0/8";
        Cidr::parse(&text).map(|_| text).ok_or_else(|| ("not_a_cidr", message.to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).format(Some(SchemaFormat::Custom("cidr".into()))).into()
    }
}

impl FieldType for StringMap {
    type Value = BTreeMap<String, String>;

    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue> {
        let invalid = || {
            let message = format!(
                "expected an object of at most {MAP_ENTRIES_MAX} strings, with names of at most \
                 {MAP_NAME_CHARS_MAX} and values of at most {MAP_VALUE_CHARS_MAX} characters"
            );
            ("not_a_string_map", message)
        };
        let map: Self::Value = serde_json::from_str(json.get()).map_err(|_| invalid())?;
        let is_valid = map.len() <= MAP_ENTRIES_MAX
            && map.keys().all(|name| name.chars().count() <= MAP_NAME_CHARS_MAX)
            && map.values().all(|value| value.chars().count() <= MAP_VALUE_CHARS_MAX);
        if is_valid { Ok(map) } else { Err(invalid()) }
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::Object).additional_properties(Some(MAP_VALUE.schema())).into()
    }
}
