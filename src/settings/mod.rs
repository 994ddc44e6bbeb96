//! Typed values that every part's own settings are made of: units and secrets.

pub mod secret;
