//! The parts of the gateway that read untrusted input, and the journal after a crash.

#[path = "../src/domain/mod.rs"]
pub mod domain;

#[path = "../src/dialect/mod.rs"]
pub mod dialect;

/// The format of the journal, without its files.
#[path = "../src/journal"]
pub mod journal {
    pub mod entry;
    pub mod format;
}
