//! What usage costs, computed slowly and anew: kind by kind, each at a price found by name, as
//! fractions of whole numbers, rounded up once. Nothing is taken out of a total here: totals are
//! what the kinds add up to. Of parts that are told and overlap, each token is given its kind.

/// Where a kind of token has no price of its own, it has that of the next name; of two names the
/// first that has one.
const FALLS_BACK: [(&str, &str); 14] = [
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

/// A part of a total, and its own parts.
type Part = (&'static str, &'static [&'static str]);

/// The parts of each total, and the parts of those, in the order in which they are charged.
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

/// What was cached, and of what.
const CACHED: [(&str, &str); 2] = [
    ("cachedInputAudioTokens", "inputAudioTokens"),
    ("cachedInputImageTokens", "inputImageTokens"),
];

/// What is priced for one, not for a million.
pub const SINGLY: [&str; 5] =
    ["webSearches", "images", "audioSeconds", "fileSearches", "codeSessions"];

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
    kinds.iter().filter(|(kind, _)| is_of(kind, unit)).map(|(_, count)| count).sum()
}

fn is_of(kind: &str, unit: &str) -> bool {
    kind == unit || nexts(kind).any(|next| is_of(next, unit))
}

fn nexts(kind: &str) -> impl Iterator<Item = &'static str> {
    FALLS_BACK.iter().filter(move |(own, _)| *own == kind).map(|(_, next)| *next)
}

/// The kinds that the tokens of a report are charged as at the prices of `row`: token by token,
/// what was cached first. What the report tells may overlap, and be more than its totals.
pub fn apart(row: &Row, told: &Kinds) -> Kinds {
    let count = |unit: &str| told.iter().find(|(kind, _)| *kind == unit).map_or(0, |(_, n)| *n);
    let is_priced = |unit: &str| row.prices.iter().any(|(kind, _)| *kind == unit);
    let mut kinds = Kinds::new();
    for (total, parts) in PARTS {
        let mut tokens = vec![total; usize::try_from(count(total)).expect("few")];
        for (part, inside) in parts {
            let known = CACHED.iter().filter(|(cached, of)| {
                of == part && (is_priced(cached) || is_priced("cachedInputTokens"))
            });
            let known: u64 = known.map(|(cached, _)| count(cached)).sum();
            turn(&mut tokens, total, part, count(part).saturating_sub(known));
            for kind in inside.iter().filter(|kind| is_priced(kind)) {
                turn(&mut tokens, part, kind, count(kind));
            }
            if !is_priced(part) {
                turn(&mut tokens, part, total, u64::MAX);
            }
        }
        kinds.extend(tokens.into_iter().map(|kind| (kind, 1)));
    }
    kinds
}

/// Of the tokens that are `from`, the first `count` become `to`.
fn turn(tokens: &mut [&'static str], from: &str, to: &'static str, mut count: u64) {
    for token in tokens.iter_mut().filter(|token| **token == from) {
        if 0 < count {
            (*token, count) = (to, count - 1);
        }
    }
}

/// Nano-units for `kinds`, answered by `tier`.
pub fn cost(rows: &[Row], tier: &str, kinds: &Kinds) -> i128 {
    let input = total(kinds, "inputTokens");
    // In a place it costs what it does anywhere, else what the place does, if nobody prices both.
    let (kind, place) = tier.rsplit_once('-').unwrap_or((tier, tier));
    let is_known = |tier: &&str| rows.iter().any(|row| row.tier == *tier);
    let tier = [tier, kind, place].into_iter().find(is_known).unwrap_or("default");
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
    let is_priced = |next: &&str| row.prices.iter().any(|(unit, _)| unit == next);
    let next = nexts(kind).find(is_priced).or_else(|| nexts(kind).last());
    next.map_or(0, |next| each(row, next))
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

#[test]
fn a_slow_token_is_of_one_kind() {
    let prices = ["inputTokens", "cachedInputTokens", "inputAudioTokens", "outputTokens"];
    let prices = prices.map(|unit| (unit, "1".to_owned())).to_vec();
    let row = Row { tier: "default", above: 0, prices };
    let told = vec![
        ("inputTokens", 10),
        ("cachedInputTokens", 5),
        ("cachedInputAudioTokens", 4),
        ("inputAudioTokens", 8),
        ("inputImageTokens", 9),
    ];
    let kinds = apart(&row, &told);
    let is = |unit| kinds.iter().filter(|(kind, _)| *kind == unit).count();
    assert_eq!((is("cachedInputTokens"), is("inputAudioTokens"), is("inputTokens")), (5, 4, 1));
    assert_eq!(total(&kinds, "inputTokens"), 10);
}
