//! Prices, and the rounding of a call's cost.
//!
//! A [`PriceTable`] has a price for each unit. A `PriceRow` is the table of one service tier and
//! input size, and the rows of a model at one upstream are a `Tariff`. A `PriceSchedule` has the
//! tariffs of a model at one upstream by date. `CallPricing` has all tariffs that can apply to one
//! call, and `Charge` is what they cost for its usage. A hold is priced before the usage is known:
//! `HoldPricing` has the tariffs of all upstreams that may serve the call, and [`TokenRates`] are
//! the highest prices among them.

use crate::domain::money::Nano;
use crate::domain::usage::{Unit, UnitClass, UnitSet, Usage};

/// The price of each unit, in nano-units per million. A part without an explicit price has the
/// price of its total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PriceTable {
    explicit: [Option<i64>; Unit::COUNT],
    max_rates: TokenRates,
}

/// The highest prices of tokens: nano-units per million of input and of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenRates {
    input: i64,
    output: i64,
}

/// The maximum price in nano-units per million: a thousand currency units for one unit.
pub const PRICE_MAX: i64 = 1_000_000_000_000_000_000;

/// The maximum cost of one call: a million currency units. A usage report that costs more is wrong,
/// and a lower cost keeps balances far from overflow.
const COST_MAX: i64 = 1_000_000_000_000_000;

const MILLION: i128 = 1_000_000;

impl PriceTable {
    /// Returns the table with `unit` at `nano` per million, or per item if the unit is
    /// [billed per item](Unit::billed_per_item).
    ///
    /// `None` if the price is negative or above [`PRICE_MAX`] per million.
    #[must_use]
    pub fn with(mut self, unit: Unit, nano: i64) -> Option<Self> {
        let per_million = if unit.billed_per_item() { nano.checked_mul(1_000_000)? } else { nano };
        if !(0..=PRICE_MAX).contains(&per_million) {
            return None;
        }
        self.explicit[unit as usize] = Some(per_million);
        self.max_rates = self.max_rates_for(UnitSet::ALL);
        Some(self)
    }

    /// Returns the price of `unit` in nano-units per million. A part without a price has that of
    /// its total; cached tokens of a modality have that of the modality if cached tokens have none.
    pub fn per_million(&self, unit: Unit) -> i64 {
        match (self.explicit[unit as usize], unit.total()) {
            (Some(price), _) => price,
            (None, Some(total)) => match unit.overlaps() {
                Some(modality) if !self.has_price(total) => self.per_million(modality),
                _ => self.per_million(total),
            },
            (None, None) => 0,
        }
    }

    /// Returns the explicit price of a unit, per million or per item.
    pub fn price_of(&self, unit: Unit) -> Option<Nano> {
        let price = self.explicit[unit as usize]?;
        Some(Nano(if unit.billed_per_item() { price / 1_000_000 } else { price }))
    }

    /// Returns the cost of `usage`: ⌈Σ units × price ÷ 10⁶⌉, rounded up once.
    ///
    /// A part with an explicit price is subtracted from its total before the total is charged.
    /// Because parts may overlap, they are subtracted in the order of [`Unit::parts`], cached
    /// tokens first, each as far as the total still reaches, so that no token is charged twice.
    /// Cached tokens of a modality that are charged as cached are not charged as that modality.
    pub fn cost(&self, usage: &Usage) -> Nano {
        round_up_to_nano(self.cost_unrounded(usage))
    }

    /// Returns the cost of `usage` in millionths of a nano-unit, not rounded.
    pub fn cost_unrounded(&self, usage: &Usage) -> i128 {
        let mut sum = 0;
        for unit in Unit::top_level() {
            let charged = self.charge_parts(usage, unit, usage.get(unit), &mut sum);
            let price = self.explicit[unit as usize].unwrap_or_default();
            sum += i128::from(usage.get(unit) - charged) * i128::from(price);
        }
        sum
    }

    /// Returns a unit of `usage` for which neither the unit nor its total has a price.
    pub fn first_unpriced(&self, usage: &Usage) -> Option<Unit> {
        let has_rest = |unit: Unit| {
            let count = usage.get(unit);
            self.charge_parts(usage, unit, count, &mut 0) < count
        };
        Unit::top_level().find(|unit| !self.has_price(*unit) && has_rest(*unit))
    }

    /// Returns the highest price of a token of any unit.
    pub const fn max_rates(&self) -> TokenRates {
        self.max_rates
    }

    /// Returns the price of plain text tokens. Except for cached tokens, no call costs less.
    pub fn text_rates(&self) -> TokenRates {
        self.max_rates_for(UnitSet::default().with(Unit::InputTokens).with(Unit::OutputTokens))
    }

    /// Returns the highest price of a token of `units`.
    pub fn max_rates_for(&self, units: UnitSet) -> TokenRates {
        let max_price = |total| {
            let family = Unit::ALL.into_iter().filter(|unit| ROOTS[*unit as usize] == total);
            let prices =
                family.filter(|unit| units.contains(*unit)).map(|unit| self.per_million(unit));
            prices.max().unwrap_or_default()
        };
        TokenRates { input: max_price(Unit::InputTokens), output: max_price(Unit::OutputTokens) }
    }

    const fn has_price(&self, unit: Unit) -> bool {
        self.explicit[unit as usize].is_some()
    }

    /// Adds the cost of the parts of `unit` with an explicit price to `sum`, in millionths. Returns
    /// how many of `unit` were charged, at most `available`.
    fn charge_parts(&self, usage: &Usage, unit: Unit, available: u64, sum: &mut i128) -> u64 {
        let mut left = available;
        for part in unit.parts() {
            let count = self.count_not_cached(usage, *part).min(left);
            let charged = self.charge_parts(usage, *part, count, sum);
            left -= match self.explicit[*part as usize] {
                Some(price) => {
                    *sum += i128::from(count - charged) * i128::from(price);
                    count
                }
                None => charged,
            };
        }
        available - left
    }

    /// Returns the count of `unit` without the tokens that are charged as cached.
    fn count_not_cached(&self, usage: &Usage, unit: Unit) -> u64 {
        let cached =
            Unit::CachedInputTokens.parts().iter().find(|part| part.overlaps() == Some(unit));
        let cached = cached
            .filter(|cached| self.has_price(**cached) || self.has_price(Unit::CachedInputTokens));
        usage.get(unit).saturating_sub(cached.map_or(0, |cached| usage.get(*cached)))
    }
}

/// Returns the units that must have a price, which may be 0: input, and output if the model has
/// any. None are required if all units that have a price are [media units](UnitClass::Media).
pub fn required_units(has_price: impl Fn(Unit) -> bool, has_output: bool) -> &'static [Unit] {
    let mut priced = Unit::ALL.into_iter().filter(|unit| has_price(*unit)).peekable();
    match has_output {
        _ if priced.peek().is_some() && priced.all(|unit| unit.class() == UnitClass::Media) => &[],
        true => &[Unit::InputTokens, Unit::OutputTokens],
        false => &[Unit::InputTokens],
    }
}

impl TokenRates {
    /// Returns the higher rate of both, for input and for output.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), output: self.output.max(other.output) }
    }

    /// Returns the maximum cost of `input` and `output` tokens.
    pub fn max_cost(&self, input: u64, output: u64) -> Nano {
        let sum = i128::from(input) * i128::from(self.input)
            + i128::from(output) * i128::from(self.output);
        round_up_to_nano(sum)
    }

    /// Returns the maximum number of output tokens whose [`max_cost`](Self::max_cost) with `input`
    /// tokens is within `spend`.
    pub fn output_tokens_within(&self, input: u64, spend: Nano) -> u64 {
        let rest = i128::from(spend.0) * MILLION - i128::from(input) * i128::from(self.input);
        match (rest, i128::from(self.output)) {
            (..0, _) => 0,
            (_, 0) => u64::MAX,
            (rest, price) => u64::try_from(rest / price).unwrap_or(u64::MAX),
        }
    }
}

/// The outermost total of each unit.
const ROOTS: [Unit; Unit::COUNT] = {
    let (mut roots, mut index) = (Unit::ALL, 0);
    while index < Unit::COUNT {
        while let Some(total) = roots[index].total() {
            roots[index] = total;
        }
        index += 1;
    }
    roots
};

/// Rounds the cost of a call up to a nano-unit and limits it to `COST_MAX`.
pub fn round_up_to_nano(millionths: i128) -> Nano {
    let nano = (millionths + MILLION - 1).div_euclid(MILLION);
    Nano(i64::try_from(nano).unwrap_or(COST_MAX).min(COST_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(list: &[(Unit, i64)]) -> PriceTable {
        list.iter().fold(PriceTable::default(), |prices, (unit, nano)| {
            prices.with(*unit, *nano).expect("a price in range")
        })
    }

    #[test]
    fn only_the_sum_of_a_cost_is_rounded_up() {
        let mini = prices(&[(Unit::InputTokens, 150_000_000), (Unit::OutputTokens, 600_000_000)]);
        assert_eq!(mini.cost(&Usage::from_tokens(1, 0)), Nano(150));
        let odd = prices(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 1)]);
        assert_eq!(odd.cost(&Usage::from_tokens(1, 1)), Nano(1));
        assert_eq!(odd.cost(&Usage::default()), Nano(0));
        assert_eq!(odd.cost(&Usage::from_tokens(1_000_000, 1)), Nano(2));
    }

    #[test]
    fn a_part_with_a_price_is_subtracted_from_its_total() {
        let list = [(Unit::InputTokens, 1_000_000), (Unit::CachedInputTokens, 100_000)];
        let usage = Usage::from_tokens(10, 0)
            .with(Unit::CachedInputTokens, 4)
            .with(Unit::InputAudioTokens, 3);
        assert_eq!(prices(&list).cost(&usage), Nano(7));
    }

    #[test]
    fn overlapping_parts_are_not_charged_twice() {
        let price = |unit: Unit, each: i64| (unit, each * 1_000_000);
        let audio = [price(Unit::InputTokens, 10), price(Unit::InputAudioTokens, 100)];
        let cached = price(Unit::CachedInputTokens, 1);
        let both = prices(&[audio[0], audio[1], cached]);
        let audio_usage = Usage::from_tokens(1_000, 0).with(Unit::InputAudioTokens, 900);
        let usage = audio_usage.with(Unit::CachedInputTokens, 800);
        assert_eq!(
            both.cost(&usage),
            Nano(800 + 200 * 100),
            "the modality of cached tokens is unknown"
        );
        let with_modality = usage.with(Unit::CachedInputAudioTokens, 750);
        assert_eq!(both.cost(&with_modality), Nano(800 + 150 * 100 + 50 * 10));
        let apart = both.with(Unit::CachedInputAudioTokens, 5_000_000).expect("in range");
        assert_eq!(apart.cost(&with_modality), Nano(750 * 5 + 50 + 150 * 100 + 50 * 10));
        assert_eq!(apart.cost(&usage), both.cost(&usage));
        assert_eq!(
            prices(&audio).cost(&with_modality),
            Nano(900 * 100 + 100 * 10),
            "no price for cached tokens"
        );
        assert_eq!(prices(&[audio[0], cached]).cost(&with_modality), Nano(800 + 200 * 10));
        let all = usage.with(Unit::CachedInputTokens, 5_000).with(Unit::CacheWriteTokens, 9);
        assert_eq!(both.cost(&all), Nano(1_000), "at most all input tokens");
        let output = prices(&[
            price(Unit::OutputTokens, 1),
            price(Unit::ReasoningTokens, 10),
            price(Unit::OutputAudioTokens, 100),
        ]);
        let audio_usage = Usage::from_tokens(0, 10).with(Unit::ReasoningTokens, 4);
        let audio_usage = audio_usage.with(Unit::OutputAudioTokens, 8);
        assert_eq!(output.cost(&audio_usage), Nano(4 * 10 + 6 * 100));
        assert_eq!(output.first_unpriced(&audio_usage), None);
    }

    #[test]
    fn the_price_of_a_cached_modality_falls_back_to_cached_then_to_the_modality() {
        let without_cached = prices(&[(Unit::InputTokens, 10), (Unit::InputAudioTokens, 100)]);
        let cached = without_cached.with(Unit::CachedInputTokens, 1).expect("in range");
        let price = |prices: &PriceTable| prices.per_million(Unit::CachedInputAudioTokens);
        assert_eq!((price(&without_cached), price(&cached)), (100, 1));
        assert_eq!(without_cached.per_million(Unit::CachedInputTokens), 10);
        assert_eq!(without_cached.per_million(Unit::CachedInputImageTokens), 10);
    }

    #[test]
    fn a_model_billed_by_media_units_needs_no_token_prices() {
        let required =
            |priced: &[Unit], has_output| required_units(|unit| priced.contains(&unit), has_output);
        let all = [Unit::InputTokens, Unit::OutputTokens];
        assert_eq!(required(&[], true), all);
        assert_eq!(required(&[], false), [Unit::InputTokens]);
        assert_eq!(required(&[Unit::Images], true), []);
        assert_eq!(required(&[Unit::AudioSeconds, Unit::Characters], true), []);
        assert_eq!(required(&[Unit::Images, Unit::InputTokens], true), all);
        assert_eq!(required(&[Unit::WebSearches], true), all);
    }

    #[test]
    fn unpriced_units_are_found_and_zero_is_a_price() {
        let list = prices(&[(Unit::InputTokens, 0), (Unit::OutputImageTokens, 5)]);
        let usage = Usage::from_tokens(9, 7).with(Unit::OutputImageTokens, 7);
        assert_eq!(list.first_unpriced(&usage), None, "all output tokens have a price");
        assert_eq!(
            list.first_unpriced(&usage.with(Unit::CachedInputTokens, 3)),
            None,
            "priced as its total"
        );
        assert_eq!(list.first_unpriced(&Usage::from_tokens(9, 8)), Some(Unit::OutputTokens));
        let searched = usage.with(Unit::WebSearches, 1);
        assert_eq!(list.first_unpriced(&searched), Some(Unit::WebSearches));
    }

    #[test]
    fn nested_parts_are_not_subtracted_twice() {
        let list = [(Unit::InputTokens, 1_000_000), (Unit::CacheWrite1hTokens, 2_000_000)];
        let usage = Usage::from_tokens(10, 0)
            .with(Unit::CacheWriteTokens, 6)
            .with(Unit::CacheWrite5mTokens, 2)
            .with(Unit::CacheWrite1hTokens, 4);
        assert_eq!(prices(&list).cost(&usage), Nano(6 + 8));
        let all = prices(&[
            (Unit::InputTokens, 1_000_000),
            (Unit::CacheWriteTokens, 1_250_000),
            (Unit::CacheWrite1hTokens, 2_000_000),
        ]);
        assert_eq!(all.cost(&usage), Nano(4 + 3 + 8), "4 plain, 2 at 1.25 rounded up, 4 at 2");
    }

    #[test]
    fn no_usage_within_the_bound_costs_more_than_the_maximum_cost() {
        let list = prices(&[
            (Unit::InputTokens, 3_000_000_000),
            (Unit::CacheWriteTokens, 3_750_000_000),
            (Unit::OutputTokens, 15_000_000_000),
            (Unit::OutputAudioTokens, 80_000_000_000),
        ]);
        let worst = Usage::from_tokens(100, 50)
            .with(Unit::CacheWriteTokens, 100)
            .with(Unit::OutputAudioTokens, 50);
        assert_eq!(list.max_rates().max_cost(100, 50), list.cost(&worst));
        let text = UnitSet::default().with(Unit::InputTokens).with(Unit::OutputTokens);
        assert_eq!(
            list.max_rates_for(text).max_cost(100, 50),
            list.cost(&Usage::from_tokens(100, 50))
        );
        assert_eq!(list.text_rates().max_cost(100, 50), list.max_rates_for(text).max_cost(100, 50));
        let plain = prices(&[(Unit::InputTokens, 7), (Unit::OutputTokens, 9)]);
        assert_eq!(plain.max_rates().max_cost(11, 13), plain.cost(&Usage::from_tokens(11, 13)));
    }

    #[test]
    fn the_output_within_a_budget_is_the_exact_maximum() {
        let list = prices(&[(Unit::InputTokens, 150_000_000), (Unit::OutputTokens, 600_000_001)]);
        for spend in [0, 149, 150, 1_500, 1_501, 9_999_999] {
            let fits = list.max_rates().output_tokens_within(10, Nano(spend));
            assert!(fits == 0 || list.max_rates().max_cost(10, fits) <= Nano(spend), "{spend}");
            assert!(Nano(spend) < list.max_rates().max_cost(10, fits + 1), "{spend}");
        }
        let free = prices(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 0)]);
        assert_eq!(free.max_rates().output_tokens_within(1, Nano(1)), u64::MAX);
    }

    #[test]
    fn units_billed_per_item_are_priced_per_item() {
        let list = prices(&[(Unit::Images, 40_000_000)]);
        assert_eq!(list.cost(&Usage::default().with(Unit::Images, 2)), Nano(80_000_000));
        assert_eq!(list.price_of(Unit::Images), Some(Nano(40_000_000)));
        assert!(PriceTable::default().with(Unit::Images, i64::MAX).is_none());
        assert!(PriceTable::default().with(Unit::InputTokens, -1).is_none());
    }
}
