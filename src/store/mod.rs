//! The SQL of everything that is not money in motion: people, organizations, projects, keys.

pub mod database;
pub mod facts;
pub mod quotas;
pub mod callers;
