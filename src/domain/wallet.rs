//! The in-memory wallet: balance and held amount. The ledger is the durable record.

use crate::domain::money::Nano;

/// Why a wallet cannot cover an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletShortfall {
    /// The wallet is deactivated.
    Inactive,
    /// The balance covers the amount, but calls in flight hold too much of it.
    OnHold,
    /// The balance does not cover the amount, even with all holds released.
    Insufficient,
}

/// The prepaid money of one organization that this node may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wallet {
    active: bool,
    /// Includes the held amount. Negative only after an overage.
    balance: Nano,
    held: Nano,
}

impl Wallet {
    /// Returns a wallet with that balance and nothing held.
    pub const fn restore(balance: Nano, active: bool) -> Self {
        Self { active, balance, held: Nano::ZERO }
    }

    /// Returns whether calls may hold money.
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// Activates or deactivates the wallet. Existing holds remain valid.
    pub const fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    /// Adds the amount of a recharge or refund.
    pub fn credit(&mut self, amount: Nano) {
        assert!(Nano::ZERO <= amount, "only a settlement may lower a balance");
        self.balance += amount;
    }

    /// Returns the balance, held money included.
    pub const fn balance(&self) -> Nano {
        self.balance
    }

    /// Returns the amount held by calls in flight.
    pub const fn held(&self) -> Nano {
        self.held
    }

    /// Returns the amount neither spent nor held. Negative only after an overage.
    pub fn available(&self) -> Nano {
        self.balance - self.held
    }

    /// Checks that the wallet covers `amount`. An amount of zero needs only an active wallet.
    pub fn check(&self, amount: Nano) -> Result<(), WalletShortfall> {
        if !self.active {
            return Err(WalletShortfall::Inactive);
        }
        if amount == Nano::ZERO || amount <= self.available() {
            return Ok(());
        }
        Err(if amount <= self.balance {
            WalletShortfall::OnHold
        } else {
            WalletShortfall::Insufficient
        })
    }

    /// Adds a hold that [`check`](Self::check) allowed.
    pub fn hold(&mut self, amount: Nano) {
        self.held += amount;
    }

    /// Ends a hold: releases `held` and subtracts `cost`, which may differ from `held`.
    pub fn settle(&mut self, held: Nano, cost: Nano) {
        self.held -= held;
        assert!(Nano::ZERO <= self.held, "a hold is released once");
        self.balance -= cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_covers_amounts_up_to_the_last_nano_unit() {
        let mut wallet = Wallet::restore(Nano(100), true);
        wallet.check(Nano(60)).expect("covered");
        wallet.hold(Nano(60));
        assert_eq!(wallet.check(Nano(41)), Err(WalletShortfall::OnHold));
        assert_eq!(wallet.check(Nano(101)), Err(WalletShortfall::Insufficient));
        wallet.check(Nano(40)).expect("the rest");
        wallet.settle(Nano(60), Nano(50));
        assert_eq!((wallet.balance(), wallet.held()), (Nano(50), Nano(0)));
        wallet.credit(Nano(1));
        wallet.check(Nano(51)).expect("a recharge is available immediately");
        assert!(wallet.is_active());
        wallet.set_active(false);
        assert!(!wallet.is_active());
        assert_eq!(wallet.check(Nano(0)), Err(WalletShortfall::Inactive));
    }

    #[test]
    fn only_an_overage_makes_a_balance_negative() {
        let mut wallet = Wallet::restore(Nano(10), true);
        wallet.hold(Nano(10));
        wallet.settle(Nano(10), Nano(12));
        assert_eq!(wallet.balance(), Nano(-2));
        assert_eq!(wallet.check(Nano(1)), Err(WalletShortfall::Insufficient));
        wallet.check(Nano(0)).expect("an empty wallet does not refuse a free call");
    }
}
