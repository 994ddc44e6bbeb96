//! Searches for bytes that violate `properties/journal.rs`.
#![no_main]

#[path = "../properties/journal.rs"]
mod journal;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::check(bytes));
