//! Choose: which stop of its route a call goes to next.

use std::time::Instant;

use crate::domain::catalog::Rank;
use crate::proxy::breaker::Leave;
use crate::proxy::route::{Route, Stop};

/// Puts stops into the order of one call: by priority, as they came; of one priority first the one
/// that is drawn by weight, then the others as they came.
pub fn draw<T>(stops: &mut [T], rank: impl Fn(&T) -> Rank, mut random: impl FnMut() -> u64) {
    for peers in stops.chunk_by_mut(|one, next| rank(one).priority == rank(next).priority) {
        let weight = |stop: &T| u64::from(rank(stop).weight);
        let weights: u64 = peers.iter().map(weight).sum();
        if peers.len() < 2 || weights == 0 {
            continue;
        }
        let mut lot = random() % weights;
        let wins = |stop: &T| {
            let left = lot.checked_sub(weight(stop));
            lot = left.unwrap_or_default();
            left.is_none()
        };
        if let Some(drawn) = peers.iter().position(wins) {
            peers[..=drawn].rotate_right(1);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(ranks: &[(u16, u16)], random: impl FnMut() -> u64) -> String {
        let mut stops: Vec<_> = ranks.iter().zip(0..).collect();
        draw(
            &mut stops,
            |((priority, weight), _)| Rank { priority: *priority, weight: *weight },
            random,
        );
        stops.iter().map(|(_, place)| place.to_string()).collect()
    }

    #[test]
    fn one_of_each_priority_is_drawn_and_the_others_keep_their_order() {
        let equal = [(0, 1), (0, 1), (0, 1)];
        assert_eq!([0, 1, 2].map(|lot| drawn(&equal, || lot)), ["012", "102", "201"]);
        let unlike = [(0, 3), (0, 1), (2, 5), (2, 1), (2, 0)];
        for (lot, order) in [(0, "01234"), (2, "01234"), (3, "10234"), (5, "01324"), (11, "10324")]
        {
            assert_eq!(drawn(&unlike, || lot), order, "{lot}");
        }
        assert_eq!(drawn(&[(0, 0), (0, 0)], || 1), "01", "without weights, as they came");
        assert_eq!(drawn(&[], || 1), "");
    }

    #[test]
    fn each_is_drawn_as_often_as_its_weight_says() {
        // Numbers that are spread evenly: each weight must be met to within rounding.
        let (mut number, mut first) = (0_u64, [0; 3]);
        for _ in 0..10_000 {
            number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let order = drawn(&[(0, 7), (0, 2), (0, 1)], || number >> 32);
            first[order[..1].parse::<usize>().expect("a place")] += 1;
        }
        for (times, weight) in first.into_iter().zip([7_000_i32, 2_000, 1_000]) {
            assert!((times - weight).abs() < 100, "{first:?}");
        }
    }
}
