//! Money: integer nano-units of the deployment's single currency, without floating point.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// An amount in nano-units (1e-9) of the currency; the range is ±9.2 billion units.
///
/// Arithmetic panics on overflow, in release builds too, because a wrong balance is worse than a
/// failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nano(pub i64);

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedMoney {
    /// Not decimal digits with at most one point. Signs and exponents are rejected.
    NotDecimal,
    /// More than nine decimals: finer than a nano-unit.
    TooFine,
    /// More than 9,000,000,000.
    TooLarge,
}

const ONE: i64 = 1_000_000_000;
const UNITS_MAX: i64 = 9_000_000_000;

impl Nano {
    pub const ZERO: Self = Self(0);

    /// Returns an amount of whole currency units.
    pub const fn units(units: i64) -> Self {
        Self(units * ONE)
    }

    /// Parses a non-negative amount such as `1000.00` or `0.000000375`.
    pub fn parse(text: &str) -> Result<Self, MalformedMoney> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(MalformedMoney::NotDecimal);
        }
        if 9 < fraction.len() {
            return Err(MalformedMoney::TooFine);
        }
        let units: i64 = whole.parse().map_err(|_| MalformedMoney::TooLarge)?;
        let nanos: i64 =
            format!("{fraction:0<9}").parse().map_err(|_| MalformedMoney::NotDecimal)?;
        if UNITS_MAX < units || (units == UNITS_MAX && 0 < nanos) {
            return Err(MalformedMoney::TooLarge);
        }
        Ok(Self(units * ONE + nanos))
    }
}

/// Writes exact decimal text with 2 to 9 decimals: `1000.00`, `0.000000375`, `-0.50`.
impl fmt::Display for Nano {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let one = ONE.unsigned_abs();
        let (units, nanos) = (self.0.unsigned_abs() / one, self.0.unsigned_abs() % one);
        let digits = format!("{nanos:09}");
        let length = digits.trim_end_matches('0').len().max(2);
        write!(f, "{sign}{units}.{}", &digits[..length])
    }
}

impl Add for Nano {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.checked_add(other.0).expect("a sum of money fits"))
    }
}

impl Sub for Nano {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.checked_sub(other.0).expect("a difference of money fits"))
    }
}

impl Neg for Nano {
    type Output = Self;
    fn neg(self) -> Self {
        Self::ZERO - self
    }
}

impl AddAssign for Nano {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Nano {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Nano {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_parses_its_display_text() {
        for (nano, text) in [
            (0, "0.00"),
            (375, "0.000000375"),
            (1_000 * ONE, "1000.00"),
            (989_500_000_000, "989.50"),
            (ONE / 8, "0.125"),
            (i64::MAX / ONE / 2 * ONE, "4611686018.00"),
        ] {
            assert_eq!(Nano(nano).to_string(), text);
            assert_eq!(Nano::parse(text), Ok(Nano(nano)));
        }
        assert_eq!(Nano(-ONE / 2).to_string(), "-0.50");
        assert_eq!(Nano::parse("10"), Ok(Nano::units(10)));
    }

    #[test]
    fn malformed_amounts_are_rejected() {
        use MalformedMoney::{NotDecimal, TooFine, TooLarge};
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", " 1", "1,0", "1.0.0", "NaN"] {
            assert_eq!(Nano::parse(text), Err(NotDecimal), "{text}");
        }
        assert_eq!(Nano::parse("0.0000000001"), Err(TooFine));
        assert_eq!(Nano::parse("9000000000.000000001"), Err(TooLarge));
        assert_eq!(Nano::parse("99999999999999999999"), Err(TooLarge));
        assert_eq!(Nano::parse("9000000000"), Ok(Nano::units(9_000_000_000)));
    }

    #[test]
    fn amounts_add_and_subtract() {
        let total: Nano = [Nano(5), Nano(7), -Nano(2)].into_iter().sum();
        assert_eq!((total, -total), (Nano(10), Nano(-10)));
        assert_eq!(Vec::<Nano>::new().into_iter().sum::<Nano>(), Nano::ZERO);
    }
}
