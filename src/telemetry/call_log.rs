//! The call log: one JSON line per call on standard output, written in batches.
//!
//! A separate thread writes, so that a slow reader of standard output does not block the ledger.
//! If its queue is full, batches are dropped and counted. The database still has the calls.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics::counter;

use crate::telemetry::metric;

/// The maximum number of batches in the queue of the writer thread.
const BATCHES_MAX: usize = 256;

/// How long [`CallLog::close`] waits for the writer thread.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Collects the lines of a batch and passes them to the writer thread.
#[derive(Debug, Default)]
pub struct CallLog {
    lines: Vec<u8>,
    count: u64,
    printer: Option<Printer>,
}

#[derive(Debug)]
struct Printer {
    batches: SyncSender<Vec<u8>>,
    done: Receiver<()>,
    _thread: JoinHandle<()>,
}

impl CallLog {
    /// Returns a log that writes to standard output. `CallLog::default()` writes nothing.
    pub fn stdout() -> io::Result<Self> {
        let (batches, queue) = sync_channel::<Vec<u8>>(BATCHES_MAX);
        let (ended, done) = sync_channel(1);
        let thread = thread::Builder::new().name("call-log".to_owned()).spawn(move || {
            for batch in queue {
                if let Err(error) = io::stdout().lock().write_all(&batch) {
                    tracing::debug!(%error, "writing the call log failed");
                }
            }
            // Fails if the log was dropped without `close`.
            let _ = ended.try_send(());
        })?;
        let printer = Printer { batches, done, _thread: thread };
        Ok(Self { printer: Some(printer), ..Self::default() })
    }

    /// Adds a line. Calls `line` only if the log is written.
    pub fn add(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        if self.printer.is_some() {
            line(&mut self.lines);
            self.lines.push(b'\n');
            self.count += 1;
        }
    }

    /// Passes the collected lines to the writer thread, or drops them if its queue is full.
    pub fn flush(&mut self) {
        let (lines, count) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.count));
        if let Some(printer) = &self.printer
            && !lines.is_empty()
            && printer.batches.try_send(lines).is_err()
        {
            counter!(metric::CALL_LOG_DROPPED).increment(count);
        }
    }

    /// Waits until all batches are written, for at most one second.
    pub fn close(&mut self) {
        if let Some(Printer { batches, done, .. }) = self.printer.take() {
            drop(batches);
            // The process exits in either case.
            let _ = done.recv_timeout(CLOSE_TIMEOUT);
        }
    }
}
