//! The identity of a request: its id, arrival times and client address.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Instant;

use crate::clock;
use crate::domain::ids::RequestLogId;
use crate::domain::time::UnixMs;

/// What is known about a request before it is parsed.
#[derive(Debug, Clone, Copy)]
pub struct RequestContext {
    pub id: RequestLogId,
    /// Arrival by the wall clock.
    pub received_at: UnixMs,
    /// Arrival by the monotonic clock.
    pub started_at: Instant,
    /// The IP address of the client.
    pub address: IpAddr,
}

/// Generates request ids: `UUIDv7`s whose random bits come from a sequence of this worker.
#[derive(Debug)]
pub struct RequestIds {
    state: Cell<u64>,
}

impl RequestIds {
    /// Seeds the sequence from the operating system.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { state: Cell::new(getrandom::u64()?) })
    }

    /// Returns the context of a request that arrives now.
    pub fn new_request(&self, address: IpAddr) -> RequestContext {
        let received_at = clock::wall_now();
        RequestContext {
            id: self.next_id(received_at),
            received_at,
            started_at: clock::monotonic_now(),
            address,
        }
    }

    fn next_id(&self, received_at: UnixMs) -> RequestLogId {
        let (high, low) = (self.next_random(), self.next_random());
        let ms = u128::from(received_at.0.unsigned_abs() & 0xFFFF_FFFF_FFFF);
        let version_and_12_bits = 0x7000 | u128::from(high & 0x0FFF);
        let variant_and_62_bits = u128::from(low >> 2 | 0x8000_0000_0000_0000);
        RequestLogId(ms << 80 | version_and_12_bits << 64 | variant_and_62_bits)
    }

    /// Returns the next number of the sequence (`SplitMix64`).
    pub fn next_random(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_and_differ() {
        let ids = RequestIds::new().expect("randomness");
        let address = "127.0.0.1".parse().expect("an address");
        let made: std::collections::BTreeSet<u128> =
            (0..10_000).map(|_| ids.new_request(address).id.0).collect();
        assert_eq!(made.len(), 10_000);
        let text = ids.new_request(address).id.to_string();
        assert_eq!(text.as_bytes()[14], b'7', "{text}");
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
    }
}
