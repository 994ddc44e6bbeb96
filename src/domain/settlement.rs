//! Settlement: what a call is charged when it ends, however it ends.

use crate::domain::call_pricing::{CallPricing, ModelUsageShare};
use crate::domain::money::Nano;
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;
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
    NotCharged,
}

impl SettledBy {
    /// The word in records and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Estimate => "estimate",
            Self::NotCharged => "none",
        }
    }
}

/// What was learned of a call that an upstream answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeasuredUsage {
    /// The last usage that the provider reported.
    pub reported: Option<Usage>,
    /// What other models had of it.
    pub shares: Vec<ModelUsageShare>,
    /// Input tokens by our own count.
    pub counted_input: u64,
    /// Output tokens by our own count of what came.
    pub counted_output: u64,
    /// What is priced by the piece, by our own count: it stands where no report says.
    pub unit_counts: UnitCounts,
    /// The tier of service that the answer names.
    pub service_tier: ServiceTier,
    /// The tier that was asked for.
    pub requested_tier: ServiceTier,
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
    pub fn not_charged() -> Self {
        let (usage, cost) = (Usage::default(), Nano::ZERO);
        Self { usage, cost, settled_by: SettledBy::NotCharged, overage: false }
    }

    /// The charge for what was measured, against what was held.
    ///
    /// A complete answer with a report is charged by the report. Anything else is charged the input
    /// that was reported, else counted, and the larger of the last report and our own count of the
    /// output: leaving early is never cheaper than staying. What was counted stays within the bound.
    pub fn for_call(
        measured: &MeasuredUsage,
        bound: Bound,
        held: Nano,
        tariffs: &CallPricing,
    ) -> Self {
        let (usage, settled_by) = match measured.reported {
            Some(usage) if measured.complete => (usage, SettledBy::Usage),
            reported => (estimate(reported, measured, bound), SettledBy::Estimate),
        };
        let cost = |tier| tariffs.cost(&usage, &measured.shares, tier);
        let named = cost(measured.service_tier);
        let cost = match settled_by {
            // Who leaves before the answer names its tier does not pay less for that.
            SettledBy::Estimate if measured.service_tier.is_default() => {
                named.max(cost(measured.requested_tier))
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
    pub fn for_disconnected(
        measured: &MeasuredUsage,
        bound: Bound,
        held: Nano,
        tariffs: &CallPricing,
    ) -> Self {
        let known = Self::for_call(measured, bound, held, tariffs);
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

fn estimate(reported: Option<Usage>, measured: &MeasuredUsage, bound: Bound) -> Usage {
    let reported = reported.unwrap_or_default();
    let counted = measured.counted_input.min(bound.input_tokens);
    let input = match reported.get(Unit::InputTokens) {
        unsure @ ..=PLACEHOLDER_MAX => unsure.max(counted),
        known => known,
    };
    let output = measured.counted_output.min(bound.output_tokens);
    let output = reported.get(Unit::OutputTokens).max(output);
    let counted = measured.unit_counts.to_usage();
    let tokens = reported.with(Unit::InputTokens, input).with(Unit::OutputTokens, output);
    counted
        .counts()
        .fold(tokens, |usage, (unit, count)| usage.with(unit, usage.get(unit).max(count)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::price::PriceTable;
    use crate::domain::tariff::{PriceRow, Tariff};

    /// At these nano-units a token, of input and of output.
    fn priced(input: i64, output: i64) -> CallPricing {
        let prices = PriceTable::default()
            .with(Unit::InputTokens, input * 1_000_000)
            .and_then(|prices| prices.with(Unit::OutputTokens, output * 1_000_000));
        alone(Tariff::flat(prices.expect("prices in range"), "v".into()))
    }

    fn alone(tariff: Tariff) -> CallPricing {
        CallPricing::new("m".into(), Arc::new(tariff))
    }

    const BOUND: Bound = Bound { input_tokens: 100, output_tokens: 50 };

    fn charge(measured: &MeasuredUsage) -> Charge {
        Charge::for_call(measured, BOUND, Nano(200), &priced(1, 2))
    }

    #[test]
    fn a_complete_answer_is_charged_by_its_report() {
        let reported = Some(Usage::from_tokens(10, 20));
        let measured = MeasuredUsage {
            reported,
            complete: true,
            counted_input: 99,
            counted_output: 99,
            ..MeasuredUsage::default()
        };
        let charged = charge(&measured);
        assert_eq!((charged.cost, charged.settled_by), (Nano(50), SettledBy::Usage));
        assert!(!charged.overage);
    }

    #[test]
    fn a_broken_answer_is_charged_at_least_what_was_counted() {
        let mut measured =
            MeasuredUsage { counted_input: 30, counted_output: 7, ..MeasuredUsage::default() };
        let charged = charge(&measured);
        assert_eq!((charged.cost, charged.settled_by), (Nano(44), SettledBy::Estimate));
        measured.reported = Some(Usage::from_tokens(12, 9));
        assert_eq!(
            charge(&measured).usage,
            Usage::from_tokens(12, 9),
            "the provider knows its input"
        );
        measured.counted_output = 1_000;
        assert_eq!(charge(&measured).usage.get(Unit::OutputTokens), 50, "within the bound");
        measured = MeasuredUsage { complete: true, counted_input: 30, ..MeasuredUsage::default() };
        assert_eq!(charge(&measured).settled_by, SettledBy::Estimate);
    }

    #[test]
    fn an_abandoned_answer_is_charged_its_report_or_all_that_was_held() {
        let held = Nano(777);
        let tariffs = priced(1, 0);
        let charge =
            |measured: &MeasuredUsage| Charge::for_disconnected(measured, BOUND, held, &tariffs);
        let reported = Some(Usage::from_tokens(10, 20));
        let measured = MeasuredUsage { reported, counted_input: 30, ..MeasuredUsage::default() };
        let whole = Charge {
            usage: Usage::from_tokens(100, 50),
            cost: held,
            settled_by: SettledBy::Estimate,
            overage: false,
        };
        assert_eq!(charge(&MeasuredUsage::default()), whole, "nothing is known");
        assert_eq!(charge(&measured), whole, "a report is not the last before the end");
        let complete = MeasuredUsage { complete: true, ..measured.clone() };
        assert_eq!(charge(&complete), Charge::for_call(&complete, BOUND, held, &tariffs));
        assert_eq!(charge(&complete).settled_by, SettledBy::Usage);
        let reported = Some(Usage::from_tokens(1_000, 20));
        let beyond = charge(&MeasuredUsage { reported, ..measured.clone() });
        assert_eq!((beyond.cost, beyond.overage), (Nano(1_000), true), "never less than is known");
        assert_eq!(beyond.usage, Usage::from_tokens(1_000, 20));
        let reported = Some(Usage::from_tokens(120, 30));
        assert_eq!(
            charge(&MeasuredUsage { reported, ..measured.clone() }).usage,
            whole.usage,
            "no more than held"
        );
    }

    #[test]
    fn pieces_that_no_report_tells_of_are_charged_as_counted() {
        let prices = PriceTable::default().with(Unit::WebSearches, 1_000).expect("in range");
        let tariffs = alone(Tariff::flat(prices, "v".into()));
        let counted = UnitCounts::of(Unit::WebSearches, 3);
        let cost = |measured: &MeasuredUsage| {
            Charge::for_call(measured, BOUND, Nano(9_000), &tariffs).cost
        };
        let measured = MeasuredUsage { unit_counts: counted, ..MeasuredUsage::default() };
        assert_eq!(cost(&measured), Nano(3_000));
        let report = |searches| Usage::default().with(Unit::WebSearches, searches);
        assert_eq!(
            cost(&MeasuredUsage { reported: Some(report(2)), ..measured.clone() }),
            Nano(3_000)
        );
        assert_eq!(
            cost(&MeasuredUsage { reported: Some(report(4)), ..measured.clone() }),
            Nano(4_000)
        );
        let complete =
            MeasuredUsage { reported: Some(report(2)), complete: true, ..measured.clone() };
        assert_eq!(cost(&complete), Nano(2_000), "a complete report stands");
    }

    #[test]
    fn the_tier_that_the_answer_names_is_the_one_that_is_paid() {
        let row = |name, output| PriceRow {
            tier: ServiceTier::new(name).expect("short"),
            above_input_tokens: 0,
            prices: PriceTable::default().with(Unit::OutputTokens, output).expect("in range"),
        };
        let rows = vec![row("default", 2_000_000), row("flex", 1_000_000)];
        let tariffs = alone(Tariff::from_rows(rows, "v".into()).expect("whole"));
        let cost = |name| {
            let service_tier = ServiceTier::new(name).expect("short");
            let reported = Some(Usage::from_tokens(0, 5));
            let measured = MeasuredUsage {
                reported,
                service_tier,
                complete: true,
                ..MeasuredUsage::default()
            };
            Charge::for_call(&measured, BOUND, Nano(100), &tariffs).cost
        };
        assert_eq!((cost("flex"), cost("standard"), cost("")), (Nano(5), Nano(10), Nano(10)));
    }

    #[test]
    fn who_leaves_before_the_tier_is_named_pays_for_the_dearer_of_the_default_and_its_own() {
        let row = |name, output| PriceRow {
            tier: ServiceTier::new(name).expect("short"),
            above_input_tokens: 0,
            prices: PriceTable::default().with(Unit::OutputTokens, output).expect("in range"),
        };
        let rows = vec![row("", 2_000_000), row("flex", 1_000_000), row("priority", 4_000_000)];
        let tariffs = alone(Tariff::from_rows(rows, "v".into()).expect("whole"));
        let cost = |asked, named, complete| {
            let tier = |name| ServiceTier::new(name).expect("short");
            let (asked_tier, service_tier) = (tier(asked), tier(named));
            let reported = Some(Usage::from_tokens(0, 5));
            let left = MeasuredUsage {
                reported,
                service_tier,
                requested_tier: asked_tier,
                ..MeasuredUsage::default()
            };
            Charge::for_call(&MeasuredUsage { complete, ..left }, BOUND, Nano(100), &tariffs).cost.0
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
            .map(|(input, output)| Some(Usage::from_tokens(input, output)))
            .chain([None])
            .collect();
        for reported in reports {
            for counted_output in counts {
                let measured = MeasuredUsage {
                    reported,
                    counted_input: 30,
                    counted_output,
                    ..MeasuredUsage::default()
                };
                let stays = Charge::for_call(&measured, BOUND, held, &tariffs);
                let leaves = Charge::for_disconnected(&measured, BOUND, held, &tariffs);
                assert!(stays.cost <= leaves.cost && held <= leaves.cost, "{measured:?}");
                assert!(stays.usage.tokens() <= leaves.usage.tokens(), "{measured:?}");
                assert_eq!(stays.overage, leaves.overage, "{measured:?}");
                let complete = MeasuredUsage { complete: true, ..measured };
                assert_eq!(
                    Charge::for_call(&complete, BOUND, held, &tariffs),
                    Charge::for_disconnected(&complete, BOUND, held, &tariffs),
                );
            }
        }
    }

    #[test]
    fn a_report_above_the_bound_is_posted_in_full_and_flagged() {
        let reported = Some(Usage::from_tokens(100, 51));
        let measured = MeasuredUsage { reported, complete: true, ..MeasuredUsage::default() };
        let charged = charge(&measured);
        assert!(charged.overage);
        assert_eq!(charged.cost, Nano(202));
    }

    #[test]
    fn what_was_held_to_the_last_token_and_nano_unit_is_no_overage() {
        let tariffs = priced(0, 1);
        let measured = |input, output| MeasuredUsage {
            reported: Some(Usage::from_tokens(input, output)),
            complete: true,
            ..MeasuredUsage::default()
        };
        let overage =
            |measured, held| Charge::for_call(&measured, BOUND, Nano(held), &tariffs).overage;
        assert!(!overage(measured(100, 50), 50));
        assert!(overage(measured(100, 50), 49), "money");
        assert!(overage(measured(101, 50), 50), "tokens");
    }

    #[test]
    fn what_another_model_had_is_charged_at_its_prices_whole_or_not() {
        let mut tariffs = priced(1, 2);
        tariffs.add_model("dear".into(), Arc::clone(priced(10, 20).primary()));
        let share = ModelUsageShare { model: "dear".into(), usage: Usage::from_tokens(6, 3) };
        let reported = Some(Usage::from_tokens(10, 5));
        let left = MeasuredUsage { reported, shares: vec![share], ..MeasuredUsage::default() };
        let cost =
            |measured: &MeasuredUsage| Charge::for_call(measured, BOUND, Nano(200), &tariffs).cost;
        assert_eq!(cost(&MeasuredUsage { complete: true, ..left.clone() }), Nano(4 + 4 + 60 + 60));
        let more = MeasuredUsage { counted_output: 7, ..left };
        assert_eq!(cost(&more), Nano(4 + 8 + 60 + 60), "the rest was generated by its own");
    }

    #[test]
    fn each_rule_has_a_name_of_its_own() {
        let rules = [SettledBy::Usage, SettledBy::Estimate, SettledBy::NotCharged];
        assert_eq!(rules.map(SettledBy::name), ["usage", "estimate", "none"]);
    }
}
