//! A queue: calls that wait, holding nothing, until what others hold comes back.
//!
//! Whoever waits longest goes first, and nobody who comes later may pass, until patience ends:
//! then a call that needs much no longer stands in the way of those that need little.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A place in a queue. Those of calls that began to wait earlier come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// When the call began to wait.
    pub since: Instant,
    number: u64,
}

impl Ticket {
    /// A ticket that no other equals.
    pub fn new(since: Instant) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self { since, number: NUMBERS.fetch_add(1, Ordering::Relaxed) }
    }
}

/// How many waiting calls one release looks at: each that fits wakes the next itself, and each
/// that was passed over looks again when its own patience ends.
const WOKEN_MAX: usize = 4;

/// The calls that wait for one subject's tokens and money.
#[derive(Debug)]
pub struct WaitQueue {
    waiting: BTreeMap<Ticket, Arc<Notify>>,
    released_at: Option<Instant>,
    overtake_after: Duration,
}

impl WaitQueue {
    /// An empty queue. `patience` is how long a call waits without anything coming back, and how
    /// long it stands in the way of those behind it.
    pub const fn new(overtake_after: Duration) -> Self {
        Self { waiting: BTreeMap::new(), released_at: None, overtake_after }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits: then nothing of this module is asked.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a place; `signal` says when to look again.
    pub fn join(&mut self, ticket: Ticket, signal: Arc<Notify>) {
        self.waiting.insert(ticket, signal);
    }

    /// Gives a place up, and lets the next ones look: they may have been waiting for this one.
    pub fn leave(&mut self, ticket: Ticket, now: Instant) {
        if self.waiting.remove(&ticket).is_some() {
            self.wake(now);
        }
    }

    /// Notes that something came back.
    pub fn on_release(&mut self, now: Instant) {
        self.released_at = Some(now);
        self.wake(now);
    }

    /// Lets all look: who calls, or what they may, has changed.
    pub fn wake_all(&self) {
        self.waiting.values().for_each(|signal| signal.notify_one());
    }

    /// Whether a call may take what is there: nobody before it is still owed the first choice.
    /// One without a ticket comes last.
    pub fn may_proceed(&self, ticket: Option<Ticket>, now: Instant) -> bool {
        let before = match ticket {
            Some(ticket) => self.waiting.range(..ticket).next_back(),
            None => self.waiting.last_key_value(),
        };
        before.is_none_or(|(before, _)| self.overtake_after <= now.duration_since(before.since))
    }

    /// When a call of that ticket has waited long enough: its patience after it came, or after
    /// something came back last.
    pub fn gives_up_at(&self, ticket: Ticket) -> Instant {
        self.released_at.map_or(ticket.since, |at| at.max(ticket.since)) + self.overtake_after
    }

    /// Lets the first look, and those behind whoever was passed over already.
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
        assert!(pass(1, overdue) && pass(2, overdue), "the first two are passed");
        assert!(!queue.may_proceed(None, overdue), "the third is not");
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
        assert!(!is_woken(&tickets[1].1), "a place is given up once");
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
        assert_eq!(woken(), [true, true, true, false], "up to the first that is owed its turn");
        queue.wake_all();
        assert_eq!(woken(), [true; 4]);
        assert_eq!(woken(), [false; 4]);
    }
}
