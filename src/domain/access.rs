//! Restrictions of an API key: IP address ranges and model name patterns.

use std::net::IpAddr;

/// An IP address range such as `10.0.0.0/8` or `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    bits: u32,
    is_v4: bool,
}

impl Cidr {
    /// Parses an address with an optional prefix length. Returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if width < bits {
            return None;
        }
        let network = leading_bits(address, bits);
        Some(Self { network, bits, is_v4: address.is_ipv4() })
    }

    /// Returns whether `address` lies in the range. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.is_v4 && leading_bits(address, self.bits) == self.network
    }
}

/// Returns `address` with all but its first `bits` bits cleared.
fn leading_bits(address: IpAddr, bits: u32) -> u128 {
    let (value, width) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let cleared = width - bits;
    value.checked_shr(cleared).unwrap_or(0).checked_shl(cleared).unwrap_or(0)
}

/// Returns whether `text` matches `glob`, where `*` matches any number of characters.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = glob.rsplit_once('*').map(|(_, last)| last) else { return rest.is_empty() };
    let middle = glob.matches('*').count() - 1;
    for part in parts.take(middle) {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_its_addresses() {
        let holds = |block: &str, address: &str| {
            Cidr::parse(block).expect(block).contains(address.parse().expect(address))
        };
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.1.2.3", "10.1.2.3") && holds("0.0.0.0/0", "1.2.3.4"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("::/0", "1.2.3.4"));
        for text in ["", "10.0.0.0/33", "x", "10.0.0.0/-1", "::/129"] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn globs_match_whole_names() {
        for (glob, text) in
            [("gpt-4o", "gpt-4o"), ("*", ""), ("gpt-*", "gpt-4o"), ("*-mini", "o4-mini")]
        {
            assert!(glob_matches(glob, text), "{glob} {text}");
        }
        assert!(glob_matches("a*b*c", "a-b-b-c") && glob_matches("a**c", "ac"));
        for (glob, text) in
            [("gpt-4o", "gpt-4o-mini"), ("gpt-*", "o4"), ("a*b*c", "a-c"), ("", "x")]
        {
            assert!(!glob_matches(glob, text), "{glob} {text}");
        }
        for glob in ["ab*ba", "*ab*ba"] {
            assert!(!glob_matches(glob, "aba"), "{glob}: no letter is used twice");
        }
    }
}
