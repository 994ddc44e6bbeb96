//! Violations: rows of the ledger that are not what they should be.

use std::fmt;

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;

/// A row that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The table, or `journal`, or `live_state` for what is only in memory.
    pub table: &'static str,
    /// The organization that the row belongs to, if known.
    pub organization: Option<OrganizationId>,
    /// The row: its seq or its id.
    pub row: String,
    pub found: String,
    pub expected: String,
}

/// One line.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, organization, row, found, expected } = self;
        write!(f, "{table}")?;
        if let Some(organization) = organization {
            write!(f, " {organization}")?;
        }
        write!(f, " {row}: {found}; expected {expected}")
    }
}

/// The most violations that are stored; all are counted.
const VIOLATIONS_MAX: usize = 10_000;

/// The violations found by a check.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first violations, in the order in which they were found.
    pub violations: Vec<Violation>,
    /// How many violations were found.
    pub count: u64,
}

impl Findings {
    pub fn add(&mut self, violation: Violation) {
        self.count += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        }
    }
}

/// Formats an amount. In a corrupt ledger it may be out of the range of `Nano`.
pub fn money(sum: i128) -> String {
    i64::try_from(sum).map_or_else(|_| format!("{sum} nano-units"), |sum| Nano(sum).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_are_counted_and_the_first_ten_thousand_stored() {
        let violation = Violation {
            table: "wallets",
            organization: None,
            row: String::new(),
            found: String::new(),
            expected: String::new(),
        };
        let mut findings = Findings::default();
        (0..=VIOLATIONS_MAX).for_each(|_| findings.add(violation.clone()));
        assert_eq!(
            (findings.violations.len(), findings.count),
            (VIOLATIONS_MAX, VIOLATIONS_MAX as u64 + 1)
        );
    }
}
