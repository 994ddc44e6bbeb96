//! Estimates the usage of a call: the maximum it may use and the minimum it can work with.

use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::price::TokenRates;
use crate::domain::settlement::Bound;
use crate::domain::tariff::HoldPricing;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::UnitSet;

/// Tokens and money that a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    bound: Bound,
    /// What is priced by the piece.
    item_units_max: UnitCounts,
    /// What a token may be.
    possible_units: UnitSet,
    /// The most that a token costs, with all the input that the bound allows.
    rates: TokenRates,
    /// The most that the pieces cost then.
    item_cost: Nano,
    choices: u64,
    /// The output it could do with, over all choices; all of it where it may not be bounded.
    output_min: u64,
    precision: Precision,
}

/// The precision of an estimate. Each level is more expensive to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    /// One token per byte, at the highest rates.
    Bytes,
    /// The input token cache was queried.
    CacheChecked,
    /// Rates cover only the units that the body can use.
    Priced,
    /// Input tokens are counted or taken from the cache.
    Tokenized,
}

impl Estimate {
    /// Estimates a call that may use up to `bound`. `floor` is the minimum output per choice, if
    /// the gateway may lower the output.
    pub fn new(
        bound: Bound,
        item_units_max: UnitCounts,
        pricing: &HoldPricing,
        choices: u64,
        floor: Option<u64>,
    ) -> Self {
        let floor_total = floor.map_or(bound.output_tokens, |floor| floor.saturating_mul(choices));
        let output_min = floor_total.min(bound.output_tokens);
        let (possible_units, precision) = (UnitSet::ALL, Precision::Bytes);
        let (rates, item_cost) = (TokenRates::default(), Nano::ZERO);
        Self {
            bound,
            item_units_max,
            possible_units,
            rates,
            item_cost,
            choices,
            output_min,
            precision,
        }
        .with_prices(pricing)
    }

    /// The same at the prices for its input.
    fn with_prices(self, pricing: &HoldPricing) -> Self {
        let input = self.bound.input_tokens;
        let rates = pricing.max_rates(input, self.possible_units);
        Self { rates, item_cost: pricing.max_cost_of_units(input, &self.item_units_max), ..self }
    }

    pub fn is_cache_checked(&self) -> bool {
        Precision::CacheChecked <= self.precision
    }

    pub fn is_priced(&self) -> bool {
        Precision::Priced <= self.precision
    }

    pub fn is_tokenized(&self) -> bool {
        self.precision == Precision::Tokenized
    }

    pub fn mark_cache_checked(&mut self) {
        self.precision = self.precision.max(Precision::CacheChecked);
    }

    /// Restricts the rates to `possible_units`. `can_clamp` is false if the output cannot be lowered.
    pub fn restrict_units(
        &mut self,
        pricing: &HoldPricing,
        possible_units: UnitSet,
        can_clamp: bool,
    ) {
        if !can_clamp {
            self.output_min = self.bound.output_tokens;
        }
        self.precision = self.precision.max(Precision::Priced);
        *self = Self { possible_units, ..*self }.with_prices(pricing);
    }

    /// Sets the input to the count that the provider reported for an identical body.
    pub fn set_input_tokens(&mut self, pricing: &HoldPricing, input_tokens: u64) {
        self.bound.input_tokens = input_tokens;
        *self = self.with_prices(pricing);
    }

    /// Lowers the input bound to the counted tokens.
    pub fn cap_input_tokens(&mut self, pricing: &HoldPricing, input_tokens: u64) {
        self.precision = Precision::Tokenized;
        self.set_input_tokens(pricing, self.bound.input_tokens.min(input_tokens));
    }

    /// The maximum usage.
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// The minimum usage: the input and the lowest possible output bound.
    pub const fn minimum(&self) -> Bound {
        Bound { output_tokens: self.output_min, ..self.bound }
    }

    /// Returns amounts that the call exceeds whatever its input tokens are. If these do not fit, the
    /// input need not be tokenized.
    pub fn lower_bound(&self, pricing: &HoldPricing) -> Amounts {
        let input_tokens = self.bound.input_tokens.min(1);
        let bound = Bound { input_tokens, output_tokens: self.output_min };
        let (rates, item_cost) =
            (pricing.text_rates(), pricing.max_cost_of_units(input_tokens, &self.item_units_max));
        Self { rates, item_cost, ..*self }.amounts(bound)
    }

    /// Returns the largest bound within these shares, but at least the minimum; the output is divisible
    /// by the number of choices.
    pub fn fit_within(&self, tokens: Option<i64>, spend: Nano) -> Bound {
        let input = self.bound.input_tokens;
        let by_tokens = tokens.map_or(u64::MAX, |tokens| {
            u64::try_from(tokens).unwrap_or_default().saturating_sub(input)
        });
        let spend = Nano(spend.0.saturating_sub(self.item_cost.0));
        let output_max = self
            .rates
            .output_tokens_within(input, spend)
            .min(by_tokens)
            .min(self.bound.output_tokens);
        let per_choice = output_max / self.choices.max(1) * self.choices.max(1);
        Bound { output_tokens: per_choice.max(self.output_min), ..self.bound }
    }

    /// Returns the amounts of every measure for `bound`.
    pub fn amounts(&self, bound: Bound) -> Amounts {
        let tokens = i64::try_from(bound.tokens()).unwrap_or(i64::MAX / 4);
        let spend = self.rates.max_cost(bound.input_tokens, bound.output_tokens);
        Amounts { requests: 1, tokens, spend: Nano(spend.0 + self.item_cost.0) }
    }

    pub fn output_per_choice(&self, bound: Bound) -> u64 {
        bound.output_tokens / self.choices.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::price::PriceTable;
    use crate::domain::service_tier::ServiceTier;
    use crate::domain::tariff::{PriceRow, Tariff};
    use crate::domain::usage::Unit;

    const BOUND: Bound = Bound { input_tokens: 100, output_tokens: 2_000 };

    /// At these nano-units a token, of input and of output.
    fn pricing_at(input: i64, output: i64) -> HoldPricing {
        let prices = PriceTable::default().with(Unit::InputTokens, input * 1_000_000);
        let prices = prices.and_then(|prices| prices.with(Unit::OutputTokens, output * 1_000_000));
        let prices = prices.and_then(|prices| prices.with(Unit::WebSearches, 1_000));
        let tariff = Tariff::flat(prices.expect("in range"), "v".into());
        HoldPricing::new(vec![Arc::new(tariff)], ServiceTier::DEFAULT)
    }

    fn default_pricing() -> HoldPricing {
        pricing_at(1, 2)
    }

    fn new_estimate(bound: Bound, choices: u64, floor: Option<u64>) -> Estimate {
        Estimate::new(bound, UnitCounts::default(), &default_pricing(), choices, floor)
    }

    #[test]
    fn a_share_is_divided_among_the_choices() {
        let estimate = new_estimate(BOUND, 2, Some(256));
        let output = |tokens, spend| estimate.fit_within(tokens, Nano(spend)).output_tokens;
        assert_eq!(output(Some(1_001), 1_000_000), 900, "901 of two choices");
        assert_eq!(output(None, 100 + 2 * 701), 700);
        assert_eq!(output(Some(0), 0), 512, "never below the floor");
        assert_eq!(output(None, 1_000_000), 2_000, "never above what it asked for");
    }

    #[test]
    fn a_bound_set_by_the_client_is_the_minimum() {
        let mut estimate = new_estimate(BOUND, 1, None);
        assert_eq!(estimate.minimum(), estimate.bound());
        estimate.cap_input_tokens(&default_pricing(), 30);
        assert_eq!(estimate.minimum(), Bound { input_tokens: 30, output_tokens: 2_000 });
        estimate.cap_input_tokens(&default_pricing(), 50);
        assert_eq!(estimate.bound().input_tokens, 30, "counting never loosens a bound");
        assert_eq!(estimate.amounts(estimate.bound()).spend, Nano(30 + 4_000));
        let small = Bound { output_tokens: 10, ..BOUND };
        assert_eq!(new_estimate(small, 1, Some(256)).lower_bound(&default_pricing()).tokens, 11);
    }

    #[test]
    fn precision_never_decreases() {
        let mut estimate = new_estimate(BOUND, 1, None);
        let flags = |estimate: &Estimate| {
            [estimate.is_cache_checked(), estimate.is_priced(), estimate.is_tokenized()]
        };
        assert_eq!(flags(&estimate), [false, false, false]);
        estimate.mark_cache_checked();
        assert_eq!(flags(&estimate), [true, false, false]);
        estimate.restrict_units(&default_pricing(), UnitSet::ALL, true);
        assert_eq!(flags(&estimate), [true, true, false]);
        estimate.cap_input_tokens(&default_pricing(), 7);
        estimate.mark_cache_checked();
        assert_eq!(flags(&estimate), [true, true, true]);
    }

    #[test]
    fn a_cached_token_count_replaces_the_bound_in_either_direction() {
        let mut estimate = new_estimate(BOUND, 1, None);
        for cached in [7, 700] {
            estimate.set_input_tokens(&default_pricing(), cached);
            assert_eq!(estimate.bound(), Bound { input_tokens: cached, ..BOUND });
        }
    }

    #[test]
    fn the_minimum_is_the_floor_per_choice_unless_output_cannot_be_clamped() {
        let mut estimate = new_estimate(BOUND, 2, Some(256));
        assert_eq!(estimate.minimum(), Bound { output_tokens: 512, ..BOUND });
        assert_eq!(estimate.output_per_choice(estimate.minimum()), 256);
        let cheap = pricing_at(0, 1);
        let lower_bound = estimate.lower_bound(&cheap);
        assert_eq!(
            (lower_bound.requests, lower_bound.tokens, lower_bound.spend),
            (1, 513, Nano(512))
        );
        estimate.restrict_units(&cheap, UnitSet::ALL, true);
        assert_eq!(estimate.amounts(estimate.bound()).spend, Nano(2_000), "at the new rates");
        estimate.restrict_units(&default_pricing(), UnitSet::ALL, false);
        assert_eq!(estimate.minimum(), BOUND);
        let boundless = Bound { input_tokens: 0, output_tokens: u64::MAX };
        assert_eq!(estimate.amounts(boundless).tokens, i64::MAX / 4);
    }

    #[test]
    fn item_costs_are_held_in_addition_to_token_costs() {
        let item_units_max = UnitCounts::of(Unit::WebSearches, 2);
        let estimate = Estimate::new(BOUND, item_units_max, &default_pricing(), 1, Some(256));
        assert_eq!(estimate.amounts(estimate.bound()).spend, Nano(100 + 4_000 + 2_000));
        assert_eq!(estimate.lower_bound(&default_pricing()).spend, Nano(1 + 512 + 2_000));
        assert_eq!(estimate.fit_within(None, Nano(100 + 1_000 + 2_000)).output_tokens, 500);
        assert_eq!(estimate.fit_within(None, Nano(1_999)).output_tokens, 256);
    }

    #[test]
    fn the_lower_bound_uses_item_prices_for_small_inputs() {
        let row = |above_input_tokens, nano| PriceRow {
            tier: ServiceTier::DEFAULT,
            above_input_tokens,
            prices: PriceTable::default().with(Unit::WebSearches, nano).expect("in range"),
        };
        let tariff =
            Tariff::from_rows(vec![row(0, 1_000), row(50, 9_000)], "v".into()).expect("whole");
        let pricing = HoldPricing::new(vec![Arc::new(tariff)], ServiceTier::DEFAULT);
        let item_units_max = UnitCounts::of(Unit::WebSearches, 2);
        let estimate = Estimate::new(BOUND, item_units_max, &pricing, 1, None);
        assert_eq!(estimate.amounts(estimate.bound()).spend, Nano(18_000));
        assert_eq!(estimate.lower_bound(&pricing).spend, Nano(2_000));
    }

    #[test]
    fn fewer_input_tokens_may_reach_a_lower_price() {
        let row = |above_input_tokens, nano| PriceRow {
            tier: ServiceTier::DEFAULT,
            above_input_tokens,
            prices: PriceTable::default()
                .with(Unit::InputTokens, nano)
                .and_then(|prices| prices.with(Unit::CachedInputTokens, 2 * nano))
                .expect("in range"),
        };
        let rows = vec![row(0, 1_000_000), row(50, 5_000_000)];
        let tariff = Tariff::from_rows(rows, "v".into()).expect("whole");
        let pricing = HoldPricing::new(vec![Arc::new(tariff)], ServiceTier::DEFAULT);
        let mut estimate = Estimate::new(BOUND, UnitCounts::default(), &pricing, 1, None);
        let spend = |estimate: &Estimate| estimate.amounts(estimate.bound()).spend.0;
        assert_eq!(spend(&estimate), 100 * 10);
        estimate.set_input_tokens(&pricing, 50);
        assert_eq!(spend(&estimate), 50 * 2);
        estimate.set_input_tokens(&pricing, 60);
        estimate.restrict_units(&pricing, UnitSet::default().with(Unit::InputTokens), true);
        assert_eq!(spend(&estimate), 60 * 5);
        estimate.cap_input_tokens(&pricing, 40);
        assert_eq!(spend(&estimate), 40);
        assert_eq!(estimate.lower_bound(&pricing).spend, Nano(1));
    }
}
