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
