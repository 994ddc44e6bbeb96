//! What one window of a leg measured, and the spread of such figures.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::legs::Leg;
use crate::load::Report;
use crate::processes::CpuUsed;

/// Results of one window.
pub struct Window {
    pub load: Report,
    pub leg_cpu: CpuUsed,
    pub load_cpu_us: f64,
    pub upstream_cpu_us: f64,
    /// Share of the machine used by other processes, 0 to 1.
    pub others: f64,
    pub catch_up: Duration,
}

impl Window {
    pub fn per_second(&self) -> f64 {
        self.load.completed as f64 / self.load.seconds
    }
}

pub type Round = BTreeMap<Leg, Window>;

/// A median and its quartiles.
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarters: usize| {
            // Interpolates between neighbors.
            let position = values.len().saturating_sub(1) * quarters;
            let value = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
            let (below, above) = (value(position / 4), value(position.div_ceil(4)));
            below + (above - below) * (position % 4) as f64 / 4.0
        };
        Self { low: at(1), median: at(2), high: at(3) }
    }
}
