//! Meteor Gateway: one inline gateway for AI traffic that is exact, durable and free.
//!
//! The list below is the layer diagram, bottom first: a module may name only modules that are
//! declared above it (`tests/tidy.rs` proves it). ARCHITECTURE.md is the map.

pub mod domain;
pub mod dialect;
pub mod settings;
pub mod clock;
pub mod tasks;
pub mod crash;
pub mod telemetry;
pub mod store;
pub mod journal;
pub mod lender;
pub mod counters;
pub mod ledger;
pub mod accounting;
pub mod organization;
pub mod admin;
pub mod proxy;
pub mod config;
pub mod demo;
pub mod app;
