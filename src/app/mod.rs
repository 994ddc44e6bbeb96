//! Wiring: sees every part, is seen by none.

pub mod log;
pub mod folder;
pub mod thread;
pub mod health;
pub mod routes;
pub mod reload;
pub mod watch;
pub mod node;
pub mod run;
pub mod demo;
pub mod verify;
