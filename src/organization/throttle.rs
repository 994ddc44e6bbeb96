//! The sign-in throttle: a few tries a minute from one address.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::organization::error::UseCaseError;

/// Tries a minute from one address; as many at once.
const ATTEMPTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(20).expect("more than none");

/// Beyond so many addresses those that are quiet are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Tries by address.
#[derive(Debug)]
pub struct Throttle(DefaultKeyedRateLimiter<IpAddr>);

impl Default for Throttle {
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(ATTEMPTS_PER_MINUTE)))
    }
}

impl Throttle {
    /// Counts a try from there.
    pub fn check(&self, address: IpAddr) -> Result<(), UseCaseError> {
        if ADDRESSES_MAX < self.0.len() {
            self.0.retain_recent();
            self.0.shrink_to_fit();
        }
        self.0.check_key(&network(address)).map_err(|early| {
            let wait = early.wait_time_from(DefaultClock::default().now());
            UseCaseError::Throttled(wait.max(Duration::from_secs(1)))
        })
    }
}

/// Whoever has one v6 address has the 2⁶⁴ around it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twenty_first_try_waits_and_others_do_not() {
        let throttle = Throttle::default();
        let (here, there) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert!((0..20).all(|_| throttle.check(here).is_ok()));
        assert!(matches!(throttle.check(here), Err(UseCaseError::Throttled(_))));
        assert!(throttle.check(there).is_ok());
    }
}
