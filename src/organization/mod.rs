//! The use cases of the admin API. Each use case checks its own access rule, and only there.

pub mod rights;
pub mod error;
pub mod secrets;
pub mod passwords;
pub mod throttle;
pub mod services;
pub mod access;
pub mod unit_of_work;
pub mod bootstrap;
pub mod sign_in;
pub mod tokens;
pub mod organizations;
pub mod catalog;
pub mod prices;
pub mod members;
pub mod projects;
pub mod quotas;
pub mod usage;
pub mod keys;
pub mod wallet;
pub mod request_logs;
