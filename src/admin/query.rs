//! Reads query parameters and reports every invalid one, not only the first.

use serde_json::value::RawValue;

use crate::admin::api_error::ApiError;
use crate::admin::field_type::{FieldType, IntegerIn, InvalidValue, Text};
use crate::admin::response::{ListMeta, NextCursor};
use crate::domain::time::UnixMs;
use crate::organization::error::FieldError;
use crate::store::paging::{Page, Sort};

/// The parameters of a request and the errors found so far.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

/// The requested part of a list with cursors.
#[derive(Debug)]
pub struct CursorPage<T> {
    /// Page number and size. The number is ignored with a cursor.
    pub page: Page,
    /// Key of the last row of the previous page.
    pub after: Option<T>,
}

/// The number of rows of a list.
#[derive(Debug, Clone, Copy)]
pub struct Total {
    pub count: i64,
    /// Counting ends here; a larger `count` only means that there are more rows.
    pub counted_max: i64,
}

/// Largest offset that `page` may reach. Beyond, clients must use a cursor.
const OFFSET_MAX: i64 = 10_000;
const SIZE_MAX: i64 = 100;
const SIZE_DEFAULT: u32 = 20;

impl Query {
    pub const fn new(pairs: Vec<(String, String)>) -> Self {
        Self { pairs, errors: Vec::new() }
    }

    /// Returns a parameter, or `None` if it is absent or invalid.
    pub fn get<K: FieldType>(&mut self, name: &str, kind: &K) -> Option<K::Value> {
        let text = self.pairs.iter().find(|(param, _)| param == name)?.1.clone();
        let value = to_json::<K>(&text).and_then(|json| kind.read(&json));
        match value {
            Ok(value) => Some(value),
            Err((reason, message)) => {
                self.errors.push(FieldError::new(name, reason, format!("{name}: {message}")));
                None
            }
        }
    }

    /// Reads `page` and `size`.
    pub fn page(&mut self) -> Page {
        let page = self.get("page", &IntegerIn { min: 1, max: i64::from(u32::MAX) });
        let size = self.get("size", &IntegerIn { min: 1, max: SIZE_MAX });
        let narrow = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        Page { page: narrow(page).unwrap_or(1), size: narrow(size).unwrap_or(SIZE_DEFAULT) }
    }

    /// Reads `sort`. `fields` maps field names to columns.
    pub fn sort(&mut self, fields: &[(&'static str, &'static str)]) -> Sort {
        let Some(text) = self.get("sort", &Text { min: 1, max: 50 }) else { return Sort::NEWEST };
        let (field, descending) =
            text.strip_prefix('-').map_or((text.as_str(), false), |field| (field, true));
        if let Some((_, column)) = fields.iter().find(|(name, _)| *name == field) {
            return Sort { column, descending };
        }
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let message =
            format!("sort: expected one of {}, optionally prefixed with -", names.join(", "));
        self.errors.push(FieldError::new("sort", "unknown_field", message));
        Sort::NEWEST
    }

    /// Reads `page`, `size` and `cursor`.
    pub fn cursor_page<T>(&mut self, cursor: impl FnOnce(&str) -> Option<T>) -> CursorPage<T> {
        let page = self.page();
        let after = self.get("cursor", &Text { min: 1, max: 100 }).and_then(|text| {
            let after = cursor(&text);
            if after.is_none() {
                let message = "cursor: expected the nextCursor of a previous page of this list";
                self.errors.push(FieldError::new("cursor", "invalid_cursor", message));
            }
            after
        });
        if after.is_none() && OFFSET_MAX < page.offset() {
            let message = "page: use cursor for offsets above 10000";
            self.errors.push(FieldError::new("page", "use_cursor", message));
        }
        CursorPage { page, after }
    }

    /// Returns all recorded errors, if any.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(self.errors)) }
    }
}

impl<T> CursorPage<T> {
    /// Rows to skip; 0 with a cursor.
    pub fn offset(&self) -> i64 {
        if self.after.is_some() { 0 } else { self.page.offset() }
    }

    /// Rows to fetch: one more than the page size, to detect a next page.
    pub fn limit(&self) -> i64 {
        self.page.limit() + 1
    }

    /// Removes the extra row and returns the list's metadata.
    pub fn trim_rows<R>(
        &self,
        rows: &mut Vec<R>,
        total: Total,
        as_of: Option<UnixMs>,
        cursor: impl FnOnce(&R) -> String,
    ) -> ListMeta {
        let size = usize::try_from(self.page.size).unwrap_or(usize::MAX);
        let has_more = size < rows.len();
        rows.truncate(size);
        let next = rows.last().filter(|_| has_more).map(cursor);
        ListMeta {
            total: total.count.min(total.counted_max),
            page: self.page,
            next: Some(NextCursor(next)),
            total_is_minimum: total.counted_max < total.count,
            as_of,
        }
    }
}

/// Turns the text of a query parameter into the JSON that its type reads.
fn to_json<K: FieldType>(text: &str) -> Result<Box<RawValue>, InvalidValue> {
    let quoted = || serde_json::to_string(text).unwrap_or_default();
    let plain = (!K::QUOTED).then(|| RawValue::from_string(text.to_owned()).ok()).flatten();
    let json = plain.map_or_else(|| RawValue::from_string(quoted()), Ok);
    json.map_err(|_| ("malformed", "expected a printable value".to_owned()))
}
