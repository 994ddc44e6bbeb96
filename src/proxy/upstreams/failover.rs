//! Chooses the target of a route for each attempt: by priority and weight, then by health.

use std::time::Instant;

use crate::domain::catalog::TargetRank;
use crate::proxy::upstreams::breaker::BreakerPass;
use crate::proxy::upstreams::route_target::RouteTarget;

/// Orders `targets` for one call. Within each priority, one target drawn by weight moves to the front;
/// the others keep their order.
pub fn order_by_weight<T>(
    targets: &mut [T],
    rank: impl Fn(&T) -> TargetRank,
    mut random: impl FnMut() -> u64,
) {
    for peers in targets.chunk_by_mut(|one, next| rank(one).priority == rank(next).priority) {
        let weight = |target: &T| u64::from(rank(target).weight);
        let weights: u64 = peers.iter().map(weight).sum();
        if peers.len() < 2 || weights == 0 {
            continue;
        }
        let mut point = random() % weights;
        let wins = |target: &T| {
            let left = point.checked_sub(weight(target));
            point = left.unwrap_or_default();
            left.is_none()
        };
        if let Some(drawn) = peers.iter().position(wins) {
            peers[..=drawn].rotate_right(1);
        }
    }
}

/// The targets of a route that a call has not tried.
#[derive(Debug)]
pub struct Candidates<'a> {
    model_name: &'a str,
    remaining: Vec<&'a RouteTarget>,
}

impl<'a> Candidates<'a> {
    /// `model_name` is the public name of the model.
    pub fn new(model_name: &'a str, targets: &'a [RouteTarget]) -> Self {
        Self { model_name, remaining: targets.iter().collect() }
    }

    /// Returns the first target whose cooldown and breaker allow a call now, else the one that will
    /// allow it first. A skipped target is tried last instead of never, so that no call is refused
    /// while a target is left.
    pub fn next(&mut self, now: Instant) -> Option<(&'a RouteTarget, BreakerPass)> {
        let mut first_retry: Option<(usize, Instant)> = None;
        for (index, target) in self.remaining.iter().enumerate() {
            match target.upstream.try_acquire(target.model_name(self.model_name), now) {
                Ok(pass) => {
                    for skipped in &self.remaining[..index] {
                        skipped.upstream.attempts.skipped.increment(1);
                    }
                    return Some((self.remaining.remove(index), pass));
                }
                Err(retry_at) if first_retry.is_none_or(|(_, earliest)| retry_at < earliest) => {
                    first_retry = Some((index, retry_at));
                }
                Err(_) => {}
            }
        }
        let target = self.remaining.remove(first_retry?.0);
        Some((target, target.upstream.breaker.force_acquire()))
    }

    pub const fn is_exhausted(&self) -> bool {
        self.remaining.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(ranks: &[(u16, u16)], random: impl FnMut() -> u64) -> String {
        let mut targets: Vec<_> = ranks.iter().zip(0..).collect();
        order_by_weight(
            &mut targets,
            |((priority, weight), _)| TargetRank { priority: *priority, weight: *weight },
            random,
        );
        targets.iter().map(|(_, index)| index.to_string()).collect()
    }

    #[test]
    fn one_target_of_each_priority_is_drawn_and_the_others_keep_their_order() {
        let equal = [(0, 1), (0, 1), (0, 1)];
        assert_eq!([0, 1, 2].map(|point| order(&equal, || point)), ["012", "102", "201"]);
        let unlike = [(0, 3), (0, 1), (2, 5), (2, 1), (2, 0)];
        for (point, expected) in
            [(0, "01234"), (2, "01234"), (3, "10234"), (5, "01324"), (11, "10324")]
        {
            assert_eq!(order(&unlike, || point), expected, "{point}");
        }
        assert_eq!(order(&[(0, 0), (0, 0)], || 1), "01", "without weights, the order is kept");
        assert_eq!(order(&[], || 1), "");
    }

    #[test]
    fn each_target_is_drawn_in_proportion_to_its_weight() {
        // Evenly distributed numbers, so that shares match the weights within rounding.
        let (mut number, mut first) = (0_u64, [0; 3]);
        for _ in 0..10_000 {
            number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let order = order(&[(0, 7), (0, 2), (0, 1)], || number >> 32);
            first[order[..1].parse::<usize>().expect("a place")] += 1;
        }
        for (times, weight) in first.into_iter().zip([7_000_i32, 2_000, 1_000]) {
            assert!((times - weight).abs() < 100, "{first:?}");
        }
    }
}
