//! Settlement: what a call is charged when it ends, however it ends.

use crate::domain::money::Nano;
use crate::domain::pieces::Pieces;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariffs::{Share, Tariffs};
use crate::domain::usage::{Unit, Usage};

/// The most that a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens, over all choices.
    pub output_tokens: u64,
}

impl Bound {
    /// Input and output.
    pub const fn tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens
    }
}

/// By which rule a call was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettledBy {
    /// The usage that the provider reported.
    Usage,
    /// What was counted of input and output.
    Estimate,
    /// Nothing was charged.
    Nothing,
}

impl SettledBy {
    /// The word in records and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Estimate => "estimate",
            Self::Nothing => "none",
        }
    }
}

/// What was learned of a call that an upstream answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Measured {
    /// The last usage that the provider reported.
    pub reported: Option<Usage>,
    /// What other models had of it.
    pub shares: Vec<Share>,
    /// Input tokens by our own count.
    pub counted_input: u64,
    /// Output tokens by our own count of what came.
    pub counted_output: u64,
    /// What is priced by the piece, by our own count: it stands where no report says.
    pub pieces: Pieces,
    /// The tier of service that the answer names.
    pub service_tier: ServiceTier,
    /// The tier that was asked for.
    pub asked_tier: ServiceTier,
    /// Whether the answer came to its end, and the report is a whole one.
    pub complete: bool,
}

/// What a call is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The usage charged.
    pub usage: Usage,
    /// Its cost.
    pub cost: Nano,
    /// By which rule.
    pub settled_by: SettledBy,
    /// Whether it passed what was held: posted in full all the same.
    pub overage: bool,
}

impl Charge {
    /// Nothing.
    pub fn nothing() -> Self {
        let (usage, cost) = (Usage::default(), Nano::ZERO);
        Self { usage, cost, settled_by: SettledBy::Nothing, overage: false }
    }

    /// The charge for what was measured, against what was held.
    ///
    /// A complete answer with a report is charged by the report. Anything else is charged the input
    /// that was reported, else counted, and the larger of the last report and our own count of the
    /// output: leaving early is never cheaper than staying. What was counted stays within the bound.
    pub fn of(measured: &Measured, bound: Bound, held: Nano, tariffs: &Tariffs) -> Self {
        let (usage, settled_by) = match measured.reported {
            Some(usage) if measured.complete => (usage, SettledBy::Usage),
            reported => (estimate(reported, measured, bound), SettledBy::Estimate),
        };
        let cost = |tier| tariffs.cost(&usage, &measured.shares, tier);
        let named = cost(measured.service_tier);
        let cost = match settled_by {
            // Who leaves before the answer names its tier does not pay less for that.
            SettledBy::Estimate if measured.service_tier.is_default() => {
                named.max(cost(measured.asked_tier))
            }
            _ => named,
        };
        let overage = held < cost || bound.tokens() < usage.tokens();
        Self { usage, cost, settled_by, overage }
    }

    /// The charge for a call that was read on after its client had left, to learn its usage.
    ///
    /// A complete answer costs what it costs whoever stays. Of any other nobody knows how much was
    /// generated: it is charged all that was held, or what is known where that is more.
    pub fn of_abandoned(measured: &Measured, bound: Bound, held: Nano, tariffs: &Tariffs) -> Self {
        let known = Self::of(measured, bound, held, tariffs);
        if measured.complete {
            return known;
        }
        let input = known.usage.with(Unit::InputTokens, bound.input_tokens);
        let whole = input.with(Unit::OutputTokens, bound.output_tokens);
        let usage = if whole.tokens() < known.usage.tokens() { known.usage } else { whole };
        Self { usage, cost: known.cost.max(held), ..known }
    }
}

/// Some report a few tokens of input when an answer begins, and the true number when it ends.
const PLACEHOLDER_MAX: u64 = 8;

fn estimate(reported: Option<Usage>, measured: &Measured, bound: Bound) -> Usage {
    let reported = reported.unwrap_or_default();
    let counted = measured.counted_input.min(bound.input_tokens);
    let input = match reported.get(Unit::InputTokens) {
        unsure @ ..=PLACEHOLDER_MAX => unsure.max(counted),
        known => known,
    };
    let output = measured.counted_output.min(bound.output_tokens);
    let output = reported.get(Unit::OutputTokens).max(output);
    let counted = measured.pieces.usage();
    let tokens = reported.with(Unit::InputTokens, input).with(Unit::OutputTokens, output);
    counted
        .counts()
        .fold(tokens, |usage, (unit, count)| usage.with(unit, usage.get(unit).max(count)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::price::Prices;
    use crate::domain::tariff::{Row, Tariff};

    /// At these nano-units a token, of input and of output.
    fn priced(input: i64, output: i64) -> Tariffs {
        let prices = Prices::default()
            .with(Unit::InputTokens, input * 1_000_000)
            .and_then(|prices| prices.with(Unit::OutputTokens, output * 1_000_000));
        alone(Tariff::flat(prices.expect("prices in range"), "v".into()))
    }

    fn alone(tariff: Tariff) -> Tariffs {
        Tariffs::of("m".into(), Arc::new(tariff))
    }

    const BOUND: Bound = Bound { input_tokens: 100, output_tokens: 50 };

    fn charge(measured: &Measured) -> Charge {
        Charge::of(measured, BOUND, Nano(200), &priced(1, 2))
    }

    #[test]
    fn a_complete_answer_is_charged_by_its_report() {
        let reported = Some(Usage::tokens_of(10, 20));
        let measured = Measured {
            reported,
            complete: true,
            counted_input: 99,
            counted_output: 99,
            ..Measured::default()
        };
        let charged = charge(&measured);
        assert_eq!((charged.cost, charged.settled_by), (Nano(50), SettledBy::Usage));
        assert!(!charged.overage);
    }

    #[test]
    fn a_broken_answer_is_charged_at_least_what_was_counted() {
        let mut measured = Measured { counted_input: 30, counted_output: 7, ..Measured::default() };
        let charged = charge(&measured);
        assert_eq!((charged.cost, charged.settled_by), (Nano(44), SettledBy::Estimate));
        measured.reported = Some(Usage::tokens_of(12, 9));
        assert_eq!(
            charge(&measured).usage,
            Usage::tokens_of(12, 9),
            "the provider knows its input"
        );
        measured.counted_output = 1_000;
        assert_eq!(charge(&measured).usage.get(Unit::OutputTokens), 50, "within the bound");
        measured = Measured { complete: true, counted_input: 30, ..Measured::default() };
        assert_eq!(charge(&measured).settled_by, SettledBy::Estimate);
    }

    #[test]
    fn an_abandoned_answer_is_charged_its_report_or_all_that_was_held() {
        let held = Nano(777);
        let tariffs = priced(1, 0);
        let charge = |measured: &Measured| Charge::of_abandoned(measured, BOUND, held, &tariffs);
        let reported = Some(Usage::tokens_of(10, 20));
        let measured = Measured { reported, counted_input: 30, ..Measured::default() };
        let whole = Charge {
            usage: Usage::tokens_of(100, 50),
            cost: held,
            settled_by: SettledBy::Estimate,
            overage: false,
        };
        assert_eq!(charge(&Measured::default()), whole, "nothing is known");
        assert_eq!(charge(&measured), whole, "a report is not the last before the end");
        let complete = Measured { complete: true, ..measured.clone() };
        assert_eq!(charge(&complete), Charge::of(&complete, BOUND, held, &tariffs));
        assert_eq!(charge(&complete).settled_by, SettledBy::Usage);
        let reported = Some(Usage::tokens_of(1_000, 20));
        let beyond = charge(&Measured { reported, ..measured.clone() });
        assert_eq!((beyond.cost, beyond.overage), (Nano(1_000), true), "never less than is known");
        assert_eq!(beyond.usage, Usage::tokens_of(1_000, 20));
        let reported = Some(Usage::tokens_of(120, 30));
        assert_eq!(
            charge(&Measured { reported, ..measured.clone() }).usage,
            whole.usage,
            "no more than held"
        );
    }

    #[test]
    fn pieces_that_no_report_tells_of_are_charged_as_counted() {
        let prices = Prices::default().with(Unit::WebSearches, 1_000).expect("in range");
        let tariffs = alone(Tariff::flat(prices, "v".into()));
        let counted = Pieces { web_searches: 3, ..Pieces::default() };
        let cost = |measured: &Measured| Charge::of(measured, BOUND, Nano(9_000), &tariffs).cost;
        let measured = Measured { pieces: counted, ..Measured::default() };
        assert_eq!(cost(&measured), Nano(3_000));
        let report = |searches| Usage::default().with(Unit::WebSearches, searches);
        assert_eq!(cost(&Measured { reported: Some(report(2)), ..measured.clone() }), Nano(3_000));
        assert_eq!(cost(&Measured { reported: Some(report(4)), ..measured.clone() }), Nano(4_000));
        let complete = Measured { reported: Some(report(2)), complete: true, ..measured.clone() };
        assert_eq!(cost(&complete), Nano(2_000), "a complete report stands");
    }

    #[test]
    fn the_tier_that_the_answer_names_is_the_one_that_is_paid() {
        let row = |name, output| Row {
            tier: ServiceTier::new(name).expect("short"),
            above_input_tokens: 0,
            prices: Prices::default().with(Unit::OutputTokens, output).expect("in range"),
        };
        let rows = vec![row("default", 2_000_000), row("flex", 1_000_000)];
        let tariffs = alone(Tariff::of(rows, "v".into()).expect("whole"));
        let cost = |name| {
            let service_tier = ServiceTier::new(name).expect("short");
            let reported = Some(Usage::tokens_of(0, 5));
            let measured =
                Measured { reported, service_tier, complete: true, ..Measured::default() };
            Charge::of(&measured, BOUND, Nano(100), &tariffs).cost
        };
        assert_eq!((cost("flex"), cost("standard"), cost("")), (Nano(5), Nano(10), Nano(10)));
    }

    #[test]
    fn who_leaves_before_the_tier_is_named_pays_for_the_dearer_of_the_default_and_its_own() {
        let row = |name, output| Row {
            tier: ServiceTier::new(name).expect("short"),
            above_input_tokens: 0,
            prices: Prices::default().with(Unit::OutputTokens, output).expect("in range"),
        };
        let rows = vec![row("", 2_000_000), row("flex", 1_000_000), row("priority", 4_000_000)];
        let tariffs = alone(Tariff::of(rows, "v".into()).expect("whole"));
        let cost = |asked, named, complete| {
            let tier = |name| ServiceTier::new(name).expect("short");
            let (asked_tier, service_tier) = (tier(asked), tier(named));
            let reported = Some(Usage::tokens_of(0, 5));
            let left = Measured { reported, service_tier, asked_tier, ..Measured::default() };
            Charge::of(&Measured { complete, ..left }, BOUND, Nano(100), &tariffs).cost.0
        };
        assert_eq!((cost("priority", "", false), cost("flex", "", false)), (20, 10));
        assert_eq!((cost("priority", "", true), cost("priority", "flex", false)), (10, 5));
    }

    #[test]
    fn who_is_read_on_for_never_pays_less_than_who_stays() {
        let (tariffs, held) = (priced(1, 2), Nano(100 + 2 * 50));
        let counts = [0, 1, 30, 50, 100, 1_000];
        let reports = counts.iter().flat_map(|input| counts.map(|output| (*input, output)));
        let reports: Vec<_> = reports
            .map(|(input, output)| Some(Usage::tokens_of(input, output)))
            .chain([None])
            .collect();
        for reported in reports {
            for counted_output in counts {
                let measured =
                    Measured { reported, counted_input: 30, counted_output, ..Measured::default() };
                let stays = Charge::of(&measured, BOUND, held, &tariffs);
                let leaves = Charge::of_abandoned(&measured, BOUND, held, &tariffs);
                assert!(stays.cost <= leaves.cost && held <= leaves.cost, "{measured:?}");
                assert!(stays.usage.tokens() <= leaves.usage.tokens(), "{measured:?}");
                assert_eq!(stays.overage, leaves.overage, "{measured:?}");
                let complete = Measured { complete: true, ..measured };
                assert_eq!(
                    Charge::of(&complete, BOUND, held, &tariffs),
                    Charge::of_abandoned(&complete, BOUND, held, &tariffs),
                );
            }
        }
    }

    #[test]
    fn a_report_above_the_bound_is_posted_in_full_and_flagged() {
        let reported = Some(Usage::tokens_of(100, 51));
        let measured = Measured { reported, complete: true, ..Measured::default() };
        let charged = charge(&measured);
        assert!(charged.overage);
        assert_eq!(charged.cost, Nano(202));
    }

    #[test]
    fn what_was_held_to_the_last_token_and_nano_unit_is_no_overage() {
        let tariffs = priced(0, 1);
        let measured = |input, output| Measured {
            reported: Some(Usage::tokens_of(input, output)),
            complete: true,
            ..Measured::default()
        };
        let overage = |measured, held| Charge::of(&measured, BOUND, Nano(held), &tariffs).overage;
        assert!(!overage(measured(100, 50), 50));
        assert!(overage(measured(100, 50), 49), "money");
        assert!(overage(measured(101, 50), 50), "tokens");
    }

    #[test]
    fn what_another_model_had_is_charged_at_its_prices_whole_or_not() {
        let mut tariffs = priced(1, 2);
        tariffs.add("dear".into(), Arc::clone(priced(10, 20).own()));
        let share = Share { model: "dear".into(), usage: Usage::tokens_of(6, 3) };
        let reported = Some(Usage::tokens_of(10, 5));
        let left = Measured { reported, shares: vec![share], ..Measured::default() };
        let cost = |measured: &Measured| Charge::of(measured, BOUND, Nano(200), &tariffs).cost;
        assert_eq!(cost(&Measured { complete: true, ..left.clone() }), Nano(4 + 4 + 60 + 60));
        let more = Measured { counted_output: 7, ..left };
        assert_eq!(cost(&more), Nano(4 + 8 + 60 + 60), "the rest was generated by its own");
    }

    #[test]
    fn each_rule_has_a_name_of_its_own() {
        let rules = [SettledBy::Usage, SettledBy::Estimate, SettledBy::Nothing];
        assert_eq!(rules.map(SettledBy::name), ["usage", "estimate", "none"]);
    }
}
