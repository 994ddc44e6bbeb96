//! Typed values that every part's own settings are made of: addresses, credentials and secrets.

pub mod secret;
pub mod upstream;
pub mod admission;
pub mod admin;
pub mod log;
