//! The call log: one JSON line a call on standard output, written a batch at a time.
//!
//! A thread of its own writes, so that a reader who does not read holds up no ledger: batches
//! that do not fit are dropped and counted. The database has the calls.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics::counter;

use crate::telemetry::metric;

/// How many batches may wait for the reader of standard output.
const BATCHES_MAX: usize = 256;

/// How long the end of the process waits for that reader.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Lines of one batch, gathered and then handed over at once.
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
    /// A log that writes to standard output. `CallLog::default()` is one that keeps silent.
    pub fn stdout() -> io::Result<Self> {
        let (batches, to_print) = sync_channel::<Vec<u8>>(BATCHES_MAX);
        let (ended, done) = sync_channel(1);
        let thread = thread::Builder::new().name("call-log".to_owned()).spawn(move || {
            for batch in to_print {
                if let Err(fault) = io::stdout().lock().write_all(&batch) {
                    tracing::debug!(%fault, "the call log could not be written");
                }
            }
            // Nobody waits for this end if the log was left in another way.
            let _ = ended.try_send(());
        })?;
        let printer = Printer { batches, done, _thread: thread };
        Ok(Self { printer: Some(printer), ..Self::default() })
    }

    /// Adds a line; `line` is asked for only if it will be written.
    pub fn add(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        if self.printer.is_some() {
            line(&mut self.lines);
            self.lines.push(b'\n');
            self.count += 1;
        }
    }

    /// Hands over the lines of the batch.
    pub fn flush(&mut self) {
        let (lines, count) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.count));
        if let Some(printer) = &self.printer
            && !lines.is_empty()
            && printer.batches.try_send(lines).is_err()
        {
            counter!(metric::CALL_LOG_DROPPED).increment(count);
        }
    }

    /// Waits, for a moment, until everything is written.
    pub fn close(&mut self) {
        if let Some(Printer { batches, done, .. }) = self.printer.take() {
            drop(batches);
            // Whether it is written or took too long, the process ends.
            let _ = done.recv_timeout(CLOSE_TIMEOUT);
        }
    }
}
