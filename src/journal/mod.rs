//! The journal: the hot path's only durability. One chain of segments per worker, written once a
//! turn of its loop, read by the projector.

pub mod entry;
pub mod format;
pub mod segment;
pub mod chains;
pub mod writer;
pub mod reader;

#[cfg(test)]
mod tests;
