//! Domain values and rules: std only, without clock, I/O or async.

pub mod named_enum;
pub mod ids;
pub mod time;
pub mod money;
pub mod usage;
pub mod unit_counts;
pub mod price;
pub mod service_tier;
pub mod tariff;
pub mod call_pricing;
pub mod price_override;
pub mod limit;
pub mod quota;
pub mod counter;
pub mod wallet;
pub mod record;
pub mod roles;
pub mod status;
pub mod catalog;
pub mod access;
pub mod settlement;
pub mod idempotency;

#[cfg(test)]
mod tests;
