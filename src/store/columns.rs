//! Conversions between columns and domain values.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::domain::time::UnixMs;

/// The id of a project, key or organization that usage and limits are stored for.
pub type Subject = u128;

pub const fn uuid(id: u128) -> Uuid {
    Uuid::from_u128(id)
}

/// Reads an id.
pub fn id(row: &SqliteRow, column: &str) -> Result<u128, sqlx::Error> {
    Ok(row.try_get::<Uuid, _>(column)?.as_u128())
}

/// Reads an id from a nullable column.
pub fn id_or_null(row: &SqliteRow, column: &str) -> Result<Option<u128>, sqlx::Error> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(|id| id.as_u128()))
}

/// Reads an instant.
pub fn at(row: &SqliteRow, column: &str) -> Result<UnixMs, sqlx::Error> {
    Ok(UnixMs(row.try_get(column)?))
}

/// Reads an instant from a nullable column.
pub fn at_or_null(row: &SqliteRow, column: &str) -> Result<Option<UnixMs>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(UnixMs))
}

/// Reads a JSON array of strings from a nullable column.
pub fn texts(row: &SqliteRow, column: &str) -> Result<Option<Vec<String>>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(serde_json::from_str).transpose().map_err(|fault| sqlx::Error::Decode(Box::new(fault)))
}

/// Returns the JSON array of the strings.
pub fn json(texts: &[String]) -> String {
    serde_json::to_string(texts).unwrap_or_else(|_| "[]".to_owned())
}

/// Returns the JSON array of the strings, for a nullable column.
pub fn json_or_null(texts: Option<&Vec<String>>) -> Option<String> {
    texts.map(|texts| json(texts))
}

/// Returns a new id, a `UUIDv7` ordered by `now`.
pub fn new_id(now: UnixMs) -> u128 {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let ms = u64::try_from(now.0).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid().as_u128()
}
