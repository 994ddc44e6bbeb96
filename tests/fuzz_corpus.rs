//! Checks the properties of the fuzz targets on every input of their corpus. `just fuzz` searches
//! for more inputs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../fuzz/properties/journal.rs"]
mod journal;
#[path = "../fuzz/properties/json.rs"]
mod json;
#[path = "../fuzz/properties/stream.rs"]
mod stream;

/// Runs `check` on every file of the corpus. A failure names the file.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).expect("a corpus") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("a readable file");
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        assert!(outcome.is_ok(), "{} violates the property above", path.display());
        count += 1;
    }
    assert!(10 < count, "{target}: the corpus is missing");
}

#[test]
fn json_properties_hold_on_the_corpus() {
    replay("json", json::check);
}

#[test]
fn stream_properties_hold_on_the_corpus() {
    replay("stream", stream::check);
}

#[test]
fn journal_properties_hold_on_the_corpus() {
    replay("journal", journal::check);
}
