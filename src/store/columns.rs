//! How values of the domain stand in columns.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::domain::time::UnixMs;

/// What usage and limits are kept of, by its id: a project, a key or an organization.
pub type Subject = u128;

/// An id as a column.
pub const fn uuid(id: u128) -> Uuid {
    Uuid::from_u128(id)
}

/// The id in a column.
pub fn id(row: &SqliteRow, column: &str) -> Result<u128, sqlx::Error> {
    Ok(row.try_get::<Uuid, _>(column)?.as_u128())
}

/// The id in a column that may be NULL.
pub fn id_or_null(row: &SqliteRow, column: &str) -> Result<Option<u128>, sqlx::Error> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(|id| id.as_u128()))
}

/// The instant in a column.
pub fn at(row: &SqliteRow, column: &str) -> Result<UnixMs, sqlx::Error> {
    Ok(UnixMs(row.try_get(column)?))
}

/// The instant in a column that may be NULL.
pub fn at_or_null(row: &SqliteRow, column: &str) -> Result<Option<UnixMs>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(UnixMs))
}

/// The JSON array of texts in a column, `None` where it is NULL.
pub fn texts(row: &SqliteRow, column: &str) -> Result<Option<Vec<String>>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(serde_json::from_str).transpose().map_err(|fault| sqlx::Error::Decode(Box::new(fault)))
}

/// Texts as the JSON array of a column.
pub fn json(texts: &[String]) -> String {
    serde_json::to_string(texts).unwrap_or_else(|_| "[]".to_owned())
}

/// Texts as the JSON array of a column that may be NULL.
pub fn json_or_null(texts: Option<&Vec<String>>) -> Option<String> {
    texts.map(|texts| json(texts))
}

/// A new time-ordered id (`UUIDv7`) of that instant.
pub fn new_id(now: UnixMs) -> u128 {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let ms = u64::try_from(now.0).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid().as_u128()
}
