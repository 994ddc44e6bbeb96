//! The demo: a fake provider and an organization to call it with.

pub mod models;
pub mod provider;
pub mod seed;
