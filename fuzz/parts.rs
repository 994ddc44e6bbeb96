//! The parts of the gateway that read what strangers send, and what a crash left.

#[path = "../src/domain/mod.rs"]
pub mod domain;

#[path = "../src/dialect/mod.rs"]
pub mod dialect;

/// The bytes of the journal, without its files.
#[path = "../src/journal"]
pub mod journal {
    pub mod entry;
    pub mod format;
}
