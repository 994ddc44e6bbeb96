//! Prices, and the one rounding of a call's cost.

use crate::domain::money::Nano;
use crate::domain::usage::{Unit, UnitSet, Usage};

/// What each unit costs: nano-units per million of it. A part without a price of its own costs
/// what its total costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PriceTable {
    explicit: [Option<i64>; Unit::COUNT],
    max_rates: TokenRates,
}

/// The most that a token can cost: nano-units per million of input, and of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenRates {
    input: i64,
    output: i64,
}

/// The most nano-units that one unit may cost per million: a thousand currency units a token.
pub const PRICE_MAX: i64 = 1_000_000_000_000_000_000;

/// The most that one call is taken to cost: a million currency units. Whatever a provider reports
/// beyond is a fault of the report, and books stay far from the end of their range.
const COST_MAX: i64 = 1_000_000_000_000_000;

const MILLION: i128 = 1_000_000;

impl PriceTable {
    /// The same with `unit` at `nano` per million (or per one, see [`Unit::priced_singly`]).
    ///
    /// `None` when the price is negative or above [`PRICE_MAX`] per million.
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

    /// Nano-units per million of `unit`; a part falls back to its total, and what is cached to its
    /// modality where no price of caching is given.
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

    /// The price of a unit as given: per million, or per one where it is priced singly.
    pub fn price_of(&self, unit: Unit) -> Option<Nano> {
        let price = self.explicit[unit as usize]?;
        Some(Nano(if unit.billed_per_item() { price / 1_000_000 } else { price }))
    }

    /// The cost of `usage`: ⌈Σ units × price ÷ 10⁶⌉, rounded up once.
    ///
    /// A part with a price of its own is taken out of its total before the total is priced. Parts
    /// may overlap, and no token is charged twice: they are taken out in the order of
    /// [`Unit::parts`], what was cached first, then each as far as their total still reaches. What
    /// is known to be cached of a modality and is charged as cached is not in that modality.
    pub fn cost(&self, usage: &Usage) -> Nano {
        round_up_to_nano(self.cost_unrounded(usage))
    }

    /// The same in millionths of a nano-unit, before it is rounded.
    pub fn cost_unrounded(&self, usage: &Usage) -> i128 {
        let mut sum = 0;
        for whole in Unit::top_level() {
            let taken = self.charge_parts(usage, whole, usage.get(whole), &mut sum);
            let price = self.explicit[whole as usize].unwrap_or_default();
            sum += i128::from(usage.get(whole) - taken) * i128::from(price);
        }
        sum
    }

    /// Something of `usage` that these prices have none for, neither its own nor that of a total.
    pub fn first_unpriced(&self, usage: &Usage) -> Option<Unit> {
        let is_left = |unit: Unit| {
            let all = usage.get(unit);
            self.charge_parts(usage, unit, all, &mut 0) < all
        };
        Unit::top_level().find(|unit| !self.has_price(*unit) && is_left(*unit))
    }

    /// The most that a token can cost, whatever unit it turns out to be.
    pub const fn max_rates(&self) -> TokenRates {
        self.max_rates
    }

    /// What a token costs that is of no special kind: no call costs less a token, but for what comes
    /// from a cache.
    pub fn text_rates(&self) -> TokenRates {
        self.max_rates_for(UnitSet::default().with(Unit::InputTokens).with(Unit::OutputTokens))
    }

    /// The most that a token can cost, if it is one of `units`.
    pub fn max_rates_for(&self, units: UnitSet) -> TokenRates {
        let dearest = |total| {
            let family = Unit::ALL.into_iter().filter(|unit| root(*unit) == total);
            let prices =
                family.filter(|unit| units.contains(*unit)).map(|unit| self.per_million(unit));
            prices.max().unwrap_or_default()
        };
        TokenRates { input: dearest(Unit::InputTokens), output: dearest(Unit::OutputTokens) }
    }

    const fn has_price(&self, unit: Unit) -> bool {
        self.explicit[unit as usize].is_some()
    }

    /// Adds to `sum`, in millionths, what those parts of `unit` cost that are priced apart, where
    /// `room` of it is not yet charged; and how many they are, at most `room`.
    fn charge_parts(&self, usage: &Usage, unit: Unit, available: u64, sum: &mut i128) -> u64 {
        let mut left = available;
        for part in unit.parts() {
            let count = self.count_not_cached(usage, *part).min(left);
            let inside = self.charge_parts(usage, *part, count, sum);
            left -= match self.explicit[*part as usize] {
                Some(price) => {
                    *sum += i128::from(count - inside) * i128::from(price);
                    count
                }
                None => inside,
            };
        }
        available - left
    }

    /// How many of `unit` are not charged as cached.
    fn count_not_cached(&self, usage: &Usage, unit: Unit) -> u64 {
        let cached =
            Unit::CachedInputTokens.parts().iter().find(|part| part.overlaps() == Some(unit));
        let cached = cached
            .filter(|cached| self.has_price(**cached) || self.has_price(Unit::CachedInputTokens));
        usage.get(unit).saturating_sub(cached.map_or(0, |cached| usage.get(*cached)))
    }
}

/// What every call has and must have a price, if only 0: input, and where the model `answers`,
/// output; nothing of it where all that is `given` is priced by the piece.
pub fn required_units(has_price: impl Fn(Unit) -> bool, has_output: bool) -> &'static [Unit] {
    const PIECES: [Unit; 3] = [Unit::Images, Unit::AudioSeconds, Unit::Characters];
    let mut units = Unit::ALL.into_iter().filter(|unit| has_price(*unit)).peekable();
    match has_output {
        _ if units.peek().is_some() && units.all(|unit| PIECES.contains(&unit)) => &[],
        true => &[Unit::InputTokens, Unit::OutputTokens],
        false => &[Unit::InputTokens],
    }
}

impl TokenRates {
    /// The dearer of both, of input and of output.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), output: self.output.max(other.output) }
    }

    /// The most that `input` and `output` tokens can cost.
    pub fn max_cost(&self, input: u64, output: u64) -> Nano {
        let sum = i128::from(input) * i128::from(self.input)
            + i128::from(output) * i128::from(self.output);
        round_up_to_nano(sum)
    }

    /// The most output tokens whose [`ceiling`](Self::ceiling), `input` tokens included, stays
    /// within `spend`.
    pub fn output_tokens_within(&self, input: u64, spend: Nano) -> u64 {
        let rest = i128::from(spend.0) * MILLION - i128::from(input) * i128::from(self.input);
        match (rest, i128::from(self.output)) {
            (..0, _) => 0,
            (_, 0) => u64::MAX,
            (rest, price) => u64::try_from(rest / price).unwrap_or(u64::MAX),
        }
    }
}

fn root(unit: Unit) -> Unit {
    unit.total().map_or(unit, root)
}

/// The one rounding of a call's cost: up, and no further than what one call is taken to cost.
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
    fn a_cost_is_rounded_up_once() {
        let mini = prices(&[(Unit::InputTokens, 150_000_000), (Unit::OutputTokens, 600_000_000)]);
        assert_eq!(mini.cost(&Usage::from_tokens(1, 0)), Nano(150));
        let odd = prices(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 1)]);
        assert_eq!(odd.cost(&Usage::from_tokens(1, 1)), Nano(1));
        assert_eq!(odd.cost(&Usage::default()), Nano(0));
        assert_eq!(odd.cost(&Usage::from_tokens(1_000_000, 1)), Nano(2));
    }

    #[test]
    fn a_part_with_its_own_price_leaves_its_total() {
        let list = [(Unit::InputTokens, 1_000_000), (Unit::CachedInputTokens, 100_000)];
        let usage = Usage::from_tokens(10, 0)
            .with(Unit::CachedInputTokens, 4)
            .with(Unit::InputAudioTokens, 3);
        assert_eq!(prices(&list).cost(&usage), Nano(7));
    }

    #[test]
    fn no_token_is_charged_twice_that_is_of_two_parts() {
        let price = |unit: Unit, each: i64| (unit, each * 1_000_000);
        let audio = [price(Unit::InputTokens, 10), price(Unit::InputAudioTokens, 100)];
        let cached = price(Unit::CachedInputTokens, 1);
        let both = prices(&[audio[0], audio[1], cached]);
        let spoken = Usage::from_tokens(1_000, 0).with(Unit::InputAudioTokens, 900);
        let usage = spoken.with(Unit::CachedInputTokens, 800);
        assert_eq!(both.cost(&usage), Nano(800 + 200 * 100), "nobody says what was cached");
        let told = usage.with(Unit::CachedInputAudioTokens, 750);
        assert_eq!(both.cost(&told), Nano(800 + 150 * 100 + 50 * 10));
        let apart = both.with(Unit::CachedInputAudioTokens, 5_000_000).expect("in range");
        assert_eq!(apart.cost(&told), Nano(750 * 5 + 50 + 150 * 100 + 50 * 10));
        assert_eq!(apart.cost(&usage), both.cost(&usage));
        assert_eq!(
            prices(&audio).cost(&told),
            Nano(900 * 100 + 100 * 10),
            "caches cost nothing less"
        );
        assert_eq!(prices(&[audio[0], cached]).cost(&told), Nano(800 + 200 * 10));
        let all = usage.with(Unit::CachedInputTokens, 5_000).with(Unit::CacheWriteTokens, 9);
        assert_eq!(both.cost(&all), Nano(1_000), "never more than came in");
        let output = prices(&[
            price(Unit::OutputTokens, 1),
            price(Unit::ReasoningTokens, 10),
            price(Unit::OutputAudioTokens, 100),
        ]);
        let heard = Usage::from_tokens(0, 10).with(Unit::ReasoningTokens, 4);
        let heard = heard.with(Unit::OutputAudioTokens, 8);
        assert_eq!(output.cost(&heard), Nano(4 * 10 + 6 * 100));
        assert_eq!(output.first_unpriced(&heard), None);
    }

    #[test]
    fn what_is_cached_of_a_modality_costs_as_what_is_cached_or_else_as_the_modality() {
        let heard = prices(&[(Unit::InputTokens, 10), (Unit::InputAudioTokens, 100)]);
        let cached = heard.with(Unit::CachedInputTokens, 1).expect("in range");
        let price = |prices: &PriceTable| prices.per_million(Unit::CachedInputAudioTokens);
        assert_eq!((price(&heard), price(&cached)), (100, 1));
        assert_eq!(heard.per_million(Unit::CachedInputTokens), 10);
        assert_eq!(heard.per_million(Unit::CachedInputImageTokens), 10);
    }

    #[test]
    fn a_model_paid_by_the_piece_needs_no_price_of_tokens() {
        let needed =
            |given: &[Unit], answers| required_units(|unit| given.contains(&unit), answers);
        let all = [Unit::InputTokens, Unit::OutputTokens];
        assert_eq!(needed(&[], true), all);
        assert_eq!(needed(&[], false), [Unit::InputTokens]);
        assert_eq!(needed(&[Unit::Images], true), []);
        assert_eq!(needed(&[Unit::AudioSeconds, Unit::Characters], true), []);
        assert_eq!(needed(&[Unit::Images, Unit::InputTokens], true), all);
        assert_eq!(needed(&[Unit::WebSearches], true), all);
    }

    #[test]
    fn what_has_no_price_is_known_and_free_is_a_price() {
        let list = prices(&[(Unit::InputTokens, 0), (Unit::OutputImageTokens, 5)]);
        let made = Usage::from_tokens(9, 7).with(Unit::OutputImageTokens, 7);
        assert_eq!(list.first_unpriced(&made), None, "all of the output has a price of its own");
        assert_eq!(
            list.first_unpriced(&made.with(Unit::CachedInputTokens, 3)),
            None,
            "as its total"
        );
        assert_eq!(list.first_unpriced(&Usage::from_tokens(9, 8)), Some(Unit::OutputTokens));
        let searched = made.with(Unit::WebSearches, 1);
        assert_eq!(list.first_unpriced(&searched), Some(Unit::WebSearches));
    }

    #[test]
    fn nested_parts_are_taken_out_once() {
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
    fn no_usage_within_the_bound_costs_more_than_the_ceiling() {
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
    fn what_fits_is_the_most_that_fits() {
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
    fn single_prices_are_per_one() {
        let list = prices(&[(Unit::Images, 40_000_000)]);
        assert_eq!(list.cost(&Usage::default().with(Unit::Images, 2)), Nano(80_000_000));
        assert_eq!(list.price_of(Unit::Images), Some(Nano(40_000_000)));
        assert!(PriceTable::default().with(Unit::Images, i64::MAX).is_none());
        assert!(PriceTable::default().with(Unit::InputTokens, -1).is_none());
    }
}
