//! A quota as a row: its limits are one JSON object by field name, money in nano-units.

use std::collections::BTreeMap;

use crate::domain::limit::{Limit, Limits};
use crate::domain::quota::Quota;
use crate::domain::time::ResetDay;

/// The quota of three columns; the default one where there is no row.
pub fn quota_of(
    limits: Option<&str>,
    enforce: Option<bool>,
    reset_day: Option<i64>,
) -> Result<Quota, sqlx::Error> {
    let (Some(limits), Some(enforce), Some(reset_day)) = (limits, enforce, reset_day) else {
        return Ok(Quota::default());
    };
    let reset_day = u8::try_from(reset_day).ok().and_then(ResetDay::new);
    let reset_day =
        reset_day.ok_or_else(|| sqlx::Error::Decode("custom_reset_day is not in 1..=28".into()))?;
    Ok(Quota { limits: limits_of(limits)?, enforce, reset_day })
}

/// Limits from their JSON object.
pub fn limits_of(json: &str) -> Result<Limits, sqlx::Error> {
    let values: BTreeMap<String, i64> =
        serde_json::from_str(json).map_err(|fault| sqlx::Error::Decode(Box::new(fault)))?;
    Ok(Limit::ALL.into_iter().fold(Limits::default(), |limits, limit| {
        limits.with(limit, values.get(limit.field()).copied())
    }))
}

/// The JSON object of those limits that are set.
pub fn json_of(limits: &Limits) -> String {
    let values: BTreeMap<&str, i64> =
        limits.set().map(|(limit, value)| (limit.field(), value)).collect();
    serde_json::to_string(&values).unwrap_or_else(|_| "{}".to_owned())
}
