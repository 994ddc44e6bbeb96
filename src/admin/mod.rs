//! The admin API. One file per resource: JSON views first, then handlers.

pub mod scalar;
pub mod api_error;
pub mod response;
pub mod field_type;
pub mod body;
pub mod query;
pub mod state;
pub mod request;
pub mod idempotency;
pub mod operation;
pub mod account;
pub mod tokens;
pub mod organizations;
pub mod catalog;
pub mod price_units;
pub mod prices;
pub mod upstreams;
pub mod limits;
pub mod usage;
pub mod projects;
pub mod quotas;
pub mod keys;
pub mod records;
pub mod wallet;
pub mod export;
pub mod request_logs;
pub mod openapi;
pub mod router;

#[cfg(test)]
mod tests;
