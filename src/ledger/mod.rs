//! The durable side of money: records, wallets, and the projection of the journal into them.

pub mod freshness;
pub mod records;
pub mod wallets;
pub mod chain;
pub mod call;
pub mod batch;
pub mod late;
pub mod rows;
pub mod projection;
pub mod projector;
pub mod recovery;

#[cfg(test)]
mod tests;
