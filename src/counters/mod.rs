//! Lenders of limits and wallets, by backend.

pub mod memory;
