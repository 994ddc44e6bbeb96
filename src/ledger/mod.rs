//! The durable side of money: records, wallets, and the projection of the journal into them.

pub mod freshness;
