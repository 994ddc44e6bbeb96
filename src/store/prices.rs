//! Prices set through the admin API. They override the configured prices until they end.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqliteExecutor};

use crate::domain::ids::{PriceId, UserId};
use crate::domain::price_override::PriceOverride;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::PriceRow;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, at_or_null, id, uuid};
use crate::store::database::{Database, DatabaseError};
use crate::store::price_lists;

/// A price as stored.
#[derive(Debug, Clone)]
pub struct StoredPrice {
    pub id: PriceId,
    pub price_override: PriceOverride,
    /// The price version of its rows.
    pub version: String,
    pub created_by: UserId,
    pub created_at: UnixMs,
}

/// Selects the prices for the model, upstream and service tier that are bound as `$1` to `$3`.
const SAME_MODEL_UPSTREAM_TIER: &str = "model = $1 AND upstream IS $2 AND service_tier = $3";

/// Adds a price. The price before it ends when it begins, and it ends when the next one begins.
/// Returns that end.
pub async fn insert(
    connection: &mut SqliteConnection,
    price: &StoredPrice,
) -> Result<Option<UnixMs>, DatabaseError> {
    let StoredPrice { price_override, .. } = price;
    let close = format!(
        "UPDATE prices SET effective_to = $4
         WHERE {SAME_MODEL_UPSTREAM_TIER} AND effective_from <= $4
            AND (effective_to IS NULL OR $4 < effective_to)"
    );
    let next = format!(
        "SELECT min(effective_from) FROM prices
         WHERE {SAME_MODEL_UPSTREAM_TIER} AND $4 < effective_from
            AND (effective_to IS NULL OR effective_from < effective_to)"
    );
    let (upstream, tier) =
        (price_override.upstream.as_deref(), price_lists::tier_name(price_override.tier));
    sqlx::query(sqlx::AssertSqlSafe(close))
        .bind(&*price_override.model)
        .bind(upstream)
        .bind(&tier)
        .bind(price_override.from.0)
        .execute(&mut *connection)
        .await?;
    let until: Option<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(next))
        .bind(&*price_override.model)
        .bind(upstream)
        .bind(&tier)
        .bind(price_override.from.0)
        .fetch_one(&mut *connection)
        .await?;
    let (prices, tiers) = columns_json(price_override);
    sqlx::query(
        "INSERT INTO prices (id, model, upstream, service_tier, prices, tiers, effective_from,
            effective_to, price_version, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(uuid(price.id.0))
    .bind(&*price_override.model)
    .bind(upstream)
    .bind(&tier)
    .bind(prices.to_string())
    .bind(tiers.to_string())
    .bind(price_override.from.0)
    .bind(until)
    .bind(&price.version)
    .bind(uuid(price.created_by.0))
    .bind(price.created_at.0)
    .execute(connection)
    .await?;
    Ok(until.map(UnixMs))
}

/// Ends a price now. A price that has not begun is deleted, and the price that it would have ended
/// stays in force.
pub async fn end(
    connection: &mut SqliteConnection,
    price: &StoredPrice,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    let StoredPrice { price_override, .. } = price;
    if price_override.from <= now {
        sqlx::query("UPDATE prices SET effective_to = $2 WHERE id = $1")
            .bind(uuid(price.id.0))
            .bind(now.0)
            .execute(connection)
            .await?;
        return Ok(());
    }
    sqlx::query("DELETE FROM prices WHERE id = $1")
        .bind(uuid(price.id.0))
        .execute(&mut *connection)
        .await?;
    let reopen = format!(
        "UPDATE prices SET effective_to = $5 WHERE {SAME_MODEL_UPSTREAM_TIER} AND effective_to = $4
         AND effective_from < effective_to"
    );
    sqlx::query(sqlx::AssertSqlSafe(reopen))
        .bind(&*price_override.model)
        .bind(price_override.upstream.as_deref())
        .bind(price_lists::tier_name(price_override.tier))
        .bind(price_override.from.0)
        .bind(price_override.until.map(|until| until.0))
        .execute(connection)
        .await?;
    Ok(())
}

pub async fn by_id(
    connection: &mut SqliteConnection,
    price_id: PriceId,
) -> Result<Option<StoredPrice>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM prices WHERE id = $1")
        .bind(uuid(price_id.0))
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(price).transpose()?)
}

/// Returns all prices including ended ones, newest first, optionally of one model only.
pub async fn list(
    database: &Database,
    model: Option<&str>,
) -> Result<Vec<StoredPrice>, DatabaseError> {
    let rows = sqlx::query(
        "SELECT * FROM prices WHERE $1 IS NULL OR model = $1 ORDER BY created_at DESC, id DESC",
    )
    .bind(model)
    .fetch_all(database.reader())
    .await?;
    Ok(rows.iter().map(price).collect::<Result<_, _>>()?)
}

/// Returns the prices that have not ended.
pub async fn active_overrides(
    executor: impl SqliteExecutor<'_>,
    now: UnixMs,
) -> Result<Vec<PriceOverride>, DatabaseError> {
    let rows = sqlx::query("SELECT * FROM prices WHERE effective_to IS NULL OR $1 < effective_to")
        .bind(now.0)
        .fetch_all(executor)
        .await?;
    let price_override = |row: &SqliteRow| Ok::<_, sqlx::Error>(price(row)?.price_override);
    Ok(rows.iter().map(price_override).collect::<Result<_, _>>()?)
}

/// Returns the values of the columns `prices` (for any input size) and `tiers` (for larger inputs).
pub fn columns_json(price_override: &PriceOverride) -> (Value, Value) {
    let first = price_override.rows.first().map(|row| price_lists::prices_json(&row.prices));
    let tier = |row: &PriceRow| {
        let prices = price_lists::prices_json(&row.prices);
        json!({"aboveInputTokens": row.above_input_tokens, "prices": prices})
    };
    (first.unwrap_or_default().into(), price_override.rows.iter().skip(1).map(tier).collect())
}

fn price(row: &SqliteRow) -> Result<StoredPrice, sqlx::Error> {
    let tier =
        ServiceTier::new(row.try_get("service_tier")?).ok_or_else(|| unreadable("service_tier"))?;
    let tier = if tier.is_default() { ServiceTier::DEFAULT } else { tier };
    let read = |prices: &Map<String, Value>| {
        price_lists::parse_prices(prices).ok_or_else(|| unreadable("prices"))
    };
    let of_text = |fault: serde_json::Error| sqlx::Error::Decode(fault.into());
    let first: Map<String, Value> =
        serde_json::from_str(row.try_get("prices")?).map_err(of_text)?;
    let more: Vec<Map<String, Value>> =
        serde_json::from_str(row.try_get("tiers")?).map_err(of_text)?;
    let mut rows = vec![PriceRow { tier, above_input_tokens: 0, prices: read(&first)? }];
    for part in &more {
        let above = part.get("aboveInputTokens").and_then(Value::as_u64);
        let prices = part.get("prices").and_then(Value::as_object);
        let (Some(above_input_tokens), Some(prices)) = (above, prices) else {
            return Err(unreadable("tiers"));
        };
        rows.push(PriceRow { tier, above_input_tokens, prices: read(prices)? });
    }
    let price_override = PriceOverride {
        model: row.try_get::<&str, _>("model")?.into(),
        upstream: row.try_get::<Option<&str>, _>("upstream")?.map(Arc::from),
        tier,
        rows,
        from: at(row, "effective_from")?,
        until: at_or_null(row, "effective_to")?,
    };
    Ok(StoredPrice {
        id: PriceId(id(row, "id")?),
        price_override,
        version: row.try_get("price_version")?,
        created_by: UserId(id(row, "created_by")?),
        created_at: at(row, "created_at")?,
    })
}

fn unreadable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("prices.{column}: invalid value").into())
}
