//! Query parameters: read like fields, with every fault found.

use serde_json::value::RawValue;

use crate::admin::api_error::ApiError;
use crate::admin::field_type::{FieldType, IntegerIn, InvalidValue, Text};
use crate::admin::response::{ListMeta, NextCursor};
use crate::domain::time::UnixMs;
use crate::organization::error::FieldError;
use crate::store::paging::{Page, Sort};

/// The parameters of a request, and what was wrong with them.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

/// Which stretch of an endless list is asked for.
#[derive(Debug)]
pub struct CursorPage<T> {
    /// The page, also where a cursor is given.
    pub page: Page,
    /// After which row.
    pub after: Option<T>,
}

/// Rows that a page may begin after; further down a cursor must be used.
const OFFSET_MAX: i64 = 10_000;
const SIZE_MAX: i64 = 100;
const SIZE_DEFAULT: u32 = 20;

impl Query {
    /// Takes over what was parsed.
    pub const fn new(pairs: Vec<(String, String)>) -> Self {
        Self { pairs, errors: Vec::new() }
    }

    /// A parameter, if it is given.
    pub fn get<K: FieldType>(&mut self, name: &str, kind: &K) -> Option<K::Value> {
        let text = self.pairs.iter().find(|(known, _)| known == name)?.1.clone();
        let read = to_json::<K>(&text).and_then(|json| kind.read(&json));
        match read {
            Ok(value) => Some(value),
            Err((reason, message)) => {
                self.errors.push(FieldError::new(name, reason, format!("{name}: {message}")));
                None
            }
        }
    }

    /// The page of a list.
    pub fn page(&mut self) -> Page {
        let page = self.get("page", &IntegerIn(1, i64::from(u32::MAX)));
        let size = self.get("size", &IntegerIn(1, SIZE_MAX));
        let narrow = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        Page { page: narrow(page).unwrap_or(1), size: narrow(size).unwrap_or(SIZE_DEFAULT) }
    }

    /// The order of a list, by one of these fields.
    pub fn sort(&mut self, fields: &[(&'static str, &'static str)]) -> Sort {
        let Some(asked) = self.get("sort", &Text(1, 50)) else { return Sort::NEWEST };
        let (field, descending) =
            asked.strip_prefix('-').map_or((asked.as_str(), false), |field| (field, true));
        if let Some((_, column)) = fields.iter().find(|(known, _)| *known == field) {
            return Sort { column, descending };
        }
        let known: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
        let message = format!("sort: give one of {}, or one with - before it", known.join(", "));
        self.errors.push(FieldError::new("sort", "unknown_field", message));
        Sort::NEWEST
    }

    /// The stretch of an endless list.
    pub fn cursor_page<T>(&mut self, cursor: impl FnOnce(&str) -> Option<T>) -> CursorPage<T> {
        let page = self.page();
        let after = self.get("cursor", &Text(1, 100)).and_then(|text| {
            let after = cursor(&text);
            if after.is_none() {
                let message = "cursor: give a nextCursor of this list";
                self.errors.push(FieldError::new("cursor", "invalid_cursor", message));
            }
            after
        });
        if after.is_none() && OFFSET_MAX < page.offset() {
            let message = "page: use cursor this far down the list";
            self.errors.push(FieldError::new("page", "use_cursor", message));
        }
        CursorPage { page, after }
    }

    /// All is read: whether it made sense.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(self.errors)) }
    }
}

impl<T> CursorPage<T> {
    /// How many rows to skip: none after a cursor.
    pub fn offset(&self) -> i64 {
        if self.after.is_some() { 0 } else { self.page.offset() }
    }

    /// How many rows to read: one more than are shown, to see whether there are more.
    pub fn limit(&self) -> i64 {
        self.page.limit() + 1
    }

    /// Cuts off the row too many, and says how the list goes on.
    pub fn trim_rows<R>(
        &self,
        rows: &mut Vec<R>,
        (total, most): (i64, i64),
        as_of: Option<UnixMs>,
        cursor: impl FnOnce(&R) -> String,
    ) -> ListMeta {
        let size = usize::try_from(self.page.size).unwrap_or(usize::MAX);
        let more = size < rows.len();
        rows.truncate(size);
        let next = rows.last().filter(|_| more).map(cursor);
        ListMeta {
            total: total.min(most),
            page: self.page,
            next: Some(NextCursor(next)),
            total_is_minimum: most < total,
            as_of,
        }
    }
}

/// A text of the address line as the JSON that its kind reads.
fn to_json<K: FieldType>(text: &str) -> Result<Box<RawValue>, InvalidValue> {
    let quoted = || serde_json::to_string(text).unwrap_or_default();
    let plain = (!K::QUOTED).then(|| RawValue::from_string(text.to_owned()).ok()).flatten();
    let json = plain.map_or_else(|| RawValue::from_string(quoted()), Ok);
    json.map_err(|_| ("malformed", "cannot be read".to_owned()))
}
