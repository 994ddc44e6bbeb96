//! The price rows of each price version. A version that was in force is never deleted, as wallet
//! records refer to it.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;

use crate::domain::money::Nano;
use crate::domain::price::PriceTable;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::{PriceRow, Tariff};
use crate::domain::time::UnixMs;
use crate::domain::usage::Unit;
use crate::store::database::{Database, DatabaseError};

/// Stores the price rows of each tariff under its version. Versions that exist are not changed.
pub async fn insert_missing(
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
        .bind(rows_json(tariff).to_string())
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Returns the price rows of a version: a list of `{serviceTier, aboveInputTokens, prices}`. Each
/// price is an exact decimal string, per million tokens or characters, and per one of any other
/// unit.
pub async fn find(database: &Database, version: &str) -> Result<Option<Value>, DatabaseError> {
    let text: Option<String> =
        sqlx::query_scalar("SELECT prices FROM price_lists WHERE version = $1")
            .bind(version)
            .fetch_optional(database.reader())
            .await?;
    let read = |text: String| serde_json::from_str(&text);
    Ok(text.map(read).transpose().map_err(|fault| sqlx::Error::Decode(fault.into()))?)
}

/// Returns the rows of a tariff in the form described at [`find`].
pub fn rows_json(tariff: &Tariff) -> Value {
    let row = |row: &PriceRow| {
        json!({
            "serviceTier": tier_name(row.tier),
            "aboveInputTokens": row.above_input_tokens,
            "prices": prices_json(&row.prices),
        })
    };
    tariff.rows().iter().map(row).collect()
}

/// Returns the name of a service tier in the API and in SQL.
pub fn tier_name(tier: ServiceTier) -> String {
    if tier.is_default() { "default".to_owned() } else { tier.name().to_owned() }
}

/// Returns the prices by unit, each an exact decimal string.
pub fn prices_json(prices: &PriceTable) -> Map<String, Value> {
    let price =
        |unit: Unit| Some((unit.name().to_owned(), prices.price_of(unit)?.to_string().into()));
    Unit::ALL.into_iter().filter_map(price).collect()
}

/// Parses the output of [`prices_json`]; returns `None` for anything else.
pub fn parse_prices(json: &Map<String, Value>) -> Option<PriceTable> {
    json.iter().try_fold(PriceTable::default(), |prices, (name, price)| {
        let unit = Unit::ALL.into_iter().find(|unit| unit.name() == name)?;
        prices.with(unit, Nano::parse(price.as_str()?).ok()?.0)
    })
}

/// Returns the version of price rows from `source`: equal for equal rows, and different otherwise.
pub fn version(source: &str, rows: &[PriceRow]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for PriceRow { tier, above_input_tokens, prices } in rows {
        if !tier.is_default() || 0 < *above_input_tokens {
            let _ = writeln!(text, "[{} {above_input_tokens}]", tier.name());
        }
        for unit in Unit::ALL {
            if let Some(price) = prices.price_of(unit) {
                let _ = writeln!(text, "{}={}", unit.name(), price.0);
            }
        }
    }
    let hash = Sha256::digest(text.as_bytes());
    hash[..4].iter().fold(format!("{source}-"), |mut version, byte| {
        let _ = write!(version, "{byte:02x}");
        version
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_prices_of_a_version_never_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("db")).await.expect("a database");
        let tariff = |nano, version: &str| {
            let prices = PriceTable::default().with(Unit::InputTokens, nano).expect("in range");
            Tariff::flat(prices, version.into())
        };
        let list = [tariff(150_000_000, "v"), tariff(1, "w"), tariff(7, "v")];
        let mut tx = database.begin().await.expect("a transaction");
        insert_missing(&mut tx, list.iter(), UnixMs(1)).await.expect("inserted");
        tx.commit().await.expect("committed");
        let found = find(&database, "v").await.expect("read").expect("found");
        let prices = json!({"inputTokens": "0.15"});
        let row = json!({"serviceTier": "default", "aboveInputTokens": 0, "prices": prices});
        assert_eq!(found, json!([row]));
        assert_eq!(find(&database, "x").await.expect("read"), None);
        let mut tx = database.begin().await.expect("a transaction");
        let deleted = sqlx::query("DELETE FROM price_lists").execute(&mut *tx).await;
        assert!(deleted.is_err(), "records refer to it");
    }

    #[test]
    fn equal_prices_have_equal_versions() {
        let with = |nano| PriceTable::default().with(Unit::InputTokens, nano).expect("in range");
        let row = |above_input_tokens, prices| PriceRow {
            tier: ServiceTier::DEFAULT,
            above_input_tokens,
            prices,
        };
        let of = |prices| version("file", &[row(0, prices)]);
        assert_eq!(of(with(150_000_000)), of(with(150_000_000)));
        assert_ne!(of(with(150_000_000)), of(with(150_000_001)));
        let other = PriceTable::default().with(Unit::OutputTokens, 150_000_000).expect("in range");
        assert_ne!(of(with(150_000_000)), of(other));
        let stepped = |above| version("file", &[row(0, with(1)), row(above, with(2))]);
        assert_ne!(stepped(10), stepped(11));
        let flex = PriceRow { tier: ServiceTier::new("flex").expect("short"), ..row(0, with(1)) };
        assert_ne!(version("file", &[row(0, with(1)), flex]), of(with(1)));
        // Wallet records refer to the version: it must never change for the same prices.
        assert_eq!(of(with(150_000_000)), "file-4c8adfbe");
    }
}
