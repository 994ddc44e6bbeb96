//! What the fuzz targets hold to be true, on every input of their corpus: `just fuzz` looks for
//! more of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../fuzz/properties/journal.rs"]
mod journal;
#[path = "../fuzz/properties/json.rs"]
mod json;
#[path = "../fuzz/properties/stream.rs"]
mod stream;

/// Runs `check` on every file of that corpus; a failure names the file.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).expect("a corpus") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("a readable file");
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        assert!(outcome.is_ok(), "{} breaks what stands above", path.display());
        count += 1;
    }
    assert!(10 < count, "{target}: the corpus is not there");
}

#[test]
fn scanner_and_readers_hold_on_their_corpus() {
    replay("json", json::check);
}

#[test]
fn meters_hold_on_their_corpus() {
    replay("stream", stream::check);
}

#[test]
fn the_journal_holds_on_its_corpus() {
    replay("journal", journal::check);
}
