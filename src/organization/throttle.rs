//! The rate limit of sign-in attempts by client address.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::organization::error::UseCaseError;

/// Attempts per minute from one network; also the burst size.
const ATTEMPTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(20).expect("more than none");

/// Above this number of tracked networks, idle ones are removed.
const ADDRESSES_MAX: usize = 10_000;

/// Attempts by client network.
#[derive(Debug)]
pub struct Throttle(DefaultKeyedRateLimiter<IpAddr>);

impl Default for Throttle {
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(ATTEMPTS_PER_MINUTE)))
    }
}

impl Throttle {
    /// Counts an attempt from `address`; refuses it if there were too many.
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

/// Returns the IPv4 address, or the /64 network of an IPv6 address, as a client usually has all
/// addresses of its /64.
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
    fn the_21st_attempt_is_refused_for_one_address_only() {
        let throttle = Throttle::default();
        let (first, second) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert!((0..20).all(|_| throttle.check(first).is_ok()));
        assert!(matches!(throttle.check(first), Err(UseCaseError::Throttled(_))));
        assert!(throttle.check(second).is_ok());
    }
}
