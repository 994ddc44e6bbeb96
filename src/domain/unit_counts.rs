//! Counts of units other than tokens: images, audio, characters and the work of hosted tools.

use crate::domain::usage::{Unit, UnitClass, Usage};

/// The counts of the units that are not tokens: the maximum that a call may use, or what it used.
/// Smaller than a [`Usage`], because every call and every event of a stream carries one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitCounts([u64; UNITS.len()]);

/// The counted units, in table order.
const UNITS: [Unit; counted_units()] = {
    let (mut units, mut count, mut index) = ([Unit::InputTokens; counted_units()], 0, 0);
    while index < Unit::COUNT {
        if is_counted(Unit::ALL[index]) {
            units[count] = Unit::ALL[index];
            count += 1;
        }
        index += 1;
    }
    units
};

/// The index of each unit in [`UNITS`]; out of range for tokens.
const INDICES: [usize; Unit::COUNT] = {
    let (mut indices, mut index) = ([usize::MAX; Unit::COUNT], 0);
    while index < UNITS.len() {
        indices[UNITS[index] as usize] = index;
        index += 1;
    }
    indices
};

const fn is_counted(unit: Unit) -> bool {
    !matches!(unit.class(), UnitClass::Token)
}

const fn counted_units() -> usize {
    let (mut count, mut index) = (0, 0);
    while index < Unit::COUNT {
        if is_counted(Unit::ALL[index]) {
            count += 1;
        }
        index += 1;
    }
    count
}

impl UnitCounts {
    /// Returns `count` of `unit` and nothing else. Panics if `unit` is a token.
    pub const fn of(unit: Unit, count: u64) -> Self {
        Self([0; UNITS.len()]).with(unit, count)
    }

    /// Returns the count of `unit`. Panics if `unit` is a token.
    pub const fn get(&self, unit: Unit) -> u64 {
        self.0[INDICES[unit as usize]]
    }

    /// Returns the counts with `count` of `unit`. Panics if `unit` is a token.
    #[must_use]
    pub const fn with(mut self, unit: Unit, count: u64) -> Self {
        self.0[INDICES[unit as usize]] = count;
        self
    }

    /// Returns the counts of the units that `keep` selects; all others are 0.
    #[must_use]
    pub fn filter(mut self, keep: impl Fn(Unit) -> bool) -> Self {
        for (unit, count) in UNITS.into_iter().zip(&mut self.0) {
            if !keep(unit) {
                *count = 0;
            }
        }
        self
    }

    /// Returns the maximum of both, unit by unit.
    #[must_use]
    pub fn max(mut self, other: Self) -> Self {
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count = other.max(*count);
        }
        self
    }

    /// Returns the sum of both, unit by unit. Code sessions are not added, because all code of a
    /// call runs in one container.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        const SESSIONS: usize = INDICES[Unit::CodeSessions as usize];
        let sessions = self.0[SESSIONS].max(other.0[SESSIONS]);
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count += other;
        }
        self.0[SESSIONS] = sessions;
        self
    }

    /// Returns the counts as usage without tokens.
    pub fn to_usage(&self) -> Usage {
        let counts = UNITS.into_iter().zip(self.0);
        counts.fold(Usage::default(), |usage, (unit, count)| usage.with(unit, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: UnitCounts =
        UnitCounts::of(Unit::WebSearches, 1).with(Unit::Images, 5).with(Unit::CodeSessions, 2);
    const OTHER: UnitCounts = UnitCounts::of(Unit::WebSearches, 6)
        .with(Unit::Images, 2)
        .with(Unit::Characters, 4)
        .with(Unit::CodeSessions, 3);

    fn counts(counts: UnitCounts) -> Vec<(Unit, u64)> {
        UNITS.into_iter().map(|unit| (unit, counts.get(unit))).filter(|(_, n)| 0 < *n).collect()
    }

    #[test]
    fn the_counted_units_are_those_that_are_not_tokens() {
        let expected = Unit::ALL.into_iter().filter(|unit| unit.class() != UnitClass::Token);
        assert!(expected.eq(UNITS));
        for unit in UNITS {
            assert_eq!(counts(UnitCounts::of(unit, 7)), [(unit, 7)]);
        }
    }

    #[test]
    fn counts_become_usage_without_tokens() {
        for of in [ONE, OTHER] {
            assert!(of.to_usage().counts().eq(counts(of)));
        }
    }

    #[test]
    fn the_maximum_is_per_unit() {
        let max = UnitCounts::of(Unit::WebSearches, 6)
            .with(Unit::Images, 5)
            .with(Unit::Characters, 4)
            .with(Unit::CodeSessions, 3);
        assert_eq!((ONE.max(OTHER), OTHER.max(ONE)), (max, max));
    }

    #[test]
    fn counts_are_added_except_that_code_runs_in_one_container() {
        let sum = UnitCounts::of(Unit::WebSearches, 7)
            .with(Unit::Images, 7)
            .with(Unit::Characters, 4)
            .with(Unit::CodeSessions, 3);
        assert_eq!((ONE.plus(OTHER), OTHER.plus(ONE)), (sum, sum));
    }

    #[test]
    fn a_filter_removes_the_other_units() {
        let media = OTHER.filter(|unit| unit.class() == UnitClass::Media);
        assert_eq!(media, UnitCounts::of(Unit::Images, 2).with(Unit::Characters, 4));
    }
}
