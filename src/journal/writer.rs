//! The writing end of a chain. It lives on its worker's thread, and so needs no lock.
//!
//! What one turn of the worker's loop appends is one write: the committer is woken by the first
//! entry, and runs after the tasks that were ready before it.

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

/// A place in the stream of a chain's entries: how many bytes of entries come before it.
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
    /// Entries of this turn.
    buffer: Vec<u8>,
    written: Position,
    committer: Option<Waker>,
    waiting: Vec<Waker>,
}

impl Writer {
    /// A writer that begins with the spare segment that the keeper has made.
    ///
    /// `None` when there is none.
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

    /// The chain that it writes.
    pub const fn chain(&self) -> &Arc<ChainState> {
        &self.chain
    }

    /// Whether a call may be admitted: its entries, and those of all open calls, are sure to find
    /// room in the next segment, or else in what is left of this one.
    pub fn has_space(&self) -> bool {
        let state = self.state.borrow();
        let half_is_left = state.filled < state.segment_bytes / 2;
        self.chain.projector_keeps_up() && (half_is_left || self.chain.has_next_segment())
    }

    /// Appends an entry; the position is what to wait for.
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

    /// Resolves when everything before `position` is written: it survives this process.
    pub fn wait_written(&self, position: Position) -> impl Future<Output = ()> + '_ {
        poll_fn(move |context| self.poll_written(position, context))
    }

    /// The same, to be polled.
    pub fn poll_written(&self, position: Position, context: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if position <= state.written {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Resolves when everything before `position` is as durable as the journal promises.
    pub async fn wait_durable(&self, position: Position) {
        self.wait_written(position).await;
        if self.chain.durability() == Durability::Power {
            self.chain.synced(position.0).await;
        }
    }

    /// Whether entries survive this process only, and are so as soon as they are written.
    pub fn is_durable_when_written(&self) -> bool {
        matches!(self.chain.durability(), Durability::Process)
    }

    /// Writes what each turn of the loop brought; the worker runs it beside its calls.
    pub async fn run_committer(&self) {
        poll_fn(|context| {
            self.commit();
            self.state.borrow_mut().committer = Some(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Writes what was appended. An error is final, and ends the process.
    pub fn commit(&self) {
        let state = &mut *self.state.borrow_mut();
        if state.buffer.is_empty() {
            return;
        }
        if let Err(fault) = state.write(&self.chain) {
            self.chain.report_write_failure(&fault);
        }
        crash_point!("turn-written");
        state.written.0 += state.buffer.len() as u64;
        self.chain.publish(state.written.0);
        state.buffer.clear();
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }
}

impl WriterState {
    /// Writes whole entries only into each segment; what does not fit goes to the next.
    fn write(&mut self, chain: &ChainState) -> std::io::Result<()> {
        let mut done = 0;
        while done < self.buffer.len() {
            let space = usize::try_from(self.segment_bytes - self.filled).unwrap_or(usize::MAX);
            let fits = entries_within(&self.buffer[done..], space);
            if fits == 0 {
                // First the sync, then the next segment: from then on the keeper syncs only that.
                if matches!(chain.durability(), Durability::Power) {
                    self.segment.sync_data()?;
                }
                let (next, bytes) = chain
                    .take_next_segment()
                    .ok_or_else(|| std::io::Error::other("there is no room for a segment"))?;
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

/// How many bytes of whole entries, from the start of `buffer`, fit into `room`.
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
