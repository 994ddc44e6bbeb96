//! Writes a chain. A writer belongs to its worker's thread and needs no lock.
//!
//! Entries appended during one iteration of the worker's event loop are written at once: the first
//! entry wakes the committer, which runs after the tasks that were ready before it.

use std::cell::RefCell;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::crash::crash_point;
use crate::journal::chains::{ChainState, Durability};
use crate::journal::entry::Entry;
use crate::journal::format;

/// A position in a chain: the size of all entries before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

/// Appends entries to one chain.
#[derive(Debug)]
pub struct Writer {
    chain: Arc<ChainState>,
    state: RefCell<WriterState>,
}

#[derive(Debug)]
struct WriterState {
    segment: File,
    /// Bytes of `segment` that are written.
    filled: u64,
    segment_bytes: u64,
    /// Entries appended since the last write.
    buffer: Vec<u8>,
    written: Position,
    committer: Option<Waker>,
    waiting: Vec<Waker>,
}

impl Writer {
    /// Creates a writer on the next segment of `chain`. Returns `None` if that segment has not been
    /// created.
    pub fn new(chain: Arc<ChainState>) -> Option<Rc<Self>> {
        let (segment, segment_bytes) = chain.take_next_segment()?;
        let state = WriterState {
            segment,
            filled: 0,
            segment_bytes,
            buffer: Vec::with_capacity(16 * 1024),
            written: Position::default(),
            committer: None,
            waiting: Vec::new(),
        };
        Some(Rc::new(Self { chain, state: RefCell::new(state) }))
    }

    pub const fn chain(&self) -> &Arc<ChainState> {
        &self.chain
    }

    /// Returns true if a call may be admitted: there is space for its entries and for those of all
    /// open calls, in the next segment or in the rest of this one.
    pub fn has_space(&self) -> bool {
        let state = self.state.borrow();
        let half_is_left = state.filled < state.segment_bytes / 2;
        self.chain.projector_keeps_up() && (half_is_left || self.chain.has_next_segment())
    }

    /// Appends an entry and returns the position to wait for.
    pub fn append<T: AsRef<str>>(&self, entry: &Entry<T>) -> Position {
        let state = &mut *self.state.borrow_mut();
        format::write(entry, &mut state.buffer);
        if let Some(committer) = state.committer.take() {
            committer.wake();
        }
        let position = Position(state.written.0 + state.buffer.len() as u64);
        self.chain.report_appended(position.0);
        position
    }

    /// Waits until everything before `position` is written, so that it survives the process.
    pub fn wait_written(&self, position: Position) -> impl Future<Output = ()> + '_ {
        poll_fn(move |context| self.poll_written(position, context))
    }

    /// Polls [`wait_written`](Self::wait_written).
    pub fn poll_written(&self, position: Position, context: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if position <= state.written {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Waits until everything before `position` is as durable as the settings require.
    pub async fn wait_durable(&self, position: Position) {
        self.wait_written(position).await;
        if self.chain.durability() == Durability::Power {
            self.chain.synced(position.0).await;
        }
    }

    /// Returns true if an entry counts as durable as soon as it is written.
    pub fn is_durable_when_written(&self) -> bool {
        matches!(self.chain.durability(), Durability::Process)
    }

    /// Writes the entries of each event-loop iteration. The worker runs this beside its calls.
    pub async fn run_committer(&self) {
        poll_fn(|context| {
            self.commit();
            self.state.borrow_mut().committer = Some(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Writes the appended entries. A failed write ends the process.
    pub fn commit(&self) {
        let state = &mut *self.state.borrow_mut();
        if state.buffer.is_empty() {
            return;
        }
        if let Err(fault) = state.write(&self.chain) {
            self.chain.report_write_failure(&fault);
        }
        crash_point!("buffer-written");
        state.written.0 += state.buffer.len() as u64;
        self.chain.publish(state.written.0);
        state.buffer.clear();
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }
}

impl WriterState {
    /// Writes whole entries to each segment; an entry that does not fit goes to the next segment.
    fn write(&mut self, chain: &ChainState) -> std::io::Result<()> {
        let mut done = 0;
        while done < self.buffer.len() {
            let space = usize::try_from(self.segment_bytes - self.filled).unwrap_or(usize::MAX);
            let fits = entries_within(&self.buffer[done..], space);
            if fits == 0 {
                // Sync before switching: afterwards the maintenance thread syncs the new segment
                // only.
                if matches!(chain.durability(), Durability::Power) {
                    self.segment.sync_data()?;
                }
                let (next, bytes) = chain.take_next_segment().ok_or_else(|| {
                    std::io::Error::other("the next journal segment has not been created")
                })?;
                self.segment = next;
                self.segment_bytes = bytes;
                self.filled = 0;
                crash_point!("segment-rolled");
                continue;
            }
            self.segment.write_all_at(&self.buffer[done..done + fits], self.filled)?;
            self.filled += fits as u64;
            done += fits;
        }
        Ok(())
    }
}

/// Returns the size of the whole entries at the start of `buffer` that fit into `space`.
fn entries_within(buffer: &[u8], space: usize) -> usize {
    if buffer.len() <= space {
        return buffer.len();
    }
    let mut end = 0;
    while let Some(header) = buffer.get(end..end + 4) {
        let length = header.iter().rev().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
        let next = end + format::PREFIX_BYTES + length;
        if space < next {
            break;
        }
        end = next;
    }
    end
}
