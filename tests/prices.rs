//! Cost is price times usage to the nano-unit: the gateway's own arithmetic against a slow one,
//! for a thousand generated usages of each kind of price.
//!
//! `METEOR_SEED` repeats a run.
#![expect(
    clippy::disallowed_methods,
    reason = "tests stand outside the house: they read clocks and the environment themselves"
)]

use std::time::{SystemTime, UNIX_EPOCH};

use meteor::domain::money::Nano;
use meteor::domain::price::PriceTable;
use meteor::domain::service_tier::ServiceTier;
use meteor::domain::tariff::{self, Tariff};
use meteor::domain::usage::{Unit, UnitSet, Usage};

#[path = "gateway/harness/usage_oracle.rs"]
mod slow;

use slow::{Kinds, Row, apart, cost, total};

/// What a usage consists of; each of these is a kind of price.
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

    /// Small ones as often as large ones.
    fn count(&mut self) -> u64 {
        let end = 10_u64.pow(u32::try_from(self.below(7)).expect("small"));
        self.below(end + 1)
    }

    /// Decimal text of up to nine decimals.
    fn price(&mut self) -> String {
        let decimals = usize::try_from(self.below(10)).expect("small");
        let (whole, part) = (self.below(200), format!("{:09}", self.below(1_000_000_000)));
        if decimals == 0 { whole.to_string() } else { format!("{whole}.{}", &part[..decimals]) }
    }

    /// Prices of which that of `kind` is one.
    fn prices(&mut self, kind: &'static str) -> Vec<(&'static str, String)> {
        let is_given = |unit: &&str| {
            *unit == kind || ["inputTokens", "outputTokens"].contains(unit) || self.below(2) == 0
        };
        let given: Vec<_> = KINDS.into_iter().filter(is_given).collect();
        given.into_iter().map(|unit| (unit, self.price())).collect()
    }

    /// A usage that has some of `kind`.
    fn usage(&mut self, kind: &'static str) -> Kinds {
        let mut kinds: Kinds = Vec::new();
        for other in KINDS {
            let count = if other == kind { 1 + self.count() } else { self.below(2) * self.count() };
            // Nobody makes a million images in a call.
            let is_one = slow::SINGLY.contains(&other);
            kinds.push((other, if is_one { count.min(1_000) } else { count }));
        }
        kinds
    }
}

/// A report of a few tokens whose parts overlap, and are more than their totals now and then.
fn told(random: &mut Random) -> Kinds {
    let mut told: Kinds = KINDS
        .into_iter()
        .filter(|kind| kind.ends_with("Tokens"))
        .map(|kind| (kind, random.below(40)))
        .collect();
    // What readers make sure of: of what was cached no more is of a kind than was cached at all.
    let mut left = total_told(&told, "cachedInputTokens");
    for (kind, count) in &mut told {
        if kind.starts_with("cachedInput") && *kind != "cachedInputTokens" {
            *count = (*count).min(left);
            left -= *count;
        }
    }
    told
}

fn total_told(told: &Kinds, unit: &str) -> u64 {
    told.iter().filter(|(kind, _)| *kind == unit).map(|(_, count)| count).sum()
}

fn random() -> Random {
    let given = std::env::var("METEOR_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("METEOR_SEED is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let seed = given.unwrap_or(u64::from(now.subsec_nanos()));
    println!("METEOR_SEED={seed}");
    Random(seed)
}

fn unit(name: &str) -> Unit {
    Unit::ALL.into_iter().find(|unit| unit.name() == name).expect("a unit of the gateway")
}

/// The same prices as the gateway has them.
fn tariff(rows: &[Row]) -> Tariff {
    let row = |row: &Row| {
        let with = |prices: PriceTable, (name, price): &(&str, String)| {
            let nano = Nano::parse(price).expect("decimal text");
            prices.with(unit(name), nano.0).expect("in range")
        };
        let tier = ServiceTier::new(row.tier).expect("a short name");
        let prices = row.prices.iter().fold(PriceTable::default(), with);
        tariff::PriceRow { tier, above_input_tokens: row.above, prices }
    };
    Tariff::from_rows(rows.iter().map(row).collect(), "v".into()).expect("a row for every call")
}

/// The same usage as the gateway has it: totals, and parts that are included in them.
fn usage(kinds: &Kinds) -> Usage {
    let with = |usage: Usage, unit: Unit| usage.with(unit, total(kinds, unit.name()));
    Unit::ALL.into_iter().fold(Usage::default(), with)
}

fn agree(rows: &[Row], tier: &str, kinds: &Kinds) {
    let named = ServiceTier::new(tier).expect("a short name");
    let fast = tariff(rows).cost(&usage(kinds), named);
    let prices: Vec<_> = rows.iter().map(|row| (row.tier, row.above, &row.prices)).collect();
    assert_eq!(i128::from(fast.0), cost(rows, tier, kinds), "{tier} {kinds:?} at {prices:?}");
}

#[test]
fn each_kind_of_price_costs_what_a_slow_calculation_says() {
    let mut random = random();
    for kind in KINDS {
        for _ in 0..USAGES {
            let rows = [Row { tier: "default", above: 0, prices: random.prices(kind) }];
            agree(&rows, "default", &random.usage(kind));
        }
    }
}

#[test]
fn each_size_of_input_costs_what_a_slow_calculation_says() {
    let mut random = random();
    for _ in 0..USAGES {
        let kinds = random.usage("inputTokens");
        let input = total(&kinds, "inputTokens");
        // Often just at the border.
        let above = (input + random.below(3)).saturating_sub(1).max(1);
        let above = if random.below(2) == 0 { above } else { 1 + random.count() };
        let row = |above, prices| Row { tier: "default", above, prices };
        let first = row(0, random.prices("inputTokens"));
        let second = row(above, random.prices("cachedInputTokens"));
        let third = row(above + 1 + random.count(), random.prices("outputTokens"));
        agree(&[third, first, second], "default", &kinds);
    }
}

#[test]
fn each_service_tier_costs_what_a_slow_calculation_says() {
    let mut random = random();
    for _ in 0..USAGES {
        let kinds = random.usage("outputTokens");
        let above = 1 + random.count();
        let mut rows = Vec::new();
        let others = ["flex", "us", "fast", "fast-us"].into_iter().filter(|_| random.below(2) == 0);
        for tier in ["default"].into_iter().chain(others.collect::<Vec<_>>()) {
            rows.push(Row { tier, above: 0, prices: random.prices("inputTokens") });
            if random.below(2) == 0 {
                rows.push(Row { tier, above, prices: random.prices("outputTokens") });
            }
        }
        for tier in ["default", "flex", "us", "fast", "fast-us", "fast-eu", "of-tomorrow"] {
            agree(&rows, tier, &kinds);
        }
    }
}

#[test]
fn parts_that_overlap_cost_what_a_slow_calculation_says_and_never_more_than_the_hold() {
    let mut random = random();
    for kind in KINDS {
        for _ in 0..USAGES {
            let row = Row { tier: "default", above: 0, prices: random.prices(kind) };
            let told = told(&mut random);
            let kinds = apart(&row, &told);
            let usage = told
                .iter()
                .fold(Usage::default(), |usage, (kind, count)| usage.with(unit(kind), *count));
            let tariff = tariff(std::slice::from_ref(&row));
            let fast = tariff.cost(&usage, ServiceTier::DEFAULT);
            assert_eq!(
                i128::from(fast.0),
                cost(&[row], "default", &kinds),
                "{told:?} at {tariff:?}"
            );
            let used = usage.counts().fold(UnitSet::default(), |units, (unit, _)| units.with(unit));
            let rates = tariff.rows()[0].prices.max_rates_for(used);
            let ceiling = rates.max_cost(usage.input_tokens(), usage.get(Unit::OutputTokens));
            assert!(fast <= ceiling, "{fast:?} of {ceiling:?} for {told:?} at {tariff:?}");
        }
    }
}
