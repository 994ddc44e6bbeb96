//! The kinds of policy fields: what each accepts as its value, and the error about another value.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::call_facts::ParseError;
use crate::dialect::json;

/// The maximum number of choices in one request.
pub const CHOICES_MAX: u64 = 128;

/// One policy field of a body.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    pub name: &'static str,
    pub body: &'a [u8],
    pub is_form: bool,
    /// Position of the value in the body, `null` included.
    pub span: Option<Range<usize>>,
}

impl<'a> Field<'a> {
    /// Returns the value; `null` is none.
    fn value(&self) -> Option<&'a [u8]> {
        self.span.clone().map(|span| &self.body[span]).filter(|value| *value != b"null")
    }

    /// Returns the value unless it is an empty string, array or object.
    fn non_empty(&self) -> Option<&'a [u8]> {
        self.value().filter(|value| match value {
            [b'[', inside @ .., b']'] | [b'{', inside @ .., b'}'] => {
                !inside.trim_ascii().is_empty()
            }
            value => *value != b"\"\"",
        })
    }

    fn text(&self) -> Option<Cow<'a, str>> {
        let value = self.value()?;
        if self.is_form {
            std::str::from_utf8(value).ok().map(Cow::Borrowed)
        } else {
            json::string_of(value)
        }
    }

    fn required_text(&self, requirement: &str) -> Result<String, ParseError> {
        let text = self.text().filter(|text| !text.is_empty());
        text.map(Cow::into_owned).ok_or_else(|| self.error(requirement))
    }

    fn flag(&self) -> Result<bool, ParseError> {
        match self.value() {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(self.error("must be true or false")),
        }
    }

    fn count(&self) -> Result<Option<u64>, ParseError> {
        match self.value() {
            None => Ok(None),
            Some(value) => match json::count_of(value) {
                Some(count) if !value.contains(&b'.') => Ok(Some(count)),
                _ => Err(self.error("must be a whole number, 0 or more")),
            },
        }
    }

    fn error(&self, what: &str) -> ParseError {
        ParseError::for_field(self.name, what)
    }
}

/// A field that is read as JSON, whatever it contains.
#[derive(Debug)]
pub struct Json<'a>(pub Field<'a>);

impl<'a> Json<'a> {
    /// Returns the value; `null` is none.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.0.value()
    }

    /// Returns the value unless it is an empty string, array or object.
    pub fn non_empty(&self) -> Option<&'a [u8]> {
        self.0.non_empty()
    }

    /// Returns the position of the value in the body, `null` included.
    pub fn span(&self) -> Option<Range<usize>> {
        self.0.span.clone()
    }

    /// Returns an error about this field.
    pub fn error(&self, what: &str) -> ParseError {
        self.0.error(what)
    }
}

/// The name of the model that the call is for.
#[derive(Debug)]
pub struct ModelName<'a>(pub Field<'a>);

impl ModelName<'_> {
    pub fn name(&self) -> Result<String, ParseError> {
        self.0.required_text("must be the name of a model, a non-empty string")
    }

    /// Returns the name; none if the field is absent or null.
    pub fn optional_name(&self) -> Result<Option<String>, ParseError> {
        self.0.value().map(|_| self.name()).transpose()
    }

    /// Returns the position of the value in the body, `null` included.
    pub fn span(&self) -> Option<Range<usize>> {
        self.0.span.clone()
    }
}

/// A field that makes the upstream choose another model, which would have another price and might
/// not be allowed.
#[derive(Debug)]
pub struct ModelOverride<'a>(pub Field<'a>);

impl ModelOverride<'_> {
    pub fn reject(&self) -> Result<(), ParseError> {
        match self.0.non_empty() {
            None => Ok(()),
            Some(_) => Err(ParseError::model_override(self.0.name)),
        }
    }
}

#[derive(Debug)]
pub struct TextField<'a>(pub Field<'a>);

impl<'a> TextField<'a> {
    /// Returns the text; none if the field is absent, null or not a string.
    pub fn get(&self) -> Option<Cow<'a, str>> {
        self.0.text()
    }

    pub fn required(&self) -> Result<String, ParseError> {
        self.0.required_text("must be a non-empty string")
    }
}

#[derive(Debug)]
pub struct Flag<'a>(pub Field<'a>);

impl Flag<'_> {
    /// Returns the value; false if the field is absent.
    pub fn get(&self) -> Result<bool, ParseError> {
        self.0.flag()
    }
}

/// A field that makes the upstream work in the background, where the gateway cannot meter it.
#[derive(Debug)]
pub struct Background<'a>(pub Field<'a>);

impl Background<'_> {
    /// Returns the value; false if the field is absent.
    pub fn get(&self) -> Result<bool, ParseError> {
        self.0.flag()
    }

    pub fn reject(&self) -> Result<(), ParseError> {
        if self.0.flag()? {
            let what =
                "is not supported: a background response cannot be metered; remove the field";
            return Err(self.0.error(what));
        }
        Ok(())
    }
}

/// A whole number, 0 or more.
#[derive(Debug)]
pub struct Count<'a>(pub Field<'a>);

impl Count<'_> {
    pub fn get(&self) -> Result<Option<u64>, ParseError> {
        self.0.count()
    }
}

/// A limit of the output, in tokens.
#[derive(Debug)]
pub struct OutputBound<'a>(pub Field<'a>);

impl OutputBound<'_> {
    /// Returns the bound. Some providers treat 0 as no limit, so it is none.
    pub fn get(&self) -> Result<Option<u64>, ParseError> {
        Ok(self.0.count()?.filter(|bound| 0 < *bound))
    }

    /// Returns whether the field has a value, 0 included.
    pub fn is_set(&self) -> bool {
        self.0.value().is_some()
    }
}

/// A number of choices.
#[derive(Debug)]
pub struct Choices<'a>(pub Field<'a>);

impl Choices<'_> {
    pub fn get(&self) -> Result<Option<u64>, ParseError> {
        let choices = self.0.count()?;
        if choices.is_some_and(|choices| !(1..=CHOICES_MAX).contains(&choices)) {
            return Err(self.0.error("must be from 1 to 128"));
        }
        Ok(choices)
    }
}
