//! The prices behind each version that a record names: kept for good once they are in force.

use serde_json::{Map, Value, json};
use sqlx::SqliteConnection;

use crate::domain::tariff::Tariff;
use crate::domain::time::UnixMs;
use crate::domain::usage::Unit;
use crate::store::database::{Database, DatabaseError};

/// Keeps the prices of those tariffs, each under its version. What is known already stays.
pub async fn keep(
    connection: &mut SqliteConnection,
    tariffs: impl Iterator<Item = &Tariff>,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    for tariff in tariffs {
        sqlx::query(
            "INSERT INTO price_lists (version, prices, created_at) VALUES ($1, $2, $3)
             ON CONFLICT (version) DO NOTHING",
        )
        .bind(&**tariff.version())
        .bind(rows(tariff).to_string())
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The prices of a version: a list of `{serviceTier, aboveInputTokens, prices}`, each price an
/// exact decimal text, per million units or per one where it is counted one by one.
pub async fn find(database: &Database, version: &str) -> Result<Option<Value>, DatabaseError> {
    let text: Option<String> =
        sqlx::query_scalar("SELECT prices FROM price_lists WHERE version = $1")
            .bind(version)
            .fetch_optional(database.reader())
            .await?;
    let read = |text: String| serde_json::from_str(&text);
    Ok(text.map(read).transpose().map_err(|fault| sqlx::Error::Decode(fault.into()))?)
}

/// Its rows as they are kept, and told: see [`find`].
pub fn rows(tariff: &Tariff) -> Value {
    let row = |row: &crate::domain::tariff::Row| {
        let price = |unit: Unit| {
            let price = row.prices.given(unit)?;
            Some((unit.name().to_owned(), Value::from(price.to_string())))
        };
        let prices: Map<String, Value> = Unit::ALL.into_iter().filter_map(price).collect();
        let tier = if row.tier.is_default() { "default" } else { row.tier.name() };
        json!({
            "serviceTier": tier,
            "aboveInputTokens": row.above_input_tokens,
            "prices": prices,
        })
    };
    tariff.rows().iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price::Prices;

    #[tokio::test]
    async fn the_prices_of_a_version_are_kept_as_they_were_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("db")).await.expect("a database");
        let tariff = |nano, version: &str| {
            let prices = Prices::default().with(Unit::InputTokens, nano).expect("in range");
            Tariff::flat(prices, version.into())
        };
        let list = [tariff(150_000_000, "v"), tariff(1, "w"), tariff(7, "v")];
        let mut tx = database.begin().await.expect("a transaction");
        keep(&mut tx, list.iter(), UnixMs(1)).await.expect("kept");
        tx.commit().await.expect("committed");
        let found = find(&database, "v").await.expect("read").expect("known");
        let prices = json!({"inputTokens": "0.15"});
        let row = json!({"serviceTier": "default", "aboveInputTokens": 0, "prices": prices});
        assert_eq!(found, json!([row]));
        assert_eq!(find(&database, "x").await.expect("read"), None);
        let mut tx = database.begin().await.expect("a transaction");
        let deleted = sqlx::query("DELETE FROM price_lists").execute(&mut *tx).await;
        assert!(deleted.is_err(), "records refer to it");
    }
}
