//! What a call needs: all that it might use, and the least that it could do with.

use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::pieces::Pieces;
use crate::domain::price::Rates;
use crate::domain::settlement::Bound;
use crate::domain::tariff::Costs;
use crate::domain::usage::Units;

/// What a call needs of tokens and money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    bound: Bound,
    /// What is priced by the piece.
    pieces: Pieces,
    /// What a token may be.
    units: Units,
    /// The most that a token costs, with all the input that the bound allows.
    rates: Rates,
    /// The most that the pieces cost then.
    apart: Nano,
    choices: u64,
    /// The output it could do with, over all choices; all of it where it may not be bounded.
    least_output: u64,
    care: Care,
}

/// How closely a call was looked at. Each step is dearer than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Care {
    /// Not at all: a token for every byte, at the dearest rates.
    Loose,
    /// Whether its body is known was asked.
    LookedUp,
    /// Its rates are those of what can be in it.
    Priced,
    /// Its input is known or counted.
    Tight,
}

impl Need {
    /// A call that may use up to `bound` over `choices`, and `pieces`. `floor` is the least output
    /// of a choice that it could do with, where the gateway may bound it.
    pub fn new(
        (bound, pieces): (Bound, Pieces),
        costs: &Costs,
        choices: u64,
        floor: Option<u64>,
    ) -> Self {
        let least = floor.map_or(bound.output_tokens, |floor| floor.saturating_mul(choices));
        let least_output = least.min(bound.output_tokens);
        let (units, care) = (Units::ALL, Care::Loose);
        let (rates, apart) = (Rates::default(), Nano::ZERO);
        Self { bound, pieces, units, rates, apart, choices, least_output, care }.priced_by(costs)
    }

    /// The same at the prices for its input.
    fn priced_by(self, costs: &Costs) -> Self {
        let input = self.bound.input_tokens;
        let rates = costs.rates(input, self.units);
        Self { rates, apart: costs.of_pieces(input, &self.pieces), ..self }
    }

    /// Whether it was asked what is known of its body.
    pub fn is_looked_up(&self) -> bool {
        Care::LookedUp <= self.care
    }

    /// Whether its rates are those of what can be in it.
    pub fn is_priced(&self) -> bool {
        Care::Priced <= self.care
    }

    /// Whether its input was counted, so that nothing is gained by counting it again.
    pub fn is_tight(&self) -> bool {
        self.care == Care::Tight
    }

    /// Notes that it was asked what is known of its body.
    pub fn looked_up(&mut self) {
        self.care = self.care.max(Care::LookedUp);
    }

    /// Puts the prices of what can be in it, `units`, in the place of the dearest; `takes_bound`
    /// says whether its output can be bounded at all.
    pub fn price(&mut self, costs: &Costs, units: Units, takes_bound: bool) {
        if !takes_bound {
            self.least_output = self.bound.output_tokens;
        }
        self.care = self.care.max(Care::Priced);
        *self = Self { units, ..*self }.priced_by(costs);
    }

    /// The provider's own count of this very input: neither fewer nor more.
    pub fn knows(&mut self, costs: &Costs, input_tokens: u64) {
        self.bound.input_tokens = input_tokens;
        *self = self.priced_by(costs);
    }

    /// Lowers the input to what was counted.
    pub fn tighten(&mut self, costs: &Costs, input_tokens: u64) {
        self.care = Care::Tight;
        self.knows(costs, self.bound.input_tokens.min(input_tokens));
    }

    /// All that the call might use.
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// The least that the call could do with.
    pub const fn least(&self) -> Bound {
        Bound { output_tokens: self.least_output, ..self.bound }
    }

    /// Less than the call could ever do with, whatever its input turns out to be: where this does
    /// not fit, the input need not be counted.
    pub fn lowest(&self, costs: &Costs) -> Amounts {
        let input_tokens = self.bound.input_tokens.min(1);
        let bound = Bound { input_tokens, output_tokens: self.least_output };
        let (rates, apart) = (costs.plain(), costs.of_pieces(input_tokens, &self.pieces));
        Self { rates, apart, ..*self }.amounts(bound)
    }

    /// The most that fits into these shares, at least the least, and as much for each choice.
    pub fn within(&self, tokens: Option<i64>, spend: Nano) -> Bound {
        let input = self.bound.input_tokens;
        let by_tokens = tokens.map_or(u64::MAX, |tokens| {
            u64::try_from(tokens).unwrap_or_default().saturating_sub(input)
        });
        let spend = Nano(spend.0.saturating_sub(self.apart.0));
        let most =
            self.rates.output_within(input, spend).min(by_tokens).min(self.bound.output_tokens);
        let of_each = most / self.choices.max(1) * self.choices.max(1);
        Bound { output_tokens: of_each.max(self.least_output), ..self.bound }
    }

    /// What the call takes of every measure if it uses up to `bound`.
    pub fn amounts(&self, bound: Bound) -> Amounts {
        let tokens = i64::try_from(bound.tokens()).unwrap_or(i64::MAX / 4);
        let spend = self.rates.ceiling(bound.input_tokens, bound.output_tokens);
        Amounts { requests: 1, tokens, spend: Nano(spend.0 + self.apart.0) }
    }

    /// Output tokens of one choice.
    pub fn of_each(&self, bound: Bound) -> u64 {
        bound.output_tokens / self.choices.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::price::Prices;
    use crate::domain::service_tier::ServiceTier;
    use crate::domain::tariff::{Row, Tariff};
    use crate::domain::usage::Unit;

    const BOUND: Bound = Bound { input_tokens: 100, output_tokens: 2_000 };

    /// At these nano-units a token, of input and of output.
    fn at(input: i64, output: i64) -> Costs {
        let prices = Prices::default().with(Unit::InputTokens, input * 1_000_000);
        let prices = prices.and_then(|prices| prices.with(Unit::OutputTokens, output * 1_000_000));
        let prices = prices.and_then(|prices| prices.with(Unit::WebSearches, 1_000));
        let tariff = Tariff::flat(prices.expect("in range"), "v".into());
        Costs::new(vec![Arc::new(tariff)], ServiceTier::DEFAULT)
    }

    fn costs() -> Costs {
        at(1, 2)
    }

    fn new(bound: Bound, choices: u64, floor: Option<u64>) -> Need {
        Need::new((bound, Pieces::default()), &costs(), choices, floor)
    }

    #[test]
    fn a_share_is_divided_among_the_choices() {
        let need = new(BOUND, 2, Some(256));
        let output = |tokens, spend| need.within(tokens, Nano(spend)).output_tokens;
        assert_eq!(output(Some(1_001), 1_000_000), 900, "901 of two choices");
        assert_eq!(output(None, 100 + 2 * 701), 700);
        assert_eq!(output(Some(0), 0), 512, "never below the floor");
        assert_eq!(output(None, 1_000_000), 2_000, "never above what it asked for");
    }

    #[test]
    fn a_bound_of_the_clients_own_is_its_least() {
        let mut need = new(BOUND, 1, None);
        assert_eq!(need.least(), need.bound());
        need.tighten(&costs(), 30);
        assert_eq!(need.least(), Bound { input_tokens: 30, output_tokens: 2_000 });
        need.tighten(&costs(), 50);
        assert_eq!(need.bound().input_tokens, 30, "counting never loosens a bound");
        assert_eq!(need.amounts(need.bound()).spend, Nano(30 + 4_000));
        let short = Bound { output_tokens: 10, ..BOUND };
        assert_eq!(new(short, 1, Some(256)).lowest(&costs()).tokens, 11);
    }

    #[test]
    fn each_closer_look_is_noted_and_none_is_forgotten() {
        let mut need = new(BOUND, 1, None);
        let looks = |need: &Need| [need.is_looked_up(), need.is_priced(), need.is_tight()];
        assert_eq!(looks(&need), [false, false, false]);
        need.looked_up();
        assert_eq!(looks(&need), [true, false, false]);
        need.price(&costs(), Units::ALL, true);
        assert_eq!(looks(&need), [true, true, false]);
        need.tighten(&costs(), 7);
        need.looked_up();
        assert_eq!(looks(&need), [true, true, true]);
    }

    #[test]
    fn what_the_provider_counted_before_is_believed_whether_it_is_more_or_less() {
        let mut need = new(BOUND, 1, None);
        for known in [7, 700] {
            need.knows(&costs(), known);
            assert_eq!(need.bound(), Bound { input_tokens: known, ..BOUND });
        }
    }

    #[test]
    fn a_call_could_do_with_the_floor_of_each_choice_unless_its_output_takes_no_bound() {
        let mut need = new(BOUND, 2, Some(256));
        assert_eq!(need.least(), Bound { output_tokens: 512, ..BOUND });
        assert_eq!(need.of_each(need.least()), 256);
        let cheap = at(0, 1);
        let lowest = need.lowest(&cheap);
        assert_eq!((lowest.requests, lowest.tokens, lowest.spend), (1, 513, Nano(512)));
        need.price(&cheap, Units::ALL, true);
        assert_eq!(need.amounts(need.bound()).spend, Nano(2_000), "at the new rates");
        need.price(&costs(), Units::ALL, false);
        assert_eq!(need.least(), BOUND);
        let boundless = Bound { input_tokens: 0, output_tokens: u64::MAX };
        assert_eq!(need.amounts(boundless).tokens, i64::MAX / 4);
    }

    #[test]
    fn pieces_are_held_beside_the_tokens() {
        let pieces = Pieces { web_searches: 2, ..Pieces::default() };
        let need = Need::new((BOUND, pieces), &costs(), 1, Some(256));
        assert_eq!(need.amounts(need.bound()).spend, Nano(100 + 4_000 + 2_000));
        assert_eq!(need.lowest(&costs()).spend, Nano(1 + 512 + 2_000));
        assert_eq!(need.within(None, Nano(100 + 1_000 + 2_000)).output_tokens, 500);
        assert_eq!(need.within(None, Nano(1_999)).output_tokens, 256);
    }

    #[test]
    fn the_least_that_pieces_cost_is_their_price_with_little_input() {
        let row = |above_input_tokens, nano| Row {
            tier: ServiceTier::DEFAULT,
            above_input_tokens,
            prices: Prices::default().with(Unit::WebSearches, nano).expect("in range"),
        };
        let tariff = Tariff::of(vec![row(0, 1_000), row(50, 9_000)], "v".into()).expect("whole");
        let costs = Costs::new(vec![Arc::new(tariff)], ServiceTier::DEFAULT);
        let pieces = Pieces { web_searches: 2, ..Pieces::default() };
        let need = Need::new((BOUND, pieces), &costs, 1, None);
        assert_eq!(need.amounts(need.bound()).spend, Nano(18_000));
        assert_eq!(need.lowest(&costs).spend, Nano(2_000));
    }

    #[test]
    fn less_input_than_feared_may_cost_less_a_token() {
        let row = |above_input_tokens, nano| Row {
            tier: ServiceTier::DEFAULT,
            above_input_tokens,
            prices: Prices::default()
                .with(Unit::InputTokens, nano)
                .and_then(|prices| prices.with(Unit::CachedInputTokens, 2 * nano))
                .expect("in range"),
        };
        let rows = vec![row(0, 1_000_000), row(50, 5_000_000)];
        let tariff = Tariff::of(rows, "v".into()).expect("whole");
        let costs = Costs::new(vec![Arc::new(tariff)], ServiceTier::DEFAULT);
        let mut need = Need::new((BOUND, Pieces::default()), &costs, 1, None);
        let spend = |need: &Need| need.amounts(need.bound()).spend.0;
        assert_eq!(spend(&need), 100 * 10);
        need.knows(&costs, 50);
        assert_eq!(spend(&need), 50 * 2);
        need.knows(&costs, 60);
        need.price(&costs, Units::default().with(Unit::InputTokens), true);
        assert_eq!(spend(&need), 60 * 5);
        need.tighten(&costs, 40);
        assert_eq!(spend(&need), 40);
        assert_eq!(need.lowest(&costs).spend, Nano(1));
    }
}
