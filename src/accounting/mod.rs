//! Quota and money in motion: who may call, what a call takes, and what it gives back.

pub mod sync;
pub mod queue;
pub mod account;
pub mod states;
pub mod once;
pub mod input;
pub mod books;
pub mod directory;
pub mod need;
pub mod presence;
pub mod permit;
pub mod turn;
pub mod look;
pub mod admit;

#[cfg(test)]
mod tests;
