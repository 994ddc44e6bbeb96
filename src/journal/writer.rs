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
use crate::journal::entry::Entry;
use crate::journal::format;
use crate::journal::keeper::{ChainState, Durability};

/// A place in the stream of a chain's entries: how many bytes of entries come before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

/// Appends entries to one chain.
#[derive(Debug)]
pub struct Writer {
    chain: Arc<ChainState>,
    desk: RefCell<Desk>,
}

#[derive(Debug)]
struct Desk {
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
        let (segment, segment_bytes) = chain.take_spare()?;
        let desk = Desk {
            segment,
            filled: 0,
            segment_bytes,
            buffer: Vec::with_capacity(16 * 1024),
            written: Position::default(),
            committer: None,
            waiting: Vec::new(),
        };
        Some(Rc::new(Self { chain, desk: RefCell::new(desk) }))
    }

    /// The chain that it writes.
    pub const fn chain(&self) -> &Arc<ChainState> {
        &self.chain
    }

    /// Whether a call may be admitted: its entries, and those of all open calls, are sure to find
    /// room in the next segment, or else in what is left of this one.
    pub fn has_room(&self) -> bool {
        let desk = self.desk.borrow();
        let half_is_left = desk.filled < desk.segment_bytes / 2;
        self.chain.is_followed() && (half_is_left || self.chain.has_spare())
    }

    /// Appends an entry; the position is what to wait for.
    pub fn append<T: AsRef<str>>(&self, entry: &Entry<T>) -> Position {
        let desk = &mut *self.desk.borrow_mut();
        format::write(entry, &mut desk.buffer);
        if let Some(committer) = desk.committer.take() {
            committer.wake();
        }
        let position = Position(desk.written.0 + desk.buffer.len() as u64);
        self.chain.report_appended(position.0);
        position
    }

    /// Resolves when everything before `position` is written: it survives this process.
    pub fn written(&self, position: Position) -> impl Future<Output = ()> + '_ {
        poll_fn(move |context| self.poll_written(position, context))
    }

    /// The same, to be polled.
    pub fn poll_written(&self, position: Position, context: &mut Context<'_>) -> Poll<()> {
        let desk = &mut *self.desk.borrow_mut();
        if position <= desk.written {
            return Poll::Ready(());
        }
        desk.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Resolves when everything before `position` is as durable as the journal promises.
    pub async fn durable(&self, position: Position) {
        self.written(position).await;
        if self.chain.durability() == Durability::Power {
            self.chain.synced(position.0).await;
        }
    }

    /// Whether entries survive this process only, and are so as soon as they are written.
    pub fn is_durable_when_written(&self) -> bool {
        matches!(self.chain.durability(), Durability::Process)
    }

    /// Writes what each turn of the loop brought; the worker runs it beside its calls.
    pub async fn commit_for_ever(&self) {
        poll_fn(|context| {
            self.commit();
            self.desk.borrow_mut().committer = Some(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Writes what was appended. An error is final, and ends the process.
    pub fn commit(&self) {
        let desk = &mut *self.desk.borrow_mut();
        if desk.buffer.is_empty() {
            return;
        }
        if let Err(fault) = desk.write(&self.chain) {
            self.chain.report_lost(&fault);
        }
        crash_point!("turn-written");
        desk.written.0 += desk.buffer.len() as u64;
        self.chain.publish(desk.written.0);
        desk.buffer.clear();
        for waker in desk.waiting.drain(..) {
            waker.wake();
        }
    }
}

impl Desk {
    /// Writes whole entries only into each segment; what does not fit goes to the next.
    fn write(&mut self, chain: &ChainState) -> std::io::Result<()> {
        let mut done = 0;
        while done < self.buffer.len() {
            let room = usize::try_from(self.segment_bytes - self.filled).unwrap_or(usize::MAX);
            let fits = entries_within(&self.buffer[done..], room);
            if fits == 0 {
                // First the sync, then the next segment: from then on the keeper syncs only that.
                if matches!(chain.durability(), Durability::Power) {
                    self.segment.sync_data()?;
                }
                let (next, bytes) = chain
                    .take_spare()
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
fn entries_within(buffer: &[u8], room: usize) -> usize {
    if buffer.len() <= room {
        return buffer.len();
    }
    let mut end = 0;
    while let Some(header) = buffer.get(end..end + 4) {
        let length = header.iter().rev().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
        let next = end + format::HEADER_BYTES + length;
        if room < next {
            break;
        }
        end = next;
    }
    end
}
