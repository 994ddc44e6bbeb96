//! Tariffs: the prices of a model at one upstream, by service tier, input size and date.

use std::sync::Arc;

use crate::domain::money::Nano;
use crate::domain::price::{PriceTable, TokenRates};
use crate::domain::service_tier::ServiceTier;
use crate::domain::time::UnixMs;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, UnitSet, Usage};

/// The prices of one service tier for calls above an input size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriceRow {
    pub tier: ServiceTier,
    /// The row applies to calls with more input tokens than this, cached and cache-written tokens
    /// included. 0 applies to every call.
    pub above_input_tokens: u64,
    /// The prices of all tokens of the call, not only of those above the threshold.
    pub prices: PriceTable,
}

impl PriceRow {
    const fn applies_to(&self, input_tokens: u64) -> bool {
        self.above_input_tokens == 0 || self.above_input_tokens < input_tokens
    }
}

/// The prices of a model at one upstream, valid at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tariff {
    version: Arc<str>,
    /// Sorted by tier, the default tier first, then by input size.
    rows: Vec<PriceRow>,
}

impl Tariff {
    /// Returns a tariff with the same prices for every call. `version` names the prices in records.
    pub fn flat(prices: PriceTable, version: Arc<str>) -> Self {
        let row = PriceRow { tier: ServiceTier::DEFAULT, above_input_tokens: 0, prices };
        Self { version, rows: vec![row] }
    }

    /// Returns a tariff with those rows.
    ///
    /// `None` unless the default tier has a row, every tier has a row for any input size, and no
    /// two rows have the same tier and size.
    pub fn from_rows(mut rows: Vec<PriceRow>, version: Arc<str>) -> Option<Self> {
        for row in rows.iter_mut().filter(|row| row.tier.is_default()) {
            row.tier = ServiceTier::DEFAULT;
        }
        rows.sort_by_key(|row| (row.tier, row.above_input_tokens));
        let has_default = rows.first().is_some_and(|row| row.tier.is_default());
        let is_in_order = |(at, row): (usize, &PriceRow)| {
            let previous = at.checked_sub(1).map(|previous| rows[previous]);
            match previous.filter(|previous| previous.tier == row.tier) {
                Some(previous) => previous.above_input_tokens < row.above_input_tokens,
                None => row.above_input_tokens == 0,
            }
        };
        (has_default && rows.iter().enumerate().all(is_in_order)).then_some(Self { version, rows })
    }

    /// Returns the name of these prices in records.
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Returns the rows, sorted by tier with the default tier first, then by input size.
    pub fn rows(&self) -> &[PriceRow] {
        &self.rows
    }

    /// Returns the prices of a call by its service tier and number of input tokens. A tier without
    /// prices has those of the first tier of its [fallback order](ServiceTier::fallback_order) that
    /// has some, else those of the default tier.
    pub fn prices(&self, tier: ServiceTier, input_tokens: u64) -> &PriceTable {
        let row_of = |tier| {
            let applies = |row: &&PriceRow| row.tier == tier && row.applies_to(input_tokens);
            self.rows.iter().rfind(applies)
        };
        let found = tier.fallback_order().into_iter().find_map(row_of);
        &found.or_else(|| row_of(ServiceTier::DEFAULT)).unwrap_or(&self.rows[0]).prices
    }

    /// Returns the cost of `usage` at the prices of that tier. See [`PriceTable::cost`].
    pub fn cost(&self, usage: &Usage, tier: ServiceTier) -> Nano {
        self.prices(tier, usage.input_tokens()).cost(usage)
    }

    /// Returns a unit of `counts` that at least one row has no price for.
    pub fn first_unpriced(&self, counts: &UnitCounts) -> Option<Unit> {
        let usage = counts.to_usage();
        self.rows.iter().find_map(|row| row.prices.first_unpriced(&usage))
    }

    /// Returns the prices that can apply to a call with at most that much input and those requested
    /// tiers. The default tier is included, because the provider may use it instead.
    fn reachable_prices(
        &self,
        requested: [ServiceTier; 3],
        input_tokens: u64,
    ) -> impl Iterator<Item = &PriceTable> {
        let is_reachable = move |row: &&PriceRow| {
            let is_possible_tier = row.tier.is_default() || requested.contains(&row.tier);
            is_possible_tier && row.applies_to(input_tokens)
        };
        self.rows.iter().filter(is_reachable).map(|row| &row.prices)
    }
}

/// The tariffs of a model at one upstream, each with its start time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceSchedule(Vec<(UnixMs, Arc<Tariff>)>);

impl PriceSchedule {
    /// Returns a schedule with one tariff for all times.
    pub fn always(tariff: Tariff) -> Self {
        Self(vec![(UnixMs(i64::MIN), Arc::new(tariff))])
    }

    /// Returns a schedule of tariffs by start time. The first one also applies before its start.
    /// `None` if there are no tariffs.
    pub fn from_entries(mut tariffs: Vec<(UnixMs, Arc<Tariff>)>) -> Option<Self> {
        tariffs.sort_by_key(|(from, _)| *from);
        (!tariffs.is_empty()).then_some(Self(tariffs))
    }

    /// Returns the tariff in force at `now`.
    pub fn effective_at(&self, now: UnixMs) -> &Arc<Tariff> {
        let started = self.0.iter().rfind(|(from, _)| *from <= now);
        &started.unwrap_or(&self.0[0]).1
    }

    /// Returns all tariffs with their start times, in order.
    pub fn entries(&self) -> &[(UnixMs, Arc<Tariff>)] {
        &self.0
    }

    /// Returns all tariffs, in order of their start times.
    pub fn tariffs(&self) -> impl Iterator<Item = &Arc<Tariff>> {
        self.0.iter().map(|(_, tariff)| tariff)
    }
}

/// The prices of a call's hold: the maximum over all upstreams that may serve the call.
#[derive(Debug, Clone)]
pub struct HoldPricing {
    tariffs: Vec<Arc<Tariff>>,
    /// The requested tier and its components.
    requested_tiers: [ServiceTier; 3],
}

impl HoldPricing {
    /// Combines the tariffs of all upstreams that may serve the call and the requested tier.
    pub fn new(tariffs: Vec<Arc<Tariff>>, requested_tier: ServiceTier) -> Self {
        Self { tariffs, requested_tiers: requested_tier.fallback_order() }
    }

    pub const fn requested_tier(&self) -> ServiceTier {
        self.requested_tiers[0]
    }

    /// Returns the tariff of the first upstream.
    pub fn first(&self) -> &Arc<Tariff> {
        &self.tariffs[0]
    }

    /// Returns the maximum price of a token of `units`, for a call with at most that much input.
    pub fn max_rates(&self, input_tokens: u64, units: UnitSet) -> TokenRates {
        let is_any = units == UnitSet::ALL;
        self.max_over_reachable(input_tokens, |prices| {
            if is_any { prices.max_rates() } else { prices.max_rates_for(units) }
        })
    }

    /// Returns the price of plain text tokens, for a call with minimal input.
    pub fn text_rates(&self) -> TokenRates {
        self.max_over_reachable(1, PriceTable::text_rates)
    }

    /// Returns the maximum cost of `counts`, for a call with at most that much input.
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
    fn the_row_selected_by_input_size_prices_every_token() {
        let cost =
            |input, output, name| stepped().cost(&Usage::from_tokens(input, output), tier(name)).0;
        assert_eq!(cost(100, 1, "default"), 100 + 10, "not above");
        assert_eq!(cost(101, 1, "standard"), 202 + 15);
        assert_eq!(cost(101, 1, "priority"), 4_040 + 300);
        assert_eq!(cost(101, 1, "flex"), 5, "one row for any input");
        assert_eq!(cost(101, 1, "unknown"), 202 + 15, "as the default tier");
        assert_eq!(cost(0, 0, ""), 0);
    }

    #[test]
    fn a_regional_tier_without_a_price_falls_back_to_its_components() {
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
    fn a_tariff_has_exactly_one_row_for_every_call() {
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
    fn a_hold_is_priced_at_the_highest_price_that_can_apply() {
        let pricing =
            |tier_name: &str| HoldPricing::new(vec![Arc::new(stepped())], tier(tier_name));
        let hold = |tier_name: &str, input| {
            pricing(tier_name).max_rates(input, UnitSet::ALL).max_cost(input, 1).0
        };
        assert_eq!(hold("", 100), 110);
        assert_eq!(hold("", 101), 202 + 15);
        assert_eq!(hold("flex", 100), 110, "the provider may serve it by the default tier");
        assert_eq!(hold("priority", 101), 4_040 + 300);
        let elsewhere = Tariff::flat(prices(3, 1), "w".into());
        let both =
            HoldPricing::new(vec![Arc::new(stepped()), Arc::new(elsewhere)], ServiceTier::DEFAULT);
        assert_eq!(both.max_rates(10, UnitSet::ALL).max_cost(10, 1), Nano(30 + 10));
        assert_eq!(both.text_rates().max_cost(1_000, 1), Nano(3_000 + 10));
        let input = UnitSet::default().with(Unit::InputTokens);
        assert_eq!(both.max_rates(101, input).max_cost(1, 1), Nano(3));
    }

    #[test]
    fn items_are_held_at_the_highest_price() {
        let with = |nano| prices(1, 1).with(Unit::WebSearches, nano).expect("in range");
        let tariff = |nano| Arc::new(Tariff::flat(with(nano), "v".into()));
        let pricing = HoldPricing::new(vec![tariff(7), tariff(9)], ServiceTier::DEFAULT);
        let counts = UnitCounts::of(Unit::WebSearches, 3);
        assert_eq!(pricing.max_cost_of_units(1, &counts), Nano(27));
        assert_eq!(pricing.max_cost_of_units(1, &UnitCounts::default()), Nano::ZERO);
        assert_eq!(tariff(7).first_unpriced(&counts), None);
        let images = counts.with(Unit::Images, 1);
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
