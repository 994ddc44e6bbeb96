//! Configuration: parses the file and the environment into checked settings, reporting all errors.

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
