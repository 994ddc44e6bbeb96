//! The tariffs of one call: several models may work on it, each at its own prices.

use std::sync::Arc;

use crate::domain::money::Nano;
use crate::domain::price::round_up_to_nano;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::Tariff;
use crate::domain::usage::{Unit, Usage};

/// The part of a call's usage that a model other than its own had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelUsageShare {
    /// The model, as the answer calls it; empty where it does not say.
    pub model: Box<str>,
    /// What it used.
    pub usage: Usage,
}

/// What a call costs at one place: by the tariff of the model that it is for, and by those of the
/// models that it names beside.
#[derive(Debug, Clone)]
pub struct CallPricing {
    primary: (Arc<str>, Arc<Tariff>),
    others: Vec<(Arc<str>, Arc<Tariff>)>,
}

impl CallPricing {
    /// Those of a call for one model, which is called so there.
    pub const fn new(model: Arc<str>, tariff: Arc<Tariff>) -> Self {
        Self { primary: (model, tariff), others: Vec::new() }
    }

    /// The same with that of a model that may work on the call, too.
    pub fn add_model(&mut self, model: Arc<str>, tariff: Arc<Tariff>) {
        self.others.push((model, tariff));
    }

    /// That of the model which the call is for.
    pub const fn primary(&self) -> &Arc<Tariff> {
        &self.primary.1
    }

    /// All of them.
    pub fn tariffs(&self) -> impl Iterator<Item = &Arc<Tariff>> {
        std::iter::once(&self.primary).chain(&self.others).map(|(_, tariff)| tariff)
    }

    /// The cost of `usage`, answered by that tier, of which other models had these shares: each is
    /// priced by the tariff of its model, and the rest by that of the call's own. Rounded up once.
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

    /// Something that was used and has no price.
    pub fn first_unpriced(
        &self,
        usage: &Usage,
        shares: &[ModelUsageShare],
        tier: ServiceTier,
    ) -> Option<Unit> {
        let lacking = |tariff: &Tariff, usage: &Usage| {
            tariff.prices(tier, usage.input_tokens()).first_unpriced(usage)
        };
        let of_share = |share: &ModelUsageShare| {
            self.tariffs_for(share).find_map(|tariff| lacking(tariff, &share.usage))
        };
        lacking(self.primary(), &primary_usage(usage, shares))
            .or_else(|| shares.iter().find_map(of_share))
    }

    /// Names the prices of a call with these shares: those of its own model, then with a `+` each
    /// those of the others that worked on it.
    pub fn version(&self, shares: &[ModelUsageShare]) -> Arc<str> {
        let others = self.others.iter().map(|(_, tariff)| tariff);
        let worked = others.filter(|other| {
            let mut working = shares.iter().flat_map(|share| self.tariffs_for(share));
            working.any(|tariff| Arc::ptr_eq(tariff, other))
        });
        let mut version = Arc::clone(self.primary().version());
        for tariff in worked {
            version = format!("{version}+{}", tariff.version()).into();
        }
        version
    }

    /// Whose prices a share has: those of the model that it names, as it stands or with a day.
    /// Where it names none that is known, any may have worked, and the dearest counts.
    fn tariffs_for(&self, share: &ModelUsageShare) -> impl Iterator<Item = &Arc<Tariff>> {
        let place = |is_it: fn(&str, &str) -> bool| {
            let mut all = std::iter::once(&self.primary).chain(&self.others);
            all.position(|(model, _)| is_it(&share.model, model))
        };
        let named = place(|said, model| said == model).or_else(|| place(is_dated_version));
        let (from, count) = named.map_or((0, usize::MAX), |at| (at, 1));
        self.tariffs().skip(from).take(count)
    }
}

/// Whether `said` is `model` of some day, as `-20260301` or `-2026-03-01`; `-5` is another model.
fn is_dated_version(reported: &str, model: &str) -> bool {
    const DAYS: [&str; 2] = ["-dddddddd", "-dddd-dd-dd"];
    let day = reported.strip_prefix(model).unwrap_or_default();
    let form: String = day.chars().map(|c| if c.is_ascii_digit() { 'd' } else { c }).collect();
    DAYS.contains(&&*form)
}

/// What is left of the usage for the call's own model.
fn primary_usage(usage: &Usage, shares: &[ModelUsageShare]) -> Usage {
    shares.iter().fold(*usage, |rest, share| rest.minus(&share.usage))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price::PriceTable;
    use crate::domain::tariff::PriceRow;

    /// At these nano-units for a million tokens, of input and of output.
    fn tariff(version: &str, input: i64, output: i64) -> Arc<Tariff> {
        let prices = PriceTable::default().with(Unit::InputTokens, input);
        let prices = prices.and_then(|prices| prices.with(Unit::OutputTokens, output));
        Arc::new(Tariff::flat(prices.expect("in range"), version.into()))
    }

    fn tariffs() -> CallPricing {
        let mut tariffs = CallPricing::new("cheap".into(), tariff("c", 1_000_000, 2_000_000));
        tariffs.add_model("dear".into(), tariff("d", 10_000_000, 20_000_000));
        tariffs.add_model("middle".into(), tariff("m", 3_000_000, 4_000_000));
        tariffs
    }

    fn share(model: &str, input: u64, output: u64) -> ModelUsageShare {
        ModelUsageShare { model: model.into(), usage: Usage::from_tokens(input, output) }
    }

    fn cost(shares: &[ModelUsageShare]) -> i64 {
        tariffs().cost(&Usage::from_tokens(100, 10), shares, ServiceTier::DEFAULT).0
    }

    #[test]
    fn each_model_is_paid_for_what_it_did() {
        assert_eq!(cost(&[]), 100 + 20);
        assert_eq!(cost(&[share("dear", 30, 1)]), 70 + 18 + 300 + 20);
        assert_eq!(cost(&[share("dear", 30, 1), share("middle", 10, 2)]), 60 + 14 + 320 + 38);
        assert_eq!(cost(&[share("cheap", 30, 1)]), 100 + 20, "it may be named as any other");
        assert_eq!(cost(&[share("dear", 100, 10)]), 1_000 + 200, "a fallback did it all");
        assert_eq!(cost(&[share("dear", 500, 10)]), 5_000 + 200, "what a share says is believed");
    }

    #[test]
    fn a_model_goes_by_its_name_and_by_that_of_a_day() {
        let dated = cost(&[share("middle-20260301", 30, 1)]);
        assert_eq!(dated, cost(&[share("middle", 30, 1)]));
        assert_eq!(cost(&[share("middle-2026-03-01", 30, 1)]), dated);
        assert_eq!(cost(&[share("middle", 30, 1), share("cheap-20260301", 9, 1)]), dated);
        let dearest = cost(&[share("dear", 30, 1)]);
        for unknown in ["", "middle-mini", "middle-", "middle-5", "mid", "middle20260301"] {
            assert_eq!(cost(&[share(unknown, 30, 1)]), dearest, "{unknown}");
        }
        // A later version is another model, whichever stands first.
        for (own, other) in [("x-5", "x-5-2"), ("x-5-2", "x-5")] {
            let mut tariffs = CallPricing::new(own.into(), tariff("o", 1_000_000, 0));
            tariffs.add_model(other.into(), tariff("p", 2_000_000, 0));
            let cost = |model| {
                let usage = Usage::from_tokens(10, 0);
                tariffs.cost(&usage, &[share(model, 10, 0)], ServiceTier::DEFAULT).0
            };
            assert_eq!((cost(own), cost(other), cost("x-5-3")), (10, 20, 20));
        }
        let mut dear = CallPricing::new("dear".into(), tariff("d", 9_000_000, 0));
        dear.add_model("cheap".into(), tariff("c", 1_000_000, 0));
        let usage = Usage::from_tokens(10, 0);
        let cost = dear.cost(&usage, &[share("unknown", 10, 0)], ServiceTier::DEFAULT);
        assert_eq!(cost, Nano(90), "the call's own may have done it");
        let alone = CallPricing::new("cheap".into(), tariff("c", 1_000_000, 2_000_000));
        let shares = [share("unknown", 30, 1)];
        let usage = Usage::from_tokens(100, 10);
        assert_eq!(alone.cost(&usage, &shares, ServiceTier::DEFAULT), Nano(120));
    }

    #[test]
    fn a_cost_of_several_models_is_rounded_up_once() {
        let mut tariffs = CallPricing::new("a".into(), tariff("a", 400_000, 0));
        tariffs.add_model("b".into(), tariff("b", 600_000, 0));
        let cost = |share: ModelUsageShare| {
            tariffs.cost(&Usage::from_tokens(2, 0), &[share], ServiceTier::DEFAULT).0
        };
        assert_eq!(cost(share("b", 1, 0)), 1);
        assert_eq!(cost(share("b", 2, 0)), 2);
    }

    #[test]
    fn the_row_of_a_share_is_that_of_its_own_input() {
        let row = |tier: &str, above_input_tokens, nano| PriceRow {
            tier: ServiceTier::new(tier).expect("short"),
            above_input_tokens,
            prices: PriceTable::default().with(Unit::InputTokens, nano).expect("in range"),
        };
        let rows = vec![row("", 0, 1_000_000), row("", 50, 9_000_000), row("fast", 0, 7_000_000)];
        let stepped = Arc::new(Tariff::from_rows(rows, "s".into()).expect("whole"));
        let mut tariffs = CallPricing::new("a".into(), Arc::clone(&stepped));
        tariffs.add_model("b".into(), stepped);
        let usage = Usage::from_tokens(80, 0);
        let cost = |tier: &str, shares: &[ModelUsageShare]| {
            tariffs.cost(&usage, shares, ServiceTier::new(tier).expect("short")).0
        };
        assert_eq!(cost("", &[]), 720);
        assert_eq!(cost("", &[share("b", 30, 0)]), 80);
        assert_eq!(cost("", &[share("b", 60, 0)]), 20 + 540);
        assert_eq!(cost("fast", &[share("b", 60, 0)]), 560);
    }

    #[test]
    fn the_version_names_all_prices_that_were_used() {
        let version = |shares: &[ModelUsageShare]| tariffs().version(shares).to_string();
        assert_eq!(version(&[]), "c");
        assert_eq!(version(&[share("cheap", 1, 1)]), "c");
        assert_eq!(version(&[share("middle", 1, 1)]), "c+m");
        assert_eq!(version(&[share("middle", 1, 1), share("dear", 1, 1)]), "c+d+m");
        assert_eq!(version(&[share("unknown", 1, 1)]), "c+d+m");
        assert_eq!(
            tariffs().tariffs().map(|tariff| &**tariff.version()).collect::<String>(),
            "cdm"
        );
        assert_eq!(&**tariffs().primary().version(), "c");
    }

    #[test]
    fn what_has_no_price_is_found_in_the_rest_and_in_each_share() {
        let searched = Usage::default().with(Unit::WebSearches, 1);
        let priced = PriceTable::default().with(Unit::WebSearches, 1).expect("in range");
        let mut tariffs = CallPricing::new("a".into(), Arc::new(Tariff::flat(priced, "a".into())));
        tariffs.add_model("b".into(), tariff("b", 1, 1));
        let lacking = |shares: &[ModelUsageShare]| {
            tariffs.first_unpriced(&searched, shares, ServiceTier::DEFAULT)
        };
        assert_eq!(lacking(&[]), None);
        assert_eq!(
            lacking(&[ModelUsageShare { model: "b".into(), usage: searched }]),
            Some(Unit::WebSearches)
        );
    }
}
