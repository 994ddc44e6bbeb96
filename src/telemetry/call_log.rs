//! The call log: one JSON line a call on standard output, written a batch at a time.

use std::io::{self, Write};

/// Lines of one batch, gathered and then written at once.
#[derive(Debug)]
pub struct CallLog {
    enabled: bool,
    lines: Vec<u8>,
}

impl CallLog {
    /// A log that writes, or one that keeps silent.
    pub const fn new(enabled: bool) -> Self {
        Self { enabled, lines: Vec::new() }
    }

    /// Adds a line; `line` is asked for only if it will be written.
    pub fn add(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        if self.enabled {
            line(&mut self.lines);
            self.lines.push(b'\n');
        }
    }

    /// Writes the lines of the batch. A closed output loses them: the database has the calls.
    pub fn flush(&mut self) {
        let written = io::stdout().lock().write_all(&self.lines);
        if let Err(fault) = written {
            tracing::debug!(%fault, "the call log could not be written");
        }
        self.lines.clear();
    }
}
