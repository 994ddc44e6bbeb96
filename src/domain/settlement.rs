//! Settlement: the charge of a call when it ends.

use crate::domain::call_pricing::{CallPricing, ModelUsageShare};
use crate::domain::money::Nano;
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

/// The maximum number of tokens that a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    pub input_tokens: u64,
    /// The sum over all choices.
    pub output_tokens: u64,
}

impl Bound {
    /// Returns the sum of input and output tokens.
    pub const fn tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens
    }
}

/// The rule by which a call was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettledBy {
    /// By the usage that the provider reported.
    Usage,
    /// By the gateway's own count of input and output.
    Estimate,
    NotCharged,
}

impl SettledBy {
    /// Returns the name used in records and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Estimate => "estimate",
            Self::NotCharged => "none",
        }
    }
}

/// What the gateway measured of a call that an upstream answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeasuredUsage {
    /// The last usage reported by the provider.
    pub reported: Option<Usage>,
    /// The parts of the usage that other models account for.
    pub shares: Vec<ModelUsageShare>,
    /// Input tokens as counted by the gateway.
    pub counted_input: u64,
    /// Output tokens as counted by the gateway in the received part of the response.
    pub counted_output: u64,
    /// Non-token units as counted by the gateway; used if the provider reports none.
    pub unit_counts: UnitCounts,
    /// The service tier named in the response.
    pub service_tier: ServiceTier,
    /// The service tier named in the request.
    pub requested_tier: ServiceTier,
    /// Whether the response ended regularly, so that the last report is final.
    pub complete: bool,
}

/// The charge of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    pub usage: Usage,
    pub cost: Nano,
    pub settled_by: SettledBy,
    /// Whether the charge exceeds the hold. It is posted in full even so.
    pub overage: bool,
}

impl Charge {
    pub fn not_charged() -> Self {
        let (usage, cost) = (Usage::default(), Nano::ZERO);
        Self { usage, cost, settled_by: SettledBy::NotCharged, overage: false }
    }

    /// Computes the charge of a call from its measured usage.
    ///
    /// A complete response with a usage report is charged by the report. Any other call is charged
    /// the reported input, or the counted input if none was reported, and the larger of the last
    /// reported and the counted output, so that an early disconnect is never cheaper. Counted
    /// tokens are limited to `bound`.
    pub fn for_call(
        measured: &MeasuredUsage,
        bound: Bound,
        held: Nano,
        pricing: &CallPricing,
    ) -> Self {
        let (usage, settled_by) = match measured.reported {
            Some(usage) if measured.complete => (usage, SettledBy::Usage),
            reported => (estimate(reported, measured, bound), SettledBy::Estimate),
        };
        let cost = |tier| pricing.cost(&usage, &measured.shares, tier);
        let reported_tier = cost(measured.service_tier);
        let cost = match settled_by {
            // A disconnect before the response names its tier must not lower the price.
            SettledBy::Estimate if measured.service_tier.is_default() => {
                reported_tier.max(cost(measured.requested_tier))
            }
            _ => reported_tier,
        };
        let overage = held < cost || bound.tokens() < usage.tokens();
        Self { usage, cost, settled_by, overage }
    }

    /// Computes the charge of a call whose response was drained after its client disconnected.
    ///
    /// A complete response is charged like any other. The usage of an incomplete one is unknown, so
    /// it is charged the whole hold, or the measured usage if that is more.
    pub fn for_disconnected(
        measured: &MeasuredUsage,
        bound: Bound,
        held: Nano,
        pricing: &CallPricing,
    ) -> Self {
        let charge = Self::for_call(measured, bound, held, pricing);
        if measured.complete {
            return charge;
        }
        let input = charge.usage.with(Unit::InputTokens, bound.input_tokens);
        let whole = input.with(Unit::OutputTokens, bound.output_tokens);
        let usage = if whole.tokens() < charge.usage.tokens() { charge.usage } else { whole };
        Self { usage, cost: charge.cost.max(held), ..charge }
    }
}

/// Some providers report a few input tokens at the start of a response and the real number at
/// its end. Input counts up to this value are treated as such placeholders.
const PLACEHOLDER_MAX: u64 = 8;

fn estimate(reported: Option<Usage>, measured: &MeasuredUsage, bound: Bound) -> Usage {
    let reported = reported.unwrap_or_default();
    let counted = measured.counted_input.min(bound.input_tokens);
    let input = match reported.get(Unit::InputTokens) {
        placeholder @ ..=PLACEHOLDER_MAX => placeholder.max(counted),
        reported => reported,
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

    /// Pricing in nano-units per token of input and of output.
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
    fn a_complete_response_is_charged_by_its_report() {
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
    fn an_incomplete_response_is_charged_no_less_than_the_counted_usage() {
        let mut measured =
            MeasuredUsage { counted_input: 30, counted_output: 7, ..MeasuredUsage::default() };
        let charged = charge(&measured);
        assert_eq!((charged.cost, charged.settled_by), (Nano(44), SettledBy::Estimate));
        measured.reported = Some(Usage::from_tokens(12, 9));
        assert_eq!(
            charge(&measured).usage,
            Usage::from_tokens(12, 9),
            "reported input wins over counted input"
        );
        measured.counted_output = 1_000;
        assert_eq!(charge(&measured).usage.get(Unit::OutputTokens), 50, "within the bound");
        measured = MeasuredUsage { complete: true, counted_input: 30, ..MeasuredUsage::default() };
        assert_eq!(charge(&measured).settled_by, SettledBy::Estimate);
    }

    #[test]
    fn a_disconnected_call_is_charged_its_report_or_the_whole_hold() {
        let held = Nano(777);
        let pricing = priced(1, 0);
        let charge =
            |measured: &MeasuredUsage| Charge::for_disconnected(measured, BOUND, held, &pricing);
        let reported = Some(Usage::from_tokens(10, 20));
        let measured = MeasuredUsage { reported, counted_input: 30, ..MeasuredUsage::default() };
        let whole = Charge {
            usage: Usage::from_tokens(100, 50),
            cost: held,
            settled_by: SettledBy::Estimate,
            overage: false,
        };
        assert_eq!(charge(&MeasuredUsage::default()), whole, "nothing is known");
        assert_eq!(charge(&measured), whole, "a report before the end is not final");
        let complete = MeasuredUsage { complete: true, ..measured.clone() };
        assert_eq!(charge(&complete), Charge::for_call(&complete, BOUND, held, &pricing));
        assert_eq!(charge(&complete).settled_by, SettledBy::Usage);
        let reported = Some(Usage::from_tokens(1_000, 20));
        let beyond = charge(&MeasuredUsage { reported, ..measured.clone() });
        assert_eq!((beyond.cost, beyond.overage), (Nano(1_000), true), "never less than measured");
        assert_eq!(beyond.usage, Usage::from_tokens(1_000, 20));
        let reported = Some(Usage::from_tokens(120, 30));
        assert_eq!(
            charge(&MeasuredUsage { reported, ..measured.clone() }).usage,
            whole.usage,
            "no more than held"
        );
    }

    #[test]
    fn unreported_items_are_charged_as_counted() {
        let prices = PriceTable::default().with(Unit::WebSearches, 1_000).expect("in range");
        let pricing = alone(Tariff::flat(prices, "v".into()));
        let counted = UnitCounts::of(Unit::WebSearches, 3);
        let cost = |measured: &MeasuredUsage| {
            Charge::for_call(measured, BOUND, Nano(9_000), &pricing).cost
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
        assert_eq!(cost(&complete), Nano(2_000), "a complete report wins over the count");
    }

    #[test]
    fn the_tier_named_in_the_response_selects_the_price() {
        let row = |name, output| PriceRow {
            tier: ServiceTier::new(name).expect("short"),
            above_input_tokens: 0,
            prices: PriceTable::default().with(Unit::OutputTokens, output).expect("in range"),
        };
        let rows = vec![row("default", 2_000_000), row("flex", 1_000_000)];
        let pricing = alone(Tariff::from_rows(rows, "v".into()).expect("whole"));
        let cost = |name| {
            let service_tier = ServiceTier::new(name).expect("short");
            let reported = Some(Usage::from_tokens(0, 5));
            let measured = MeasuredUsage {
                reported,
                service_tier,
                complete: true,
                ..MeasuredUsage::default()
            };
            Charge::for_call(&measured, BOUND, Nano(100), &pricing).cost
        };
        assert_eq!((cost("flex"), cost("standard"), cost("")), (Nano(5), Nano(10), Nano(10)));
    }

    #[test]
    fn without_a_reported_tier_the_higher_of_default_and_requested_tier_is_charged() {
        let row = |name, output| PriceRow {
            tier: ServiceTier::new(name).expect("short"),
            above_input_tokens: 0,
            prices: PriceTable::default().with(Unit::OutputTokens, output).expect("in range"),
        };
        let rows = vec![row("", 2_000_000), row("flex", 1_000_000), row("priority", 4_000_000)];
        let pricing = alone(Tariff::from_rows(rows, "v".into()).expect("whole"));
        let cost = |requested, reported, complete| {
            let tier = |name| ServiceTier::new(name).expect("short");
            let (requested_tier, service_tier) = (tier(requested), tier(reported));
            let reported = Some(Usage::from_tokens(0, 5));
            let incomplete = MeasuredUsage {
                reported,
                service_tier,
                requested_tier,
                ..MeasuredUsage::default()
            };
            Charge::for_call(&MeasuredUsage { complete, ..incomplete }, BOUND, Nano(100), &pricing)
                .cost
                .0
        };
        assert_eq!((cost("priority", "", false), cost("flex", "", false)), (20, 10));
        assert_eq!((cost("priority", "", true), cost("priority", "flex", false)), (10, 5));
    }

    #[test]
    fn a_drained_call_never_costs_less_than_one_read_to_its_end() {
        let (pricing, held) = (priced(1, 2), Nano(100 + 2 * 50));
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
                let stays = Charge::for_call(&measured, BOUND, held, &pricing);
                let leaves = Charge::for_disconnected(&measured, BOUND, held, &pricing);
                assert!(stays.cost <= leaves.cost && held <= leaves.cost, "{measured:?}");
                assert!(stays.usage.tokens() <= leaves.usage.tokens(), "{measured:?}");
                assert_eq!(stays.overage, leaves.overage, "{measured:?}");
                let complete = MeasuredUsage { complete: true, ..measured };
                assert_eq!(
                    Charge::for_call(&complete, BOUND, held, &pricing),
                    Charge::for_disconnected(&complete, BOUND, held, &pricing),
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
    fn usage_equal_to_the_hold_is_no_overage() {
        let pricing = priced(0, 1);
        let measured = |input, output| MeasuredUsage {
            reported: Some(Usage::from_tokens(input, output)),
            complete: true,
            ..MeasuredUsage::default()
        };
        let overage =
            |measured, held| Charge::for_call(&measured, BOUND, Nano(held), &pricing).overage;
        assert!(!overage(measured(100, 50), 50));
        assert!(overage(measured(100, 50), 49), "money");
        assert!(overage(measured(101, 50), 50), "tokens");
    }

    #[test]
    fn another_models_share_is_charged_at_its_prices_complete_or_not() {
        let mut pricing = priced(1, 2);
        pricing.add_model("dear".into(), Arc::clone(priced(10, 20).primary()));
        let share = ModelUsageShare { model: "dear".into(), usage: Usage::from_tokens(6, 3) };
        let reported = Some(Usage::from_tokens(10, 5));
        let incomplete =
            MeasuredUsage { reported, shares: vec![share], ..MeasuredUsage::default() };
        let cost =
            |measured: &MeasuredUsage| Charge::for_call(measured, BOUND, Nano(200), &pricing).cost;
        assert_eq!(
            cost(&MeasuredUsage { complete: true, ..incomplete.clone() }),
            Nano(4 + 4 + 60 + 60)
        );
        let more = MeasuredUsage { counted_output: 7, ..incomplete };
        assert_eq!(cost(&more), Nano(4 + 8 + 60 + 60), "the rest is the requested model's");
    }

    #[test]
    fn each_rule_has_a_unique_name() {
        let rules = [SettledBy::Usage, SettledBy::Estimate, SettledBy::NotCharged];
        assert_eq!(rules.map(SettledBy::name), ["usage", "estimate", "none"]);
    }
}
