//! Configuration: what was typed becomes checked values, and all faults come in one report.

pub mod report;
pub mod environment;
pub mod file;
pub mod section;
pub mod price_table;
pub mod price_list;
pub mod pricing;
pub mod upstreams;
pub mod catalog;
pub mod check;

#[cfg(test)]
mod tests;
