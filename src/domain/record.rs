//! Ledger records: the lines of a wallet's ledger and their effect on the balance.

use crate::domain::money::Nano;

/// The kind of a ledger record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Money paid in.
    Recharge,
    /// The charge of a settled call.
    Consume,
    /// Part or all of a consume record returned.
    Refund,
}

impl RecordKind {
    pub const ALL: [Self; 3] = [Self::Recharge, Self::Consume, Self::Refund];

    /// Returns the name used in the API and in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recharge => "Recharge",
            Self::Consume => "Consume",
            Self::Refund => "Refund",
        }
    }

    /// Parses the result of [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the default description.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Recharge => "User recharge",
            Self::Consume => "API call consumption",
            Self::Refund => "Error call refund",
        }
    }

    /// Returns the balance after a record of `amount` was applied to `previous`.
    pub fn apply(self, previous: Nano, amount: Nano) -> Nano {
        match self {
            Self::Recharge | Self::Refund => previous + amount,
            Self::Consume => previous - amount,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recharge_and_refund_raise_a_balance_and_consume_lowers_it() {
        for (kind, balance) in [
            (RecordKind::Recharge, Nano(103)),
            (RecordKind::Consume, Nano(97)),
            (RecordKind::Refund, Nano(103)),
        ] {
            assert_eq!(kind.apply(Nano(100), Nano(3)), balance, "{kind:?}");
        }
    }

    #[test]
    fn each_kind_parses_its_name_and_has_a_description() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::parse(kind.name()), Some(kind));
            assert!(kind.description().contains(' '), "{kind:?}");
        }
        assert_eq!(RecordKind::parse("consume"), None);
    }
}
