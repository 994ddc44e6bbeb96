//! What usage costs, computed slowly and anew: kind by kind, each at a price found by name, as
//! fractions of whole numbers, rounded up once. Nothing is taken out of a total here: totals are
//! what the kinds add up to.

/// Where a kind of token has no price of its own, it has that of the next name.
const FALLS_BACK: [(&str, &str); 10] = [
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

/// What is priced for one, not for a million.
const SINGLY: [&str; 3] = ["webSearches", "images", "audioSeconds"];

/// Prices as decimal texts, for calls of a service tier with more input than so much.
pub struct Row {
    pub tier: &'static str,
    pub above: u64,
    pub prices: Vec<(&'static str, String)>,
}

/// The kinds that a usage consists of. Under the name of a total stands what is of no other kind.
pub type Kinds = Vec<(&'static str, u64)>;

/// How many of `unit` there are in all, its kinds included.
pub fn total(kinds: &Kinds, unit: &str) -> u64 {
    let is_of = |kind: &str| {
        let mut name = kind;
        while name != unit {
            match FALLS_BACK.iter().find(|(kind, _)| *kind == name) {
                Some((_, next)) => name = next,
                None => return false,
            }
        }
        true
    };
    kinds.iter().filter(|(kind, _)| is_of(kind)).map(|(_, count)| count).sum()
}

/// Nano-units for `kinds`, answered by `tier`.
pub fn cost(rows: &[Row], tier: &str, kinds: &Kinds) -> i128 {
    let input = total(kinds, "inputTokens");
    let tier = if rows.iter().any(|row| row.tier == tier) { tier } else { "default" };
    let reached = rows.iter().filter(|row| row.tier == tier);
    let reached = reached.filter(|row| row.above == 0 || row.above < input);
    let row = reached.max_by_key(|row| row.above).expect("a row for any input");
    // In units of 10⁻¹⁵: a price has nine decimals and may be for a million.
    let sum: i128 = kinds.iter().map(|(kind, count)| i128::from(*count) * each(row, kind)).sum();
    sum / 1_000_000 + i128::from(sum % 1_000_000 != 0)
}

/// What one of a kind costs, in 10⁻¹⁵.
fn each(row: &Row, kind: &str) -> i128 {
    if let Some((_, price)) = row.prices.iter().find(|(unit, _)| *unit == kind) {
        let nano = nano(price);
        return if SINGLY.contains(&kind) { nano * 1_000_000 } else { nano };
    }
    let next = FALLS_BACK.iter().find(|(own, _)| *own == kind);
    next.map_or(0, |(_, next)| each(row, next))
}

fn nano(text: &str) -> i128 {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{decimals:0<9}");
    digits.parse().expect("decimal text of at most nine decimals")
}

#[test]
fn a_slow_cost_is_what_a_bill_would_say() {
    let text = |price: &str| price.to_owned();
    let row = Row {
        tier: "default",
        above: 0,
        prices: vec![
            ("inputTokens", text("3")),
            ("cachedInputTokens", text("0.3")),
            ("outputTokens", text("15")),
            ("webSearches", text("0.01")),
        ],
    };
    let kinds = vec![
        ("inputTokens", 1_000),
        ("cachedInputTokens", 2_000),
        ("reasoningTokens", 10),
        ("outputTokens", 1),
        ("webSearches", 2),
    ];
    assert_eq!(total(&kinds, "inputTokens"), 3_000);
    assert_eq!(total(&kinds, "outputTokens"), 11);
    assert_eq!(cost(&[row], "flex", &kinds), 3_000_000 + 600_000 + 165_000 + 20_000_000);
    assert_eq!(nano("0.000000001"), 1);
}
