//! Costs and charges by the rules in the documentation.

use crate::model::End;

/// Nano-units per million tokens.
#[derive(Debug, Clone, Copy)]
pub struct Tariff {
    pub input: i64,
    /// Price of cached input; `None` if it costs as much as other input.
    pub cached: Option<i64>,
    pub output: i64,
}

/// The models of the simulation. In one of them cached input costs more than other input; one is
/// free.
pub const TARIFFS: [Tariff; 4] = [
    Tariff { input: 3_700_001, cached: None, output: 9_100_003 },
    Tariff { input: 2_000_000, cached: Some(500_001), output: 11_000_000 },
    Tariff { input: 1_300_000, cached: Some(2_900_001), output: 999_999 },
    Tariff { input: 0, cached: None, output: 0 },
];

/// The largest usage of a call.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub input: i64,
    pub output: i64,
}

/// Input, cached part of the input, output.
pub type Report = [i64; 3];

/// What the gateway knows of a call's usage.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownUsage {
    pub reported: Option<Report>,
    pub counted_input: i64,
    pub counted_output: i64,
    pub complete: bool,
}

fn round_up(millionths: i128) -> i64 {
    let up = i128::from(millionths % 1_000_000 != 0);
    i64::try_from(millionths / 1_000_000 + up).expect("a small amount")
}

impl Tariff {
    /// Rounded up after summing.
    pub fn cost(&self, [input, cached, output]: Report) -> i64 {
        let of_cache = i128::from(cached) * i128::from(self.cached.unwrap_or(self.input));
        let of_input = i128::from(input - cached) * i128::from(self.input);
        round_up(of_cache + of_input + i128::from(output) * i128::from(self.output))
    }

    /// The highest cost within the bound.
    pub fn max_cost(&self, bound: Bound) -> i64 {
        let dearest = self.input.max(self.cached.unwrap_or_default());
        let of_input = i128::from(bound.input) * i128::from(dearest);
        round_up(of_input + i128::from(bound.output) * i128::from(self.output))
    }

    /// The charge of an upstream's response: a complete report, or else the larger of the reported
    /// and the counted usage within the bound. Some upstreams first report a placeholder of up to 8
    /// input tokens.
    pub fn charge(&self, usage: &KnownUsage, bound: Bound) -> End {
        let [input, cached, output] = usage.reported.unwrap_or_default();
        let used = if usage.complete && usage.reported.is_some() {
            [input, cached, output]
        } else {
            let counted = usage.counted_input.min(bound.input);
            let input = if 8 < input { input } else { input.max(counted) };
            [input, cached, output.max(usage.counted_output.min(bound.output))]
        };
        let (tokens, money) = (used[0] + used[2], self.cost(used));
        let overage = bound.input + bound.output < tokens || self.max_cost(bound) < money;
        End { counted: true, charged: true, tokens, money, overage }
    }
}
