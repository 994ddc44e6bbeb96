//! Query parameters: read like fields, with every fault found.

use serde_json::value::RawValue;

use crate::admin::answer::{Cursor, Listed};
use crate::admin::failure::Failure;
use crate::admin::kind::{Kind, Text, Whole, Wrong};
use crate::domain::time::UnixMs;
use crate::organization::denied::Fault;
use crate::store::paging::{Page, Sort};

/// The parameters of a request, and what was wrong with them.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

/// Which stretch of an endless list is asked for.
#[derive(Debug)]
pub struct Endless<T> {
    /// The page, also where a cursor is given.
    pub page: Page,
    /// After which row.
    pub after: Option<T>,
}

/// Rows that a page may begin after; further down a cursor must be used.
const PAGED_MAX: i64 = 10_000;
const SIZE_MAX: i64 = 100;
const SIZE: u32 = 20;

impl Query {
    /// Takes over what was parsed.
    pub const fn new(pairs: Vec<(String, String)>) -> Self {
        Self { pairs, faults: Vec::new() }
    }

    /// A parameter, if it is given.
    pub fn get<K: Kind>(&mut self, name: &str, kind: &K) -> Option<K::Value> {
        let text = self.pairs.iter().find(|(known, _)| known == name)?.1.clone();
        let read = raw::<K>(&text).and_then(|json| kind.read(&json));
        match read {
            Ok(value) => Some(value),
            Err((reason, message)) => {
                self.faults.push(Fault::new(name, reason, format!("{name}: {message}")));
                None
            }
        }
    }

    /// The page of a list.
    pub fn page(&mut self) -> Page {
        let page = self.get("page", &Whole(1, i64::from(u32::MAX)));
        let size = self.get("size", &Whole(1, SIZE_MAX));
        let narrow = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        Page { page: narrow(page).unwrap_or(1), size: narrow(size).unwrap_or(SIZE) }
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
        self.faults.push(Fault::new("sort", "unknown_field", message));
        Sort::NEWEST
    }

    /// The stretch of an endless list.
    pub fn endless<T>(&mut self, cursor: impl FnOnce(&str) -> Option<T>) -> Endless<T> {
        let page = self.page();
        let after = self.get("cursor", &Text(1, 100)).and_then(|text| {
            let after = cursor(&text);
            if after.is_none() {
                let message = "cursor: give a nextCursor of this list";
                self.faults.push(Fault::new("cursor", "invalid_cursor", message));
            }
            after
        });
        if after.is_none() && PAGED_MAX < page.offset() {
            let message = "page: use cursor this far down the list";
            self.faults.push(Fault::new("page", "use_cursor", message));
        }
        Endless { page, after }
    }

    /// All is read: whether it made sense.
    pub fn finish(self) -> Result<(), Failure> {
        if self.faults.is_empty() { Ok(()) } else { Err(Failure::invalid(self.faults)) }
    }
}

impl<T> Endless<T> {
    /// How many rows to skip: none after a cursor.
    pub fn offset(&self) -> i64 {
        if self.after.is_some() { 0 } else { self.page.offset() }
    }

    /// How many rows to read: one more than are shown, to see whether there are more.
    pub fn limit(&self) -> i64 {
        self.page.limit() + 1
    }

    /// Cuts off the row too many, and says how the list goes on.
    pub fn cut<R>(
        &self,
        rows: &mut Vec<R>,
        (total, most): (i64, i64),
        as_of: Option<UnixMs>,
        cursor: impl FnOnce(&R) -> String,
    ) -> Listed {
        let size = usize::try_from(self.page.size).unwrap_or(usize::MAX);
        let more = size < rows.len();
        rows.truncate(size);
        let next = rows.last().filter(|_| more).map(cursor);
        Listed {
            total: total.min(most),
            page: self.page,
            next: Some(Cursor(next)),
            total_is_minimum: most < total,
            as_of,
        }
    }
}

/// A text of the address line as the JSON that its kind reads.
fn raw<K: Kind>(text: &str) -> Result<Box<RawValue>, Wrong> {
    let quoted = || serde_json::to_string(text).unwrap_or_default();
    let plain = (!K::QUOTED).then(|| RawValue::from_string(text.to_owned()).ok()).flatten();
    let json = plain.map_or_else(|| RawValue::from_string(quoted()), Ok);
    json.map_err(|_| ("malformed", "cannot be read".to_owned()))
}
