//! Wiring: sees every part, is seen by none.

pub mod folder;
pub mod thread;
pub mod health;
pub mod node;
