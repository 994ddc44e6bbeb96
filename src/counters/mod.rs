//! Lenders of windows and wallets, by where the rights are kept.

pub mod memory;
