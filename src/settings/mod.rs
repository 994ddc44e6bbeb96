//! Typed settings shared by several modules.

pub mod secret;
pub mod upstream;
pub mod admission;
pub mod admin;
pub mod log;
