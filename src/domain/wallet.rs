//! The wallet in motion: what it has, and what of it is held. Its durable side is the ledger.

use crate::domain::money::Nano;

/// Why a wallet does not cover an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletShortfall {
    /// It is switched off.
    Inactive,
    /// It would, but for what open calls hold.
    OnHold,
    /// It would not, even if all holds came back.
    Insufficient,
}

/// Prepaid money of one organization, as far as this node may spend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wallet {
    active: bool,
    /// What is held is still in it. Below zero by overage only.
    balance: Nano,
    held: Nano,
}

impl Wallet {
    /// A wallet with that balance and nothing held.
    pub const fn restore(balance: Nano, active: bool) -> Self {
        Self { active, balance, held: Nano::ZERO }
    }

    /// Whether calls may hold money.
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// Switches it on or off; open holds are honoured.
    pub const fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    /// Adds a recharge or refund.
    pub fn credit(&mut self, amount: Nano) {
        assert!(Nano::ZERO <= amount, "only settling takes money out");
        self.balance += amount;
    }

    /// Balance: held money is still in it.
    pub const fn balance(&self) -> Nano {
        self.balance
    }

    /// What open calls hold.
    pub const fn held(&self) -> Nano {
        self.held
    }

    /// What is neither spent nor held. Below zero by overage only.
    pub fn available(&self) -> Nano {
        self.balance - self.held
    }

    /// Whether `amount` is covered. A call that costs nothing needs an active wallet only.
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

    /// Takes what `check` allowed.
    pub fn hold(&mut self, amount: Nano) {
        self.held += amount;
    }

    /// Ends a hold; what it cost is spent, whatever was held.
    pub fn settle(&mut self, held: Nano, cost: Nano) {
        self.held -= held;
        assert!(Nano::ZERO <= self.held, "a hold is given back once");
        self.balance -= cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_covered_to_the_last_nano_unit() {
        let mut wallet = Wallet::restore(Nano(100), true);
        wallet.check(Nano(60)).expect("covered");
        wallet.hold(Nano(60));
        assert_eq!(wallet.check(Nano(41)), Err(WalletShortfall::OnHold));
        assert_eq!(wallet.check(Nano(101)), Err(WalletShortfall::Insufficient));
        wallet.check(Nano(40)).expect("the rest");
        wallet.settle(Nano(60), Nano(50));
        assert_eq!((wallet.balance(), wallet.held()), (Nano(50), Nano(0)));
        wallet.credit(Nano(1));
        wallet.check(Nano(51)).expect("a recharge counts at once");
        assert!(wallet.is_active());
        wallet.set_active(false);
        assert!(!wallet.is_active());
        assert_eq!(wallet.check(Nano(0)), Err(WalletShortfall::Inactive));
    }

    #[test]
    fn only_overage_takes_a_balance_below_zero() {
        let mut wallet = Wallet::restore(Nano(10), true);
        wallet.hold(Nano(10));
        wallet.settle(Nano(10), Nano(12));
        assert_eq!(wallet.balance(), Nano(-2));
        assert_eq!(wallet.check(Nano(1)), Err(WalletShortfall::Insufficient));
        wallet.check(Nano(0)).expect("what costs nothing is not refused by an empty wallet");
    }
}
