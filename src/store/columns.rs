//! Conversions between columns and domain values.

use serde::Serialize;
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

/// Reads a name and converts it with `parse`. `column` is qualified: `table.column`.
///
/// # Errors
/// If the name is unknown; the error states the table, the column and the value.
pub fn named<T>(
    row: &SqliteRow,
    column: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, sqlx::Error> {
    let name: &str = row.try_get(unqualified(column))?;
    parse(name).ok_or_else(|| unknown_name(column, name))
}

/// Reads a JSON array of names from a nullable column and converts each name, like [`named`].
pub fn named_list<T>(
    row: &SqliteRow,
    column: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<Vec<T>, sqlx::Error> {
    let names = texts(row, unqualified(column))?.unwrap_or_default();
    names.iter().map(|name| parse(name).ok_or_else(|| unknown_name(column, name))).collect()
}

fn unqualified(column: &str) -> &str {
    column.rsplit_once('.').map_or(column, |(_, name)| name)
}

fn unknown_name(column: &str, name: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{column}: unknown value {name:?}").into())
}

/// Returns the JSON array of the strings.
pub fn json(texts: &[impl Serialize]) -> String {
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

#[cfg(test)]
mod tests {
    use sqlx::SqlitePool;

    use super::*;
    use crate::domain::roles::{Permission, Role};

    #[tokio::test]
    async fn an_unknown_name_is_an_error_that_states_table_column_and_value() {
        let pool = SqlitePool::connect("sqlite::memory:").await.expect("a database");
        let row =
            sqlx::query("SELECT 'Admin' AS role, 'Boss' AS other, '[\"wallet.view\"]' AS some")
                .fetch_one(&pool)
                .await
                .expect("a row");
        assert_eq!(named(&row, "members.role", Role::parse).expect("a role"), Role::Admin);
        let error = named(&row, "members.other", Role::parse).expect_err("no role");
        assert!(error.to_string().contains("members.other: unknown value \"Boss\""), "{error}");
        let list = named_list(&row, "members.some", Permission::parse).expect("permissions");
        assert_eq!(list, [Permission::WalletView]);
        assert!(named_list(&row, "members.some", Role::parse).is_err());
    }
}
