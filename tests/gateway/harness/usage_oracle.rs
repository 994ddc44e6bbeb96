//! The cost of usage, computed independently and slowly: unit by unit, with exact fractions of
//! integers, rounded up at the end. Nothing is subtracted from totals; totals are sums of units.
//! Where reported parts overlap, each token is assigned to one unit.

/// Price fallbacks: a unit without a price has the price of the first of its fallbacks that has
/// one.
const PRICE_FALLBACKS: [(&str, &str); 14] = [
    ("cachedInputAudioTokens", "cachedInputTokens"),
    ("cachedInputAudioTokens", "inputAudioTokens"),
    ("cachedInputImageTokens", "cachedInputTokens"),
    ("cachedInputImageTokens", "inputImageTokens"),
    ("cachedInputTokens", "inputTokens"),
    ("cacheWriteTokens", "inputTokens"),
    ("cacheWrite5mTokens", "cacheWriteTokens"),
    ("cacheWrite1hTokens", "cacheWriteTokens"),
    ("inputAudioTokens", "inputTokens"),
    ("inputImageTokens", "inputTokens"),
    ("toolUseInputTokens", "inputTokens"),
    ("reasoningTokens", "outputTokens"),
    ("outputAudioTokens", "outputTokens"),
    ("outputImageTokens", "outputTokens"),
];

/// A part of a total, and its sub-parts.
type Part = (&'static str, &'static [&'static str]);

/// The parts of each total and their sub-parts, in the order in which they are charged.
const PARTS: [(&str, &[Part]); 2] = [
    (
        "inputTokens",
        &[
            ("cachedInputTokens", &["cachedInputAudioTokens", "cachedInputImageTokens"]),
            ("cacheWriteTokens", &["cacheWrite5mTokens", "cacheWrite1hTokens"]),
            ("inputAudioTokens", &[]),
            ("inputImageTokens", &[]),
            ("toolUseInputTokens", &[]),
        ],
    ),
    (
        "outputTokens",
        &[("reasoningTokens", &[]), ("outputAudioTokens", &[]), ("outputImageTokens", &[])],
    ),
];

/// Cached units and the units that they are part of.
const CACHED_PARTS: [(&str, &str); 2] = [
    ("cachedInputAudioTokens", "inputAudioTokens"),
    ("cachedInputImageTokens", "inputImageTokens"),
];

/// Units that are priced each, not per million.
pub const PRICED_EACH: [&str; 5] =
    ["webSearches", "images", "audioSeconds", "fileSearches", "codeSessions"];

/// Prices as decimal text, for one service tier and for calls with more than `above` input tokens.
pub struct PriceRow {
    pub tier: &'static str,
    pub above_input_tokens: u64,
    pub prices: Vec<(&'static str, String)>,
}

/// Disjoint counts by unit. The name of a total counts what belongs to no other unit.
pub type UnitCounts = Vec<(&'static str, u64)>;

/// The count of `unit`, including the units that are part of it.
pub fn total(counts: &UnitCounts, unit: &str) -> u64 {
    counts.iter().filter(|(kind, _)| is_part_of(kind, unit)).map(|(_, count)| count).sum()
}

fn is_part_of(kind: &str, unit: &str) -> bool {
    kind == unit || fallbacks(kind).any(|next| is_part_of(next, unit))
}

fn fallbacks(kind: &str) -> impl Iterator<Item = &'static str> {
    PRICE_FALLBACKS.iter().filter(move |(unit_name, _)| *unit_name == kind).map(|(_, next)| *next)
}

/// Assigns each reported token to the one unit that it is charged as at the prices of `row`, cached
/// tokens first. The reported counts may overlap and exceed their totals.
pub fn split_by_unit(row: &PriceRow, reported: &UnitCounts) -> UnitCounts {
    let count = |unit: &str| reported.iter().find(|(kind, _)| *kind == unit).map_or(0, |(_, n)| *n);
    let is_priced = |unit: &str| row.prices.iter().any(|(kind, _)| *kind == unit);
    let mut counts = UnitCounts::new();
    for (total, parts) in PARTS {
        let mut tokens = vec![total; usize::try_from(count(total)).expect("few")];
        for (part, sub_parts) in parts {
            let priced_cached = CACHED_PARTS.iter().filter(|(cached, of)| {
                of == part && (is_priced(cached) || is_priced("cachedInputTokens"))
            });
            let priced_cached: u64 = priced_cached.map(|(cached, _)| count(cached)).sum();
            relabel(&mut tokens, total, part, count(part).saturating_sub(priced_cached));
            for kind in sub_parts.iter().filter(|kind| is_priced(kind)) {
                relabel(&mut tokens, part, kind, count(kind));
            }
            if !is_priced(part) {
                relabel(&mut tokens, part, total, u64::MAX);
            }
        }
        counts.extend(tokens.into_iter().map(|kind| (kind, 1)));
    }
    counts
}

/// Turns the first `count` tokens of unit `from` into `to`.
fn relabel(tokens: &mut [&'static str], from: &str, to: &'static str, mut count: u64) {
    for token in tokens.iter_mut().filter(|token| **token == from) {
        if 0 < count {
            (*token, count) = (to, count - 1);
        }
    }
}

/// The cost in nano-units of `kinds` at service tier `tier`.
pub fn cost(rows: &[PriceRow], tier: &str, counts: &UnitCounts) -> i128 {
    let input = total(counts, "inputTokens");
    // A tier in a region falls back to the tier, then to the region.
    let (kind, region) = tier.rsplit_once('-').unwrap_or((tier, tier));
    let has_row = |tier: &&str| rows.iter().any(|row| row.tier == *tier);
    let tier = [tier, kind, region].into_iter().find(has_row).unwrap_or("default");
    let matching = rows.iter().filter(|row| row.tier == tier);
    let matching =
        matching.filter(|row| row.above_input_tokens == 0 || row.above_input_tokens < input);
    let row = matching.max_by_key(|row| row.above_input_tokens).expect("a row for any input");
    // In units of 10⁻¹⁵: a price has nine decimals and may be per million.
    let sum: i128 =
        counts.iter().map(|(kind, count)| i128::from(*count) * unit_price(row, kind)).sum();
    sum / 1_000_000 + i128::from(sum % 1_000_000 != 0)
}

/// The price of one unit, in 10⁻¹⁵.
fn unit_price(row: &PriceRow, kind: &str) -> i128 {
    if let Some((_, price)) = row.prices.iter().find(|(unit, _)| *unit == kind) {
        let nano = nano(price);
        return if PRICED_EACH.contains(&kind) { nano * 1_000_000 } else { nano };
    }
    let is_priced = |next: &&str| row.prices.iter().any(|(unit, _)| unit == next);
    let next = fallbacks(kind).find(is_priced).or_else(|| fallbacks(kind).last());
    next.map_or(0, |next| unit_price(row, next))
}

fn nano(text: &str) -> i128 {
    let (integer, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{integer}{decimals:0<9}");
    digits.parse().expect("decimal text of at most nine decimals")
}

#[test]
fn costs_match_a_manual_calculation() {
    let text = |price: &str| price.to_owned();
    let row = PriceRow {
        tier: "default",
        above_input_tokens: 0,
        prices: vec![
            ("inputTokens", text("3")),
            ("cachedInputTokens", text("0.3")),
            ("outputTokens", text("15")),
            ("webSearches", text("0.01")),
        ],
    };
    let counts = vec![
        ("inputTokens", 1_000),
        ("cachedInputTokens", 2_000),
        ("reasoningTokens", 10),
        ("outputTokens", 1),
        ("webSearches", 2),
    ];
    assert_eq!(total(&counts, "inputTokens"), 3_000);
    assert_eq!(total(&counts, "outputTokens"), 11);
    assert_eq!(cost(&[row], "flex", &counts), 3_000_000 + 600_000 + 165_000 + 20_000_000);
    assert_eq!(nano("0.000000001"), 1);
}

#[test]
fn each_token_is_assigned_to_one_unit() {
    let prices = ["inputTokens", "cachedInputTokens", "inputAudioTokens", "outputTokens"];
    let prices = prices.map(|unit| (unit, "1".to_owned())).to_vec();
    let row = PriceRow { tier: "default", above_input_tokens: 0, prices };
    let reported = vec![
        ("inputTokens", 10),
        ("cachedInputTokens", 5),
        ("cachedInputAudioTokens", 4),
        ("inputAudioTokens", 8),
        ("inputImageTokens", 9),
    ];
    let counts = split_by_unit(&row, &reported);
    let is = |unit| counts.iter().filter(|(kind, _)| *kind == unit).count();
    assert_eq!((is("cachedInputTokens"), is("inputAudioTokens"), is("inputTokens")), (5, 4, 1));
    assert_eq!(total(&counts, "inputTokens"), 10);
}
