//! The durable side of money: records, wallets, and the projection of the journal into them.

pub mod freshness;
pub mod records;
pub mod wallets;
pub mod violation;
pub mod chain;
pub mod pairs;
pub mod watch;
pub mod call;
pub mod batch;
pub mod late;
pub mod rows;
pub mod projection;
pub mod projector;
pub mod recovery;
pub mod unprojected;
pub mod verify;

#[cfg(test)]
mod tests;
