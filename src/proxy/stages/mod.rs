//! The stages of a call, one file each, in the order in which `pipeline` runs them.

pub mod authenticate;
pub mod receive;
pub mod claim;
pub mod route;
pub mod admit;
pub mod forward;
pub mod relay;
