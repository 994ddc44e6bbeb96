//! The overlay: prices that the admin API lays over those of the file, until they end.

use std::sync::Arc;

use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::{PriceRow, PriceSchedule, Tariff};
use crate::domain::time::UnixMs;

/// What a model costs in one service tier, whatever the file says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceOverride {
    /// The public name of the model.
    pub model: Arc<str>,
    /// The one place where it costs that; `None`: every place without a price of its own.
    pub upstream: Option<Arc<str>>,
    /// The tier of all its rows.
    pub tier: ServiceTier,
    /// By the size of the input.
    pub rows: Vec<PriceRow>,
    /// From then on.
    pub from: UnixMs,
    /// Until, and without, then; `None`: for good.
    pub until: Option<UnixMs>,
}

impl PriceOverride {
    /// Whether it is about that model at that place.
    pub fn applies_to(&self, model: &str, upstream: &str) -> bool {
        let here = self.upstream.as_deref().is_none_or(|known| known == upstream);
        *self.model == *model && here
    }

    fn is_in_force(&self, at: UnixMs) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }
}

/// What a place costs by `base` and those prices, all of them about it. Each replaces the rows of
/// its tier while it is in force; that of this place alone before that of every place. `version`
/// names rows that stand in no file.
pub fn apply(
    base: &PriceSchedule,
    overrides: &[&PriceOverride],
    version: impl Fn(&[PriceRow]) -> String,
) -> PriceSchedule {
    if overrides.is_empty() {
        return base.clone();
    }
    let mut order = overrides.to_vec();
    order.sort_by_key(|price| price.upstream.is_some());
    let ends = overrides.iter().flat_map(|price| [Some(price.from), price.until]).flatten();
    let turns = base.entries().iter().map(|(from, _)| *from).chain(ends);
    let mut turns: Vec<UnixMs> = turns.chain([UnixMs(i64::MIN)]).collect();
    turns.sort_unstable();
    turns.dedup();
    let tariff = |at: UnixMs| {
        let base = base.effective_at(at);
        let mut rows = base.rows().to_vec();
        let mut in_force = order.iter().filter(|price| price.is_in_force(at)).peekable();
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
    PriceSchedule::from_entries(turns.into_iter().map(tariff).collect())
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

    fn laid(
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

    fn under(laid: &[&PriceOverride]) -> PriceSchedule {
        apply(&base(), laid, |_| "api".to_owned())
    }

    #[test]
    fn a_price_replaces_its_tier_from_its_time_until_its_end() {
        let price = laid(None, &row("", 0, 7), 20, Some(60));
        let found = under(&[&price]);
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
        assert_eq!(under(&[]), base());
    }

    #[test]
    fn a_tier_that_the_file_does_not_know_is_added() {
        let price = laid(None, &row("priority", 0, 9), 0, None);
        let found = under(&[&price]);
        assert_eq!((cost(&found, 0, ""), cost(&found, 0, "priority")), (2, 9));
        assert_eq!(cost(&found, -1, "priority"), 2, "not yet");
    }

    #[test]
    fn a_price_of_one_place_comes_before_that_of_every_place() {
        let (own, any) =
            (laid(Some("a"), &row("", 0, 8), 10, None), laid(None, &row("", 0, 7), 20, None));
        for both in [[&own, &any], [&any, &own]] {
            let found = under(&both);
            assert_eq!((cost(&found, 10, ""), cost(&found, 30, "")), (8, 8));
        }
        assert!(own.applies_to("m", "a") && !own.applies_to("m", "b") && !own.applies_to("n", "a"));
        assert!(any.applies_to("m", "b"));
    }
}
