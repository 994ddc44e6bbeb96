//! The prices of one call, which may use several models, each with its own tariff.

use std::sync::Arc;

use crate::domain::money::Nano;
use crate::domain::price::round_up_to_nano;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::Tariff;
use crate::domain::usage::{Unit, Usage};

/// The part of a call's usage that a model other than the requested one accounts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelUsageShare {
    /// The model's name in the response; empty if the response does not name it.
    pub model: Box<str>,
    pub usage: Usage,
}

/// The prices of a call at one upstream: the tariff of the requested model, and those of the
/// secondary models that the request names.
#[derive(Debug, Clone)]
pub struct CallPricing {
    primary: (Arc<str>, Arc<Tariff>),
    others: Vec<(Arc<str>, Arc<Tariff>)>,
}

impl CallPricing {
    /// Returns the pricing of a call for one model, by the model's name at the upstream.
    pub const fn new(model: Arc<str>, tariff: Arc<Tariff>) -> Self {
        Self { primary: (model, tariff), others: Vec::new() }
    }

    /// Adds the tariff of a secondary model.
    pub fn add_model(&mut self, model: Arc<str>, tariff: Arc<Tariff>) {
        self.others.push((model, tariff));
    }

    /// Returns the tariff of the requested model.
    pub const fn primary(&self) -> &Arc<Tariff> {
        &self.primary.1
    }

    /// Returns all tariffs, that of the requested model first.
    pub fn tariffs(&self) -> impl Iterator<Item = &Arc<Tariff>> {
        std::iter::once(&self.primary).chain(&self.others).map(|(_, tariff)| tariff)
    }

    /// Returns the cost of `usage` in that tier. Each share is charged by the tariff of its model,
    /// the rest by that of the requested model. The sum is rounded up once.
    pub fn cost(&self, usage: &Usage, shares: &[ModelUsageShare], tier: ServiceTier) -> Nano {
        let cost = |tariff: &Tariff, usage: &Usage| {
            tariff.prices(tier, usage.input_tokens()).cost_unrounded(usage)
        };
        let of_share = |share: &ModelUsageShare| {
            self.tariffs_for(share)
                .map(|tariff| cost(tariff, &share.usage))
                .max()
                .unwrap_or_default()
        };
        let rest = cost(self.primary(), &primary_usage(usage, shares));
        round_up_to_nano(rest + shares.iter().map(of_share).sum::<i128>())
    }

    /// Returns a unit that was used and has no price.
    pub fn first_unpriced(
        &self,
        usage: &Usage,
        shares: &[ModelUsageShare],
        tier: ServiceTier,
    ) -> Option<Unit> {
        let unpriced = |tariff: &Tariff, usage: &Usage| {
            tariff.prices(tier, usage.input_tokens()).first_unpriced(usage)
        };
        let of_share = |share: &ModelUsageShare| {
            self.tariffs_for(share).find_map(|tariff| unpriced(tariff, &share.usage))
        };
        unpriced(self.primary(), &primary_usage(usage, shares))
            .or_else(|| shares.iter().find_map(of_share))
    }

    /// Returns the version of the prices that were used: that of the requested model, then `+` and
    /// the version of each other model with a share.
    pub fn version(&self, shares: &[ModelUsageShare]) -> Arc<str> {
        let others = self.others.iter().map(|(_, tariff)| tariff);
        let used = others.filter(|other| {
            let mut tariffs = shares.iter().flat_map(|share| self.tariffs_for(share));
            tariffs.any(|tariff| Arc::ptr_eq(tariff, other))
        });
        let mut version = Arc::clone(self.primary().version());
        for tariff in used {
            version = format!("{version}+{}", tariff.version()).into();
        }
        version
    }

    /// Returns the tariffs that may apply to a share: that of the named model, with or without a
    /// date suffix. If the name is unknown, all tariffs, of which the highest cost is charged.
    fn tariffs_for(&self, share: &ModelUsageShare) -> impl Iterator<Item = &Arc<Tariff>> {
        let position = |matches: fn(&str, &str) -> bool| {
            let mut models = std::iter::once(&self.primary).chain(&self.others);
            models.position(|(model, _)| matches(&share.model, model))
        };
        let found =
            position(|reported, model| reported == model).or_else(|| position(is_dated_version));
        let (from, count) = found.map_or((0, usize::MAX), |at| (at, 1));
        self.tariffs().skip(from).take(count)
    }
}

/// Returns whether `reported` is `model` with a date suffix, such as `-20260301` or
/// `-2026-03-01`. A suffix such as `-5` names another model.
fn is_dated_version(reported: &str, model: &str) -> bool {
    const DATE_FORMATS: [&str; 2] = ["-dddddddd", "-dddd-dd-dd"];
    let suffix = reported.strip_prefix(model).unwrap_or_default();
    let format: String = suffix.chars().map(|c| if c.is_ascii_digit() { 'd' } else { c }).collect();
    DATE_FORMATS.contains(&&*format)
}

/// Returns the usage of the requested model: all usage without the shares.
fn primary_usage(usage: &Usage, shares: &[ModelUsageShare]) -> Usage {
    shares.iter().fold(*usage, |rest, share| rest.minus(&share.usage))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price::PriceTable;
    use crate::domain::tariff::PriceRow;

    /// A tariff in nano-units per million tokens of input and of output.
    fn tariff(version: &str, input: i64, output: i64) -> Arc<Tariff> {
        let prices = PriceTable::default().with(Unit::InputTokens, input);
        let prices = prices.and_then(|prices| prices.with(Unit::OutputTokens, output));
        Arc::new(Tariff::flat(prices.expect("in range"), version.into()))
    }

    fn pricing() -> CallPricing {
        let mut pricing = CallPricing::new("cheap".into(), tariff("c", 1_000_000, 2_000_000));
        pricing.add_model("dear".into(), tariff("d", 10_000_000, 20_000_000));
        pricing.add_model("middle".into(), tariff("m", 3_000_000, 4_000_000));
        pricing
    }

    fn share(model: &str, input: u64, output: u64) -> ModelUsageShare {
        ModelUsageShare { model: model.into(), usage: Usage::from_tokens(input, output) }
    }

    fn cost(shares: &[ModelUsageShare]) -> i64 {
        pricing().cost(&Usage::from_tokens(100, 10), shares, ServiceTier::DEFAULT).0
    }

    #[test]
    fn each_share_is_charged_at_the_prices_of_its_model() {
        assert_eq!(cost(&[]), 100 + 20);
        assert_eq!(cost(&[share("dear", 30, 1)]), 70 + 18 + 300 + 20);
        assert_eq!(cost(&[share("dear", 30, 1), share("middle", 10, 2)]), 60 + 14 + 320 + 38);
        assert_eq!(cost(&[share("cheap", 30, 1)]), 100 + 20, "a share of the requested model");
        assert_eq!(cost(&[share("dear", 100, 10)]), 1_000 + 200, "a fallback did it all");
        assert_eq!(cost(&[share("dear", 500, 10)]), 5_000 + 200, "a share is charged as reported");
    }

    #[test]
    fn a_model_is_found_by_its_name_and_by_a_dated_version_of_it() {
        let dated = cost(&[share("middle-20260301", 30, 1)]);
        assert_eq!(dated, cost(&[share("middle", 30, 1)]));
        assert_eq!(cost(&[share("middle-2026-03-01", 30, 1)]), dated);
        assert_eq!(cost(&[share("middle", 30, 1), share("cheap-20260301", 9, 1)]), dated);
        let dearest = cost(&[share("dear", 30, 1)]);
        for unknown in ["", "middle-mini", "middle-", "middle-5", "mid", "middle20260301"] {
            assert_eq!(cost(&[share(unknown, 30, 1)]), dearest, "{unknown}");
        }
        // A later version is another model, in either order.
        for (primary, other) in [("x-5", "x-5-2"), ("x-5-2", "x-5")] {
            let mut pricing = CallPricing::new(primary.into(), tariff("o", 1_000_000, 0));
            pricing.add_model(other.into(), tariff("p", 2_000_000, 0));
            let cost = |model| {
                let usage = Usage::from_tokens(10, 0);
                pricing.cost(&usage, &[share(model, 10, 0)], ServiceTier::DEFAULT).0
            };
            assert_eq!((cost(primary), cost(other), cost("x-5-3")), (10, 20, 20));
        }
        let mut dear = CallPricing::new("dear".into(), tariff("d", 9_000_000, 0));
        dear.add_model("cheap".into(), tariff("c", 1_000_000, 0));
        let usage = Usage::from_tokens(10, 0);
        let cost = dear.cost(&usage, &[share("unknown", 10, 0)], ServiceTier::DEFAULT);
        assert_eq!(cost, Nano(90), "the requested model is a candidate too");
        let alone = CallPricing::new("cheap".into(), tariff("c", 1_000_000, 2_000_000));
        let shares = [share("unknown", 30, 1)];
        let usage = Usage::from_tokens(100, 10);
        assert_eq!(alone.cost(&usage, &shares, ServiceTier::DEFAULT), Nano(120));
    }

    #[test]
    fn the_cost_of_several_models_is_rounded_up_one_time() {
        let mut pricing = CallPricing::new("a".into(), tariff("a", 400_000, 0));
        pricing.add_model("b".into(), tariff("b", 600_000, 0));
        let cost = |share: ModelUsageShare| {
            pricing.cost(&Usage::from_tokens(2, 0), &[share], ServiceTier::DEFAULT).0
        };
        assert_eq!(cost(share("b", 1, 0)), 1);
        assert_eq!(cost(share("b", 2, 0)), 2);
    }

    #[test]
    fn the_row_of_a_share_is_selected_by_the_input_of_the_share() {
        let row = |tier: &str, above_input_tokens, nano| PriceRow {
            tier: ServiceTier::new(tier).expect("short"),
            above_input_tokens,
            prices: PriceTable::default().with(Unit::InputTokens, nano).expect("in range"),
        };
        let rows = vec![row("", 0, 1_000_000), row("", 50, 9_000_000), row("fast", 0, 7_000_000)];
        let stepped = Arc::new(Tariff::from_rows(rows, "s".into()).expect("whole"));
        let mut pricing = CallPricing::new("a".into(), Arc::clone(&stepped));
        pricing.add_model("b".into(), stepped);
        let usage = Usage::from_tokens(80, 0);
        let cost = |tier: &str, shares: &[ModelUsageShare]| {
            pricing.cost(&usage, shares, ServiceTier::new(tier).expect("short")).0
        };
        assert_eq!(cost("", &[]), 720);
        assert_eq!(cost("", &[share("b", 30, 0)]), 80);
        assert_eq!(cost("", &[share("b", 60, 0)]), 20 + 540);
        assert_eq!(cost("fast", &[share("b", 60, 0)]), 560);
    }

    #[test]
    fn the_version_names_all_tariffs_that_were_used() {
        let version = |shares: &[ModelUsageShare]| pricing().version(shares).to_string();
        assert_eq!(version(&[]), "c");
        assert_eq!(version(&[share("cheap", 1, 1)]), "c");
        assert_eq!(version(&[share("middle", 1, 1)]), "c+m");
        assert_eq!(version(&[share("middle", 1, 1), share("dear", 1, 1)]), "c+d+m");
        assert_eq!(version(&[share("unknown", 1, 1)]), "c+d+m");
        assert_eq!(
            pricing().tariffs().map(|tariff| &**tariff.version()).collect::<String>(),
            "cdm"
        );
        assert_eq!(&**pricing().primary().version(), "c");
    }

    #[test]
    fn unpriced_units_are_found_in_every_share_and_in_the_rest() {
        let searched = Usage::default().with(Unit::WebSearches, 1);
        let priced = PriceTable::default().with(Unit::WebSearches, 1).expect("in range");
        let mut pricing = CallPricing::new("a".into(), Arc::new(Tariff::flat(priced, "a".into())));
        pricing.add_model("b".into(), tariff("b", 1, 1));
        let unpriced = |shares: &[ModelUsageShare]| {
            pricing.first_unpriced(&searched, shares, ServiceTier::DEFAULT)
        };
        assert_eq!(unpriced(&[]), None);
        assert_eq!(
            unpriced(&[ModelUsageShare { model: "b".into(), usage: searched }]),
            Some(Unit::WebSearches)
        );
    }
}
