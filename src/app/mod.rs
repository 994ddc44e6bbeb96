//! The composition root: connects all parts. No other module depends on it.

pub mod log;
pub mod data_folder;
pub mod thread;
pub mod health;
pub mod routes;
pub mod reload;
pub mod consistency_monitor;
pub mod node;
pub mod run;
pub mod demo;
pub mod verify;
