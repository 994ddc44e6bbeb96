//! Compares the gateway's cost calculation with a slow, independent one, to the nano-unit, for a
//! thousand random usages of each kind of price.
//!
//! `METEOR_SEED` repeats a run.
#![expect(clippy::disallowed_methods, reason = "tests read clocks and the environment themselves")]

use std::time::{SystemTime, UNIX_EPOCH};

use meteor::domain::money::Nano;
use meteor::domain::price::PriceTable;
use meteor::domain::service_tier::ServiceTier;
use meteor::domain::tariff::{self, Tariff};
use meteor::domain::usage::{Unit, UnitSet, Usage};

#[path = "gateway/harness/usage_oracle.rs"]
mod slow;

use slow::{PriceRow, UnitCounts, cost, split_by_unit, total};

/// The kinds of a usage; each has a price.
const KINDS: [&str; 20] = [
    "inputTokens",
    "cachedInputTokens",
    "cachedInputAudioTokens",
    "cachedInputImageTokens",
    "cacheWriteTokens",
    "cacheWrite5mTokens",
    "cacheWrite1hTokens",
    "inputAudioTokens",
    "inputImageTokens",
    "toolUseInputTokens",
    "outputTokens",
    "reasoningTokens",
    "outputAudioTokens",
    "outputImageTokens",
    "webSearches",
    "images",
    "audioSeconds",
    "characters",
    "fileSearches",
    "codeSessions",
];
const USAGES: usize = 1_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns a count whose order of magnitude is random.
    fn count(&mut self) -> u64 {
        let end = 10_u64.pow(u32::try_from(self.below(7)).expect("small"));
        self.below(end + 1)
    }

    /// Returns decimal text with up to nine decimals.
    fn price(&mut self) -> String {
        let decimals = usize::try_from(self.below(10)).expect("small");
        let (whole, part) = (self.below(200), format!("{:09}", self.below(1_000_000_000)));
        if decimals == 0 { whole.to_string() } else { format!("{whole}.{}", &part[..decimals]) }
    }

    /// Returns random prices, including one of `kind`.
    fn prices(&mut self, kind: &'static str) -> Vec<(&'static str, String)> {
        let has_price = |unit: &&str| {
            *unit == kind || ["inputTokens", "outputTokens"].contains(unit) || self.below(2) == 0
        };
        let priced: Vec<_> = KINDS.into_iter().filter(has_price).collect();
        priced.into_iter().map(|unit| (unit, self.price())).collect()
    }

    /// Returns a random usage with at least one of `kind`.
    fn usage(&mut self, kind: &'static str) -> UnitCounts {
        let mut kinds: UnitCounts = Vec::new();
        for other in KINDS {
            let count = if other == kind { 1 + self.count() } else { self.below(2) * self.count() };
            // A realistic count, because these are expensive.
            let is_one = slow::PRICED_EACH.contains(&other);
            kinds.push((other, if is_one { count.min(1_000) } else { count }));
        }
        kinds
    }
}

/// Returns a report of few tokens whose parts overlap and sometimes exceed their totals.
fn random_report(random: &mut Random) -> UnitCounts {
    let mut report: UnitCounts = KINDS
        .into_iter()
        .filter(|kind| kind.ends_with("Tokens"))
        .map(|kind| (kind, random.below(40)))
        .collect();
    // As the response readers ensure: cached tokens by modality do not exceed cached tokens.
    let mut left = count_of(&report, "cachedInputTokens");
    for (kind, count) in &mut report {
        if kind.starts_with("cachedInput") && *kind != "cachedInputTokens" {
            *count = (*count).min(left);
            left -= *count;
        }
    }
    report
}

fn count_of(report: &UnitCounts, unit: &str) -> u64 {
    report.iter().filter(|(kind, _)| *kind == unit).map(|(_, count)| count).sum()
}

fn random() -> Random {
    let seed = std::env::var("METEOR_SEED").ok();
    let seed = seed.map(|seed| seed.parse().expect("METEOR_SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let seed = seed.unwrap_or(u64::from(now.subsec_nanos()));
    println!("METEOR_SEED={seed}");
    Random(seed)
}

fn unit(name: &str) -> Unit {
    Unit::ALL.into_iter().find(|unit| unit.name() == name).expect("a unit of the gateway")
}

/// Converts rows of the slow calculation to a tariff of the gateway.
fn tariff(rows: &[PriceRow]) -> Tariff {
    let row = |row: &PriceRow| {
        let with = |prices: PriceTable, (name, price): &(&str, String)| {
            let nano = Nano::parse(price).expect("decimal text");
            prices.with(unit(name), nano.0).expect("in range")
        };
        let tier = ServiceTier::new(row.tier).expect("a short name");
        let prices = row.prices.iter().fold(PriceTable::default(), with);
        tariff::PriceRow { tier, above_input_tokens: row.above_input_tokens, prices }
    };
    Tariff::from_rows(rows.iter().map(row).collect(), "v".into()).expect("a row for every call")
}

/// Converts disjoint kinds to a usage of the gateway, whose totals include their parts.
fn usage(kinds: &UnitCounts) -> Usage {
    let with = |usage: Usage, unit: Unit| usage.with(unit, total(kinds, unit.name()));
    Unit::ALL.into_iter().fold(Usage::default(), with)
}

fn agree(rows: &[PriceRow], tier: &str, kinds: &UnitCounts) {
    let named = ServiceTier::new(tier).expect("a short name");
    let fast = tariff(rows).cost(&usage(kinds), named);
    let prices: Vec<_> =
        rows.iter().map(|row| (row.tier, row.above_input_tokens, &row.prices)).collect();
    assert_eq!(i128::from(fast.0), cost(rows, tier, kinds), "{tier} {kinds:?} at {prices:?}");
}

#[test]
fn each_kind_of_price_costs_the_same_as_the_slow_calculation() {
    let mut random = random();
    for kind in KINDS {
        for _ in 0..USAGES {
            let rows =
                [PriceRow { tier: "default", above_input_tokens: 0, prices: random.prices(kind) }];
            agree(&rows, "default", &random.usage(kind));
        }
    }
}

#[test]
fn each_size_of_input_costs_the_same_as_the_slow_calculation() {
    let mut random = random();
    for _ in 0..USAGES {
        let kinds = random.usage("inputTokens");
        let input = total(&kinds, "inputTokens");
        // Often exactly at the threshold.
        let above = (input + random.below(3)).saturating_sub(1).max(1);
        let above = if random.below(2) == 0 { above } else { 1 + random.count() };
        let row = |above, prices| PriceRow { tier: "default", above_input_tokens: above, prices };
        let first = row(0, random.prices("inputTokens"));
        let second = row(above, random.prices("cachedInputTokens"));
        let third = row(above + 1 + random.count(), random.prices("outputTokens"));
        agree(&[third, first, second], "default", &kinds);
    }
}

#[test]
fn each_service_tier_costs_the_same_as_the_slow_calculation() {
    let mut random = random();
    for _ in 0..USAGES {
        let kinds = random.usage("outputTokens");
        let above = 1 + random.count();
        let mut rows = Vec::new();
        let others = ["flex", "us", "fast", "fast-us"].into_iter().filter(|_| random.below(2) == 0);
        for tier in ["default"].into_iter().chain(others.collect::<Vec<_>>()) {
            rows.push(PriceRow {
                tier,
                above_input_tokens: 0,
                prices: random.prices("inputTokens"),
            });
            if random.below(2) == 0 {
                rows.push(PriceRow {
                    tier,
                    above_input_tokens: above,
                    prices: random.prices("outputTokens"),
                });
            }
        }
        for tier in ["default", "flex", "us", "fast", "fast-us", "fast-eu", "of-tomorrow"] {
            agree(&rows, tier, &kinds);
        }
    }
}

#[test]
fn overlapping_parts_cost_the_same_as_the_slow_calculation_and_never_more_than_the_hold() {
    let mut random = random();
    for kind in KINDS {
        for _ in 0..USAGES {
            let row =
                PriceRow { tier: "default", above_input_tokens: 0, prices: random.prices(kind) };
            let report = random_report(&mut random);
            let kinds = split_by_unit(&row, &report);
            let usage = report
                .iter()
                .fold(Usage::default(), |usage, (kind, count)| usage.with(unit(kind), *count));
            let tariff = tariff(std::slice::from_ref(&row));
            let fast = tariff.cost(&usage, ServiceTier::DEFAULT);
            assert_eq!(
                i128::from(fast.0),
                cost(&[row], "default", &kinds),
                "{report:?} at {tariff:?}"
            );
            let used = usage.counts().fold(UnitSet::default(), |units, (unit, _)| units.with(unit));
            let rates = tariff.rows()[0].prices.max_rates_for(used);
            let ceiling = rates.max_cost(usage.input_tokens(), usage.get(Unit::OutputTokens));
            assert!(fast <= ceiling, "{fast:?} of {ceiling:?} for {report:?} at {tariff:?}");
        }
    }
}
