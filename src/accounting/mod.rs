//! Quota and money in motion: who may call, what a call takes, and what it gives back.

pub mod books;
pub mod directory;
pub mod permit;
pub mod admit;
