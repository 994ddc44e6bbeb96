//! Kinds: what a field or a query parameter may be, how it is read, and how it is documented.

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

/// What is wrong with a value: a stable word, and what to do.
pub type InvalidValue = (&'static str, String);

/// What a value may be.
pub trait FieldType: Copy {
    /// What it is read as.
    type Value;

    /// Whether it is a JSON string, so that a query parameter is quoted to be read.
    const QUOTED: bool = true;

    /// Reads it from JSON.
    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue>;

    /// Reads it, and says what is wrong of which part of it.
    fn read_at(&self, json: &RawValue, param: &str) -> Result<Self::Value, Vec<FieldError>> {
        self.read(json).map_err(|(reason, message)| vec![FieldError::new(param, reason, message)])
    }

    /// As the OpenAPI document has it.
    fn schema(&self) -> RefOr<Schema>;
}

/// A text of so many characters.
#[derive(Debug, Clone, Copy)]
pub struct Text(pub usize, pub usize);

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub struct OneOf(pub &'static [&'static str]);

/// One of a few words that are a type of their own.
#[derive(Debug, Clone, Copy)]
pub struct EnumOf<T>(pub &'static [&'static str], pub fn(&str) -> Option<T>);

/// A text that reads as an id or the like.
#[derive(Debug, Clone, Copy)]
pub struct ParsedString<T>(pub &'static str, pub fn(&str) -> Option<T>);

/// True or false.
#[derive(Debug, Clone, Copy)]
pub struct Bool;

/// A whole number in a range.
#[derive(Debug, Clone, Copy)]
pub struct IntegerIn(pub i64, pub i64);

/// Money; above nothing, or from nothing on.
#[derive(Debug, Clone, Copy)]
pub enum MoneyAmount {
    /// More than nothing.
    Positive,
    /// Nothing or more.
    NonNegative,
}

/// An instant.
#[derive(Debug, Clone, Copy)]
pub enum Timestamp {
    /// One that is still to come.
    Future,
    /// Any.
    Any,
}

/// A date.
#[derive(Debug, Clone, Copy)]
pub struct Date;

/// An address of a person.
#[derive(Debug, Clone, Copy)]
pub struct Email;

/// A new password.
#[derive(Debug, Clone, Copy)]
pub struct NewPassword;

/// A password that is compared, whatever it is.
#[derive(Debug, Clone, Copy)]
pub struct SecretText;

/// Up to so many of a kind.
#[derive(Debug, Clone, Copy)]
pub struct ListOf<K>(pub usize, pub K);

/// A block of addresses.
#[derive(Debug, Clone, Copy)]
pub struct CidrText;

/// An object of texts, as its owner likes.
#[derive(Debug, Clone, Copy)]
pub struct StringMap;

/// Globs of models.
pub const MODEL_GLOBS: ListOf<Text> = ListOf(100, Text(1, 200));
/// What a thing is called.
pub const NAME: Text = Text(1, 200);
/// What it is for.
pub const DESCRIPTION: Text = Text(0, 2_000);

fn read_string(json: &RawValue) -> Result<String, InvalidValue> {
    serde_json::from_str(json.get()).map_err(|_| ("not_a_string", "give a string".to_owned()))
}

fn schema_of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

impl FieldType for Text {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let text = read_string(json)?;
        let length = text.chars().count();
        if length < self.0 || self.1 < length || text.contains('\0') {
            return Err(("wrong_length", format!("give {} to {} characters", self.0, self.1)));
        }
        Ok(text)
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).min_length(Some(self.0)).max_length(Some(self.1)).into()
    }
}

impl FieldType for OneOf {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let word = read_string(json)?;
        let known = self.0.contains(&word.as_str());
        if known {
            Ok(word)
        } else {
            Err(("unknown_word", format!("give one of {}", self.0.join(", "))))
        }
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).enum_values(Some(self.0.iter().copied())).into()
    }
}

impl<T: Copy> FieldType for EnumOf<T> {
    type Value = T;

    fn read(&self, json: &RawValue) -> Result<T, InvalidValue> {
        let word = OneOf(self.0).read(json)?;
        self.1(&word).ok_or_else(|| ("unknown_word", format!("{word} means nothing here")))
    }

    fn schema(&self) -> RefOr<Schema> {
        OneOf(self.0).schema()
    }
}

impl<T: Copy> FieldType for ParsedString<T> {
    type Value = T;

    fn read(&self, json: &RawValue) -> Result<T, InvalidValue> {
        self.1(&read_string(json)?).ok_or_else(|| ("malformed", format!("give {}", self.0)))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).description(Some(self.0)).into()
    }
}

impl FieldType for Bool {
    type Value = bool;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<bool, InvalidValue> {
        serde_json::from_str(json.get())
            .map_err(|_| ("not_a_boolean", "give true or false".to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::Boolean).into()
    }
}

impl FieldType for IntegerIn {
    type Value = i64;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<i64, InvalidValue> {
        let (least, most) = (self.0, self.1);
        let number: Option<i64> = json.get().parse().ok();
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| ("not_in_range", format!("give a whole number from {least} to {most}")))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::Integer).minimum(Some(self.0)).maximum(Some(self.1)).into()
    }
}

impl FieldType for MoneyAmount {
    type Value = Nano;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Nano, InvalidValue> {
        let text =
            if json.get().starts_with('"') { read_string(json)? } else { json.get().to_owned() };
        let amount = Nano::parse(&text).map_err(|fault| match fault {
            MalformedMoney::NotDecimal => {
                ("not_an_amount", "give a plain decimal number or string from 0 on".to_owned())
            }
            MalformedMoney::TooFine => ("too_fine", "give at most 9 decimals".to_owned()),
            MalformedMoney::TooLarge => ("too_large", "give at most 9000000000".to_owned()),
        })?;
        if matches!(self, Self::Positive) && amount == Nano::ZERO {
            return Err(("not_positive", "give more than 0".to_owned()));
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
        let instant = Day::parse(&text).map(Day::start).or_else(|| {
            let stamp: jiff::Timestamp = text.parse().ok()?;
            Some(UnixMs(stamp.as_millisecond()))
        });
        let advice = "give RFC 3339 with an offset, such as 2030-01-15T10:30:00Z";
        let instant = instant.ok_or_else(|| ("not_an_instant", advice.to_owned()))?;
        if matches!(self, Self::Future) && instant <= clock::wall_now() {
            return Err(("in_the_past", "give an instant that is still to come".to_owned()));
        }
        Ok(instant)
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
        day.ok_or_else(|| ("not_a_date", "give a date such as 2030-01-15".to_owned()))
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
        let odd = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '@';
        if name.is_empty() || host.is_empty() || 254 < email.len() || host.contains(odd) {
            return Err(("not_an_email", "give an address such as name@example.com".to_owned()));
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
        let (least, most) = (*passwords::LENGTH_RANGE.start(), *passwords::LENGTH_RANGE.end());
        Text(least, most).read(json).map(Secret::new)
    }

    fn schema(&self) -> RefOr<Schema> {
        Text(*passwords::LENGTH_RANGE.start(), *passwords::LENGTH_RANGE.end()).schema()
    }
}

impl FieldType for SecretText {
    type Value = Secret;

    fn read(&self, json: &RawValue) -> Result<Secret, InvalidValue> {
        Text(1, 1_000).read(json).map(Secret::new)
    }

    fn schema(&self) -> RefOr<Schema> {
        Text(1, 1_000).schema()
    }
}

impl<K: FieldType> FieldType for ListOf<K> {
    type Value = Vec<K::Value>;

    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue> {
        let items: Vec<&RawValue> = serde_json::from_str(json.get())
            .map_err(|_| ("not_a_list", "give a list".to_owned()))?;
        if self.0 < items.len() {
            return Err(("too_many", format!("give at most {}", self.0)));
        }
        items.into_iter().map(|item| self.1.read(item)).collect()
    }

    fn schema(&self) -> RefOr<Schema> {
        ArrayBuilder::new().items(self.1.schema()).max_items(Some(self.0)).into()
    }
}

impl FieldType for CidrText {
    type Value = String;

    fn read(&self, json: &RawValue) -> Result<String, InvalidValue> {
        let text = read_string(json)?;
        let advice = "give blocks of addresses such as 10.0.0.0/8";
        Cidr::parse(&text).map(|_| text).ok_or_else(|| ("not_a_block", advice.to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::String).format(Some(SchemaFormat::Custom("cidr".into()))).into()
    }
}

impl FieldType for StringMap {
    type Value = BTreeMap<String, String>;

    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue> {
        let wrong = || {
            let advice = "give an object of up to 50 texts: names to 64, texts to 500 characters";
            ("not_notes", advice.to_owned())
        };
        let notes: Self::Value = serde_json::from_str(json.get()).map_err(|_| wrong())?;
        let fits = |(name, text): (&String, &String)| {
            name.chars().count() <= 64 && text.chars().count() <= 500
        };
        if notes.len() <= 50 && notes.iter().all(fits) { Ok(notes) } else { Err(wrong()) }
    }

    fn schema(&self) -> RefOr<Schema> {
        schema_of(Type::Object).additional_properties(Some(Text(0, 500).schema())).into()
    }
}
