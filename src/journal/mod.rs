//! The write-ahead journal of calls: one chain of segments per worker, written by its worker once
//! per event-loop iteration and read by the projector.

pub mod entry;
pub mod format;
pub mod segment;
pub mod chains;
pub mod writer;
pub mod reader;

#[cfg(test)]
mod tests;
