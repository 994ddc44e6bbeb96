//! Choose: which stop of its route a call goes to next.

use std::time::Instant;

use crate::proxy::breaker::Leave;
use crate::proxy::route::{Route, Stop};

/// The stops that a call has not been to.
#[derive(Debug)]
pub struct Turns<'a> {
    model: &'a str,
    left: Vec<&'a Stop>,
}

impl<'a> Turns<'a> {
    /// All of a route, in its order.
    pub fn of(route: &'a Route) -> Self {
        Self { model: &route.model.name, left: route.stops.iter().collect() }
    }

    /// The next stop: the first that may be asked now. Where none may, the one that may soonest: to
    /// be skipped is to come last, so no call is refused while there is somebody to ask.
    pub fn next(&mut self, now: Instant) -> Option<(&'a Stop, Leave)> {
        let mut soonest: Option<(usize, Instant)> = None;
        for (place, stop) in self.left.iter().enumerate() {
            match stop.upstream.ask(stop.name(self.model), now) {
                Ok(leave) => {
                    for passed in &self.left[..place] {
                        passed.upstream.tries.skipped.increment(1);
                    }
                    return Some((self.left.remove(place), leave));
                }
                Err(at) if soonest.is_none_or(|(_, soonest)| at < soonest) => {
                    soonest = Some((place, at));
                }
                Err(_) => {}
            }
        }
        let stop = self.left.remove(soonest?.0);
        Some((stop, stop.upstream.breaker.insist()))
    }

    /// Whether there is none left.
    pub const fn is_over(&self) -> bool {
        self.left.is_empty()
    }
}
