//! Quotas of projects and organizations. The limits of a row are one JSON object by field name,
//! with money in nano-units.

use std::collections::BTreeMap;

use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::limit::{Limit, Limits};
use crate::domain::quota::Quota;
use crate::domain::time::{ResetDay, UnixMs};
use crate::store::columns::{self, Subject};
use crate::store::database::DatabaseError;

/// Parses a quota from its columns. Returns the default quota if they are NULL because there is no
/// row.
pub fn parse_quota(
    limits: Option<&str>,
    enforce: Option<bool>,
    reset_day: Option<i64>,
) -> Result<Quota, sqlx::Error> {
    let (Some(limits), Some(enforce), Some(reset_day)) = (limits, enforce, reset_day) else {
        return Ok(Quota::default());
    };
    let reset_day = u8::try_from(reset_day).ok().and_then(ResetDay::new);
    let reset_day = reset_day.ok_or_else(|| {
        sqlx::Error::Decode("quotas.custom_reset_day: must be from 1 to 28".into())
    })?;
    Ok(Quota { limits: parse_limits(limits)?, enforce, reset_day })
}

/// Parses limits from their JSON object.
pub fn parse_limits(json: &str) -> Result<Limits, sqlx::Error> {
    let values: BTreeMap<String, i64> =
        serde_json::from_str(json).map_err(|fault| sqlx::Error::Decode(Box::new(fault)))?;
    Ok(Limit::ALL.into_iter().fold(Limits::default(), |limits, limit| {
        limits.with(limit, values.get(limit.field()).copied())
    }))
}

/// Returns the JSON object of the limits that are set.
pub fn limits_json(limits: &Limits) -> String {
    let values: BTreeMap<&str, i64> =
        limits.configured().map(|(limit, value)| (limit.field(), value)).collect();
    serde_json::to_string(&values).unwrap_or_else(|_| "{}".to_owned())
}

/// A quota as stored.
#[derive(Debug, Clone, Copy)]
pub struct StoredQuota {
    pub quota: Quota,
    /// `None` if the quota was never set.
    pub created_at: Option<UnixMs>,
    /// `None` if the quota was never set.
    pub updated_at: Option<UnixMs>,
    /// How often the quota was set.
    pub version: i64,
}

/// Reads the quota of a project or organization; the default one if it was never set.
pub async fn read(
    executor: impl SqliteExecutor<'_>,
    subject: Subject,
) -> Result<StoredQuota, DatabaseError> {
    let row = sqlx::query("SELECT * FROM quotas WHERE subject_id = $1")
        .bind(columns::uuid(subject))
        .fetch_optional(executor)
        .await?;
    let Some(row) = row else {
        let quota = Quota::default();
        return Ok(StoredQuota { quota, created_at: None, updated_at: None, version: 0 });
    };
    Ok(StoredQuota {
        quota: parse_quota(
            row.try_get("limits")?,
            row.try_get("enforce_quota")?,
            row.try_get("custom_reset_day")?,
        )?,
        created_at: Some(columns::at(&row, "created_at")?),
        updated_at: Some(columns::at(&row, "updated_at")?),
        version: row.try_get("version")?,
    })
}

/// Sets the quota, in place of any earlier one.
pub async fn replace(
    connection: &mut SqliteConnection,
    subject: Subject,
    quota: &Quota,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO quotas (subject_id, limits, enforce_quota, custom_reset_day,
            created_at, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $5, 1)
         ON CONFLICT (subject_id) DO UPDATE SET limits = excluded.limits,
            enforce_quota = excluded.enforce_quota, custom_reset_day = excluded.custom_reset_day,
            updated_at = excluded.updated_at, version = quotas.version + 1",
    )
    .bind(columns::uuid(subject))
    .bind(limits_json(&quota.limits))
    .bind(quota.enforce)
    .bind(i64::from(quota.reset_day.get()))
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(())
}
