//! Price overrides: prices set through the admin API that replace those of the configuration.

use std::sync::Arc;

use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::{PriceRow, PriceSchedule, Tariff};
use crate::domain::time::UnixMs;

/// The prices of a model in one service tier, replacing the configured ones while in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceOverride {
    /// The public name of the model.
    pub model: Arc<str>,
    /// The upstream that the override is limited to. `None` applies to every upstream that has no
    /// override of its own.
    pub upstream: Option<Arc<str>>,
    /// The service tier of all rows.
    pub tier: ServiceTier,
    /// Prices by input size.
    pub rows: Vec<PriceRow>,
    /// Start, inclusive.
    pub from: UnixMs,
    /// End, exclusive; `None` means no end.
    pub until: Option<UnixMs>,
}

impl PriceOverride {
    /// Returns whether the override applies to `model` at `upstream`.
    pub fn applies_to(&self, model: &str, upstream: &str) -> bool {
        let is_upstream = self.upstream.as_deref().is_none_or(|only| only == upstream);
        *self.model == *model && is_upstream
    }

    fn is_in_force(&self, at: UnixMs) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }
}

/// Returns `base` with the overrides applied, all of which must apply to the same target. Each
/// replaces the rows of its tier while it is in force; an override of one upstream wins over one
/// of every upstream. `version` names price rows that differ from the configured ones.
pub fn apply(
    base: &PriceSchedule,
    overrides: &[&PriceOverride],
    version: impl Fn(&[PriceRow]) -> String,
) -> PriceSchedule {
    if overrides.is_empty() {
        return base.clone();
    }
    let mut by_precedence = overrides.to_vec();
    by_precedence.sort_by_key(|price| price.upstream.is_some());
    let changes = overrides.iter().flat_map(|price| [Some(price.from), price.until]).flatten();
    let starts = base.entries().iter().map(|(from, _)| *from).chain(changes);
    let mut starts: Vec<UnixMs> = starts.chain([UnixMs(i64::MIN)]).collect();
    starts.sort_unstable();
    starts.dedup();
    let tariff = |at: UnixMs| {
        let base = base.effective_at(at);
        let mut rows = base.rows().to_vec();
        let mut in_force = by_precedence.iter().filter(|price| price.is_in_force(at)).peekable();
        if in_force.peek().is_none() {
            return (at, Arc::clone(base));
        }
        for price in in_force {
            rows.retain(|row| row.tier != price.tier);
            rows.extend(&price.rows);
        }
        let version = version(&rows).into();
        (at, Tariff::from_rows(rows, version).map_or_else(|| Arc::clone(base), Arc::new))
    };
    PriceSchedule::from_entries(starts.into_iter().map(tariff).collect())
        .unwrap_or_else(|| base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price::PriceTable;
    use crate::domain::usage::{Unit, Usage};

    fn row(tier: &str, above_input_tokens: u64, price: i64) -> PriceRow {
        let tier = ServiceTier::new(tier).expect("short");
        let prices = PriceTable::default().with(Unit::InputTokens, price * 1_000_000).expect("few");
        PriceRow { tier, above_input_tokens, prices }
    }

    fn base() -> PriceSchedule {
        let tariff = |rows: &[PriceRow], version: &str| {
            Arc::new(Tariff::from_rows(rows.to_vec(), version.into()).expect("whole"))
        };
        let old = tariff(&[row("", 0, 1), row("", 10, 2), row("flex", 0, 3)], "old");
        let new = tariff(&[row("", 0, 4), row("flex", 0, 5)], "new");
        PriceSchedule::from_entries(vec![(UnixMs(i64::MIN), old), (UnixMs(50), new)]).expect("two")
    }

    fn price_override(
        upstream: Option<&str>,
        row: &PriceRow,
        from: i64,
        until: Option<i64>,
    ) -> PriceOverride {
        PriceOverride {
            model: "m".into(),
            upstream: upstream.map(Into::into),
            tier: row.tier,
            rows: vec![*row],
            from: UnixMs(from),
            until: until.map(UnixMs),
        }
    }

    fn cost(schedule: &PriceSchedule, at: i64, tier: &str) -> i64 {
        let tier = ServiceTier::new(tier).expect("short");
        schedule.effective_at(UnixMs(at)).cost(&Usage::from_tokens(100, 0), tier).0 / 100
    }

    fn applied(overrides: &[&PriceOverride]) -> PriceSchedule {
        apply(&base(), overrides, |_| "api".to_owned())
    }

    #[test]
    fn an_override_replaces_its_tier_while_it_is_in_force() {
        let price = price_override(None, &row("", 0, 7), 20, Some(60));
        let found = applied(&[&price]);
        for (at, default, flex, version) in [
            (0, 2, 3, "old"),
            (19, 2, 3, "old"),
            (20, 7, 3, "api"),
            (50, 7, 5, "api"),
            (59, 7, 5, "api"),
            (60, 4, 5, "new"),
        ] {
            assert_eq!((cost(&found, at, ""), cost(&found, at, "flex")), (default, flex), "{at}");
            assert_eq!(&**found.effective_at(UnixMs(at)).version(), version, "{at}");
        }
        assert_eq!(applied(&[]), base());
    }

    #[test]
    fn an_override_adds_a_tier_that_is_not_configured() {
        let price = price_override(None, &row("priority", 0, 9), 0, None);
        let found = applied(&[&price]);
        assert_eq!((cost(&found, 0, ""), cost(&found, 0, "priority")), (2, 9));
        assert_eq!(cost(&found, -1, "priority"), 2, "not yet");
    }

    #[test]
    fn an_override_of_one_upstream_wins_over_one_of_every_upstream() {
        let (specific, general) = (
            price_override(Some("a"), &row("", 0, 8), 10, None),
            price_override(None, &row("", 0, 7), 20, None),
        );
        for both in [[&specific, &general], [&general, &specific]] {
            let found = applied(&both);
            assert_eq!((cost(&found, 10, ""), cost(&found, 30, "")), (8, 8));
        }
        assert!(
            specific.applies_to("m", "a")
                && !specific.applies_to("m", "b")
                && !specific.applies_to("n", "a")
        );
        assert!(general.applies_to("m", "b"));
    }
}
