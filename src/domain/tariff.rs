//! Tariffs: what a model costs at one place, by service tier and by the size of the input.

use std::sync::Arc;

use crate::domain::money::Nano;
use crate::domain::price::{PriceTable, TokenRates};
use crate::domain::service_tier::ServiceTier;
use crate::domain::time::UnixMs;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, UnitSet, Usage};

/// The prices of one service tier, for calls with more input than so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriceRow {
    /// The tier.
    pub tier: ServiceTier,
    /// More input than this, cached and cache-written tokens included; 0: any.
    pub above_input_tokens: u64,
    /// What each unit costs then: every token of the call, not only those above.
    pub prices: PriceTable,
}

impl PriceRow {
    const fn applies_to(&self, input_tokens: u64) -> bool {
        self.above_input_tokens == 0 || self.above_input_tokens < input_tokens
    }
}

/// What a model costs at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tariff {
    version: Arc<str>,
    /// Tier by tier, the default one first; within a tier by the size of the input.
    rows: Vec<PriceRow>,
}

impl Tariff {
    /// The same prices for every call. `version` names them in every record.
    pub fn flat(prices: PriceTable, version: Arc<str>) -> Self {
        let row = PriceRow { tier: ServiceTier::DEFAULT, above_input_tokens: 0, prices };
        Self { version, rows: vec![row] }
    }

    /// The prices of those rows.
    ///
    /// `None` unless the default tier is among them, every tier has a row for any input, and no two
    /// rows are for the same calls.
    pub fn from_rows(mut rows: Vec<PriceRow>, version: Arc<str>) -> Option<Self> {
        for row in rows.iter_mut().filter(|row| row.tier.is_default()) {
            row.tier = ServiceTier::DEFAULT;
        }
        rows.sort_by_key(|row| (row.tier, row.above_input_tokens));
        let begins = rows.first().is_some_and(|row| row.tier.is_default());
        let starts = |(at, row): (usize, &PriceRow)| {
            let before = at.checked_sub(1).map(|before| rows[before]);
            match before.filter(|before| before.tier == row.tier) {
                Some(before) => before.above_input_tokens < row.above_input_tokens,
                None => row.above_input_tokens == 0,
            }
        };
        (begins && rows.iter().enumerate().all(starts)).then_some(Self { version, rows })
    }

    /// Names these prices.
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Tier by tier, the default one first; within a tier by the size of the input.
    pub fn rows(&self) -> &[PriceRow] {
        &self.rows
    }

    /// The prices of a call with so much input. A tier without prices of its own costs what the
    /// first of its [parts](ServiceTier::parts) does that has some: in a place, what it costs
    /// anywhere, else what the place does. One without any costs what the default one does.
    pub fn prices(&self, tier: ServiceTier, input_tokens: u64) -> &PriceTable {
        let of = |tier| {
            let holds = |row: &&PriceRow| row.tier == tier && row.applies_to(input_tokens);
            self.rows.iter().rfind(holds)
        };
        let named = tier.fallback_order().into_iter().find_map(of);
        &named.or_else(|| of(ServiceTier::DEFAULT)).unwrap_or(&self.rows[0]).prices
    }

    /// The cost of `usage`, answered by that tier. See [`Prices::cost`].
    pub fn cost(&self, usage: &Usage, tier: ServiceTier) -> Nano {
        self.prices(tier, usage.input_tokens()).cost(usage)
    }

    /// Something of `pieces` that one of the rows has no price for.
    pub fn first_unpriced(&self, counts: &UnitCounts) -> Option<Unit> {
        let usage = counts.to_usage();
        self.rows.iter().find_map(|row| row.prices.first_unpriced(&usage))
    }

    /// The prices that a call can come to that has at most so much input, and asked for those tiers:
    /// the provider may serve it by the default one all the same, or by a part of it.
    fn reachable_prices(
        &self,
        requested: [ServiceTier; 3],
        input_tokens: u64,
    ) -> impl Iterator<Item = &PriceTable> {
        let can = move |row: &&PriceRow| {
            let is_asked = row.tier.is_default() || requested.contains(&row.tier);
            is_asked && row.applies_to(input_tokens)
        };
        self.rows.iter().filter(can).map(|row| &row.prices)
    }
}

/// The tariffs of one place, each from some time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceSchedule(Vec<(UnixMs, Arc<Tariff>)>);

impl PriceSchedule {
    /// One tariff, at all times.
    pub fn always(tariff: Tariff) -> Self {
        Self(vec![(UnixMs(i64::MIN), Arc::new(tariff))])
    }

    /// Each from its time on; before the first, that. `None` of none.
    pub fn from_entries(mut tariffs: Vec<(UnixMs, Arc<Tariff>)>) -> Option<Self> {
        tariffs.sort_by_key(|(from, _)| *from);
        (!tariffs.is_empty()).then_some(Self(tariffs))
    }

    /// The tariff in force.
    pub fn effective_at(&self, now: UnixMs) -> &Arc<Tariff> {
        let begun = self.0.iter().rfind(|(from, _)| *from <= now);
        &begun.unwrap_or(&self.0[0]).1
    }

    /// All of them, each with the time from which it holds, in order.
    pub fn entries(&self) -> &[(UnixMs, Arc<Tariff>)] {
        &self.0
    }

    /// All of them, by their time.
    pub fn tariffs(&self) -> impl Iterator<Item = &Arc<Tariff>> {
        self.0.iter().map(|(_, tariff)| tariff)
    }
}

/// What a call may cost, wherever it is served: what its hold is priced by.
#[derive(Debug, Clone)]
pub struct HoldPricing {
    tariffs: Vec<Arc<Tariff>>,
    /// With what it is made of.
    requested_tiers: [ServiceTier; 3],
}

impl HoldPricing {
    /// The tariffs of all places that could serve it, and the tier that it asks for.
    pub fn new(tariffs: Vec<Arc<Tariff>>, requested_tier: ServiceTier) -> Self {
        Self { tariffs, requested_tiers: requested_tier.fallback_order() }
    }

    /// The tier that it asks for.
    pub const fn requested_tier(&self) -> ServiceTier {
        self.requested_tiers[0]
    }

    /// The tariff of the first place.
    pub fn first(&self) -> &Arc<Tariff> {
        &self.tariffs[0]
    }

    /// The most that a token can cost that is one of `units`, with at most so much input.
    pub fn max_rates(&self, input_tokens: u64, units: UnitSet) -> TokenRates {
        let is_any = units == UnitSet::ALL;
        self.max_over_reachable(input_tokens, |prices| {
            if is_any { prices.max_rates() } else { prices.max_rates_for(units) }
        })
    }

    /// What a token costs that is of no special kind, with as little input as can be.
    pub fn text_rates(&self) -> TokenRates {
        self.max_over_reachable(1, PriceTable::text_rates)
    }

    /// The most that `pieces` can cost, with at most so much input.
    pub fn max_cost_of_units(&self, input_tokens: u64, counts: &UnitCounts) -> Nano {
        if *counts == UnitCounts::default() {
            return Nano::ZERO;
        }
        let usage = counts.to_usage();
        let costs = self.reachable_prices(input_tokens).map(|prices| prices.cost(&usage));
        costs.max().unwrap_or_default()
    }

    fn max_over_reachable(
        &self,
        input_tokens: u64,
        rates: impl Fn(&PriceTable) -> TokenRates,
    ) -> TokenRates {
        self.reachable_prices(input_tokens).map(rates).fold(TokenRates::default(), TokenRates::max)
    }

    fn reachable_prices(&self, input_tokens: u64) -> impl Iterator<Item = &PriceTable> {
        self.tariffs
            .iter()
            .flat_map(move |tariff| tariff.reachable_prices(self.requested_tiers, input_tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(input: i64, output: i64) -> PriceTable {
        let prices = PriceTable::default().with(Unit::InputTokens, input * 1_000_000);
        prices.and_then(|prices| prices.with(Unit::OutputTokens, output * 1_000_000)).expect("few")
    }

    fn tier(name: &str) -> ServiceTier {
        ServiceTier::new(name).expect("short")
    }

    fn row(name: &str, above_input_tokens: u64, input: i64, output: i64) -> PriceRow {
        PriceRow { tier: tier(name), above_input_tokens, prices: prices(input, output) }
    }

    fn stepped() -> Tariff {
        let rows = vec![
            row("priority", 0, 20, 200),
            row("default", 100, 2, 15),
            row("default", 0, 1, 10),
            row("priority", 100, 40, 300),
            row("flex", 0, 0, 5),
        ];
        Tariff::from_rows(rows, "v".into()).expect("whole")
    }

    #[test]
    fn the_row_of_the_whole_input_is_the_price_of_every_token() {
        let cost =
            |input, output, name| stepped().cost(&Usage::from_tokens(input, output), tier(name)).0;
        assert_eq!(cost(100, 1, "default"), 100 + 10, "not above");
        assert_eq!(cost(101, 1, "standard"), 202 + 15);
        assert_eq!(cost(101, 1, "priority"), 4_040 + 300);
        assert_eq!(cost(101, 1, "flex"), 5, "one row for any input");
        assert_eq!(cost(101, 1, "unheard-of"), 202 + 15, "as the default one");
        assert_eq!(cost(0, 0, ""), 0);
    }

    #[test]
    fn a_tier_in_a_place_costs_what_either_does_where_nobody_prices_both() {
        let rows = [row("", 0, 10, 0), row("us", 0, 11, 0), row("fast", 0, 20, 0)];
        let both = row("fast-us", 0, 22, 0);
        let of = |rows: &[PriceRow]| {
            Arc::new(Tariff::from_rows(rows.to_vec(), "v".into()).expect("whole"))
        };
        let all = of(&[rows[0], rows[1], rows[2], both]);
        for (tariff, name, each) in [
            (&all, "fast-us", 22),
            (&all, "fast", 20),
            (&all, "us", 11),
            (&all, "fast-eu", 20),
            (&of(&rows), "fast-us", 20),
            (&of(&rows[..2]), "fast-us", 11),
            (&of(&rows[..1]), "fast-us", 10),
        ] {
            let usage = Usage::from_tokens(1, 0);
            assert_eq!(tariff.cost(&usage, tier(name)), Nano(each), "{name}");
            let held =
                HoldPricing::new(vec![Arc::clone(tariff)], tier(name)).max_rates(1, UnitSet::ALL);
            assert_eq!(held.max_cost(1, 0), Nano(each), "{name}");
        }
    }

    #[test]
    fn a_tariff_has_a_row_for_every_call_and_no_two_for_one() {
        let of = |rows: &[PriceRow]| Tariff::from_rows(rows.to_vec(), "v".into()).is_some();
        assert!(of(&[row("", 0, 1, 1)]));
        assert!(!of(&[]));
        assert!(!of(&[row("flex", 0, 1, 1)]), "no default");
        assert!(!of(&[row("", 5, 1, 1)]), "nothing for little input");
        assert!(!of(&[row("", 0, 1, 1), row("flex", 5, 1, 1)]));
        assert!(!of(&[row("", 0, 1, 1), row("", 0, 1, 1)]));
        assert!(!of(&[row("", 0, 1, 1), row("", 5, 1, 1), row("", 5, 1, 1)]));
    }

    #[test]
    fn a_hold_is_priced_at_the_dearest_row_that_the_call_can_come_to() {
        let costs = |asked: &str| HoldPricing::new(vec![Arc::new(stepped())], tier(asked));
        let most =
            |asked: &str, input| costs(asked).max_rates(input, UnitSet::ALL).max_cost(input, 1).0;
        assert_eq!(most("", 100), 110);
        assert_eq!(most("", 101), 202 + 15);
        assert_eq!(most("flex", 100), 110, "the provider may serve it by the default tier");
        assert_eq!(most("priority", 101), 4_040 + 300);
        let elsewhere = Tariff::flat(prices(3, 1), "w".into());
        let both =
            HoldPricing::new(vec![Arc::new(stepped()), Arc::new(elsewhere)], ServiceTier::DEFAULT);
        assert_eq!(both.max_rates(10, UnitSet::ALL).max_cost(10, 1), Nano(30 + 10));
        assert_eq!(both.text_rates().max_cost(1_000, 1), Nano(3_000 + 10));
        let input = UnitSet::default().with(Unit::InputTokens);
        assert_eq!(both.max_rates(101, input).max_cost(1, 1), Nano(3));
    }

    #[test]
    fn pieces_are_held_at_the_dearest_of_their_prices() {
        let with = |nano| prices(1, 1).with(Unit::WebSearches, nano).expect("in range");
        let tariff = |nano| Arc::new(Tariff::flat(with(nano), "v".into()));
        let costs = HoldPricing::new(vec![tariff(7), tariff(9)], ServiceTier::DEFAULT);
        let pieces = UnitCounts::of(Unit::WebSearches, 3);
        assert_eq!(costs.max_cost_of_units(1, &pieces), Nano(27));
        assert_eq!(costs.max_cost_of_units(1, &UnitCounts::default()), Nano::ZERO);
        assert_eq!(tariff(7).first_unpriced(&pieces), None);
        let images = pieces.with(Unit::Images, 1);
        assert_eq!(tariff(7).first_unpriced(&images), Some(Unit::Images));
    }

    #[test]
    fn a_tariff_is_in_force_from_its_time_until_the_next() {
        let tariff = |name: &str| Arc::new(Tariff::flat(prices(1, 1), name.into()));
        let list = vec![(UnixMs(20), tariff("b")), (UnixMs(10), tariff("a"))];
        let schedule = PriceSchedule::from_entries(list).expect("two");
        for (now, version) in [(0, "a"), (10, "a"), (19, "a"), (20, "b"), (99, "b")] {
            assert_eq!(&**schedule.effective_at(UnixMs(now)).version(), version, "{now}");
        }
        assert_eq!(schedule.tariffs().count(), 2);
        assert!(PriceSchedule::from_entries(Vec::new()).is_none());
        let always = PriceSchedule::always(stepped());
        assert_eq!(&**always.effective_at(UnixMs(-5)).version(), "v");
        assert_eq!(stepped().rows().len(), 5);
    }
}
