//! The queue of calls that wait for tokens or money held by other calls. Waiting calls hold nothing.
//!
//! The oldest call goes first. Later calls may not overtake it until it has waited for
//! `overtake_after`; from then on a large call no longer blocks smaller ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The position of a call in a queue, ordered by the start of its wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    pub since: Instant,
    number: u64,
}

impl Ticket {
    /// Returns a unique ticket.
    pub fn new(since: Instant) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self { since, number: NUMBERS.fetch_add(1, Ordering::Relaxed) }
    }
}

/// How many waiting calls one release wakes at most. A call that fits wakes the next one itself, and
/// an overtaken call checks again after `overtake_after`.
const WOKEN_MAX: usize = 4;

/// The calls that wait for tokens or money of one subject.
#[derive(Debug)]
pub struct WaitQueue {
    waiting: BTreeMap<Ticket, Arc<Notify>>,
    released_at: Option<Instant>,
    overtake_after: Duration,
}

impl WaitQueue {
    /// `overtake_after` is how long a call waits without a release, and how long it blocks the calls
    /// behind it.
    pub const fn new(overtake_after: Duration) -> Self {
        Self { waiting: BTreeMap::new(), released_at: None, overtake_after }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a call; `signal` is notified when it should check again.
    pub fn join(&mut self, ticket: Ticket, signal: Arc<Notify>) {
        self.waiting.insert(ticket, signal);
    }

    /// Removes a call and wakes the next ones, which may have been waiting behind it.
    pub fn leave(&mut self, ticket: Ticket, now: Instant) {
        if self.waiting.remove(&ticket).is_some() {
            self.wake(now);
        }
    }

    /// Records that amounts were returned, and wakes the next calls.
    pub fn on_release(&mut self, now: Instant) {
        self.released_at = Some(now);
        self.wake(now);
    }

    /// Wakes all calls, because keys or limits have changed.
    pub fn wake_all(&self) {
        self.waiting.values().for_each(|signal| signal.notify_one());
    }

    /// True if no call ahead of this one is still protected from being overtaken. A call without a
    /// ticket comes last.
    pub fn may_proceed(&self, ticket: Option<Ticket>, now: Instant) -> bool {
        let before = match ticket {
            Some(ticket) => self.waiting.range(..ticket).next_back(),
            None => self.waiting.last_key_value(),
        };
        before.is_none_or(|(before, _)| self.overtake_after <= now.duration_since(before.since))
    }

    /// Returns when a call stops waiting: `overtake_after` after it began to wait or after the last
    /// release, whichever is later.
    pub fn gives_up_at(&self, ticket: Ticket) -> Instant {
        self.released_at.map_or(ticket.since, |at| at.max(ticket.since)) + self.overtake_after
    }

    /// Wakes the first call, and the calls behind those that may be overtaken.
    fn wake(&self, now: Instant) {
        for (ticket, signal) in self.waiting.iter().take(WOKEN_MAX) {
            signal.notify_one();
            if now.duration_since(ticket.since) < self.overtake_after {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const OVERTAKE_AFTER: Duration = Duration::from_secs(2);

    fn queue(since: &[Instant]) -> (WaitQueue, Vec<(Ticket, Arc<Notify>)>) {
        let mut queue = WaitQueue::new(OVERTAKE_AFTER);
        let tickets: Vec<_> =
            since.iter().map(|since| (Ticket::new(*since), Arc::new(Notify::new()))).collect();
        for (ticket, signal) in &tickets {
            queue.join(*ticket, Arc::clone(signal));
        }
        (queue, tickets)
    }

    fn is_woken(signal: &Notify) -> bool {
        let mut notified = std::pin::pin!(signal.notified());
        notified.as_mut().enable()
    }

    #[test]
    fn the_longest_waiting_call_goes_first_until_it_may_be_overtaken() {
        let start = clock::monotonic_now();
        let later = start + Duration::from_millis(500);
        let (queue, tickets) = queue(&[start, start, later]);
        let pass = |at: usize, now| queue.may_proceed(Some(tickets[at].0), now);
        assert!(pass(0, later) && !pass(1, later) && !pass(2, later));
        assert!(!queue.may_proceed(None, later));
        let overdue = start + OVERTAKE_AFTER;
        assert!(pass(1, overdue) && pass(2, overdue), "the first two may be overtaken");
        assert!(!queue.may_proceed(None, overdue), "the third may not");
    }

    #[test]
    fn a_release_wakes_the_first_call_and_a_leaving_call_wakes_the_next() {
        let start = clock::monotonic_now();
        let (mut queue, tickets) = queue(&[start, start, start]);
        queue.on_release(start);
        assert!(is_woken(&tickets[0].1) && !is_woken(&tickets[1].1));
        queue.leave(tickets[0].0, start);
        assert!(is_woken(&tickets[1].1) && !is_woken(&tickets[2].1));
        queue.leave(tickets[0].0, start);
        assert!(!is_woken(&tickets[1].1), "leaving again changes nothing");
        assert_eq!(queue.len(), 2);
        assert!(!queue.is_empty() && WaitQueue::new(OVERTAKE_AFTER).is_empty());
    }

    #[test]
    fn each_release_extends_the_wait() {
        let start = clock::monotonic_now();
        let (mut queue, tickets) = queue(&[start]);
        assert_eq!(queue.gives_up_at(tickets[0].0), start + OVERTAKE_AFTER);
        let later = start + Duration::from_secs(1);
        queue.on_release(later);
        assert_eq!(queue.gives_up_at(tickets[0].0), later + OVERTAKE_AFTER);
    }

    #[test]
    fn a_release_wakes_calls_behind_overtaken_ones_and_a_change_wakes_all() {
        let start = clock::monotonic_now();
        let (mut queue, tickets) =
            queue(&[start, start, start + OVERTAKE_AFTER, start + OVERTAKE_AFTER]);
        let woken = || tickets.iter().map(|(_, signal)| is_woken(signal)).collect::<Vec<_>>();
        queue.on_release(start + OVERTAKE_AFTER);
        assert_eq!(woken(), [true, true, true, false], "up to the first that may not be overtaken");
        queue.wake_all();
        assert_eq!(woken(), [true; 4]);
        assert_eq!(woken(), [false; 4]);
    }
}
