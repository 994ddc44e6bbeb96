//! Records: the lines of a wallet's ledger, and the rule that chains them.

use crate::domain::money::Nano;

/// What a record does to a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Money paid in.
    Recharge,
    /// A call settled.
    Consume,
    /// Part or all of a Consume given back.
    Refund,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Recharge, Self::Consume, Self::Refund];

    /// The word in the API and in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recharge => "Recharge",
            Self::Consume => "Consume",
            Self::Refund => "Refund",
        }
    }

    /// Reads what `name` writes.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The description when nobody gave one.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Recharge => "User recharge",
            Self::Consume => "API call consumption",
            Self::Refund => "Error call refund",
        }
    }

    /// The balance after a record of `amount` on `previous`.
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
    fn what_is_paid_in_or_given_back_raises_a_balance_and_what_is_consumed_lowers_it() {
        for (kind, balance) in [
            (RecordKind::Recharge, Nano(103)),
            (RecordKind::Consume, Nano(97)),
            (RecordKind::Refund, Nano(103)),
        ] {
            assert_eq!(kind.apply(Nano(100), Nano(3)), balance, "{kind:?}");
        }
    }

    #[test]
    fn each_kind_reads_its_own_name_and_describes_itself() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::parse(kind.name()), Some(kind));
            assert!(kind.description().contains(' '), "{kind:?}");
        }
        assert_eq!(RecordKind::parse("consume"), None);
    }
}
