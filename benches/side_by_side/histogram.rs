//! A histogram of durations with 32 buckets per doubling, so that percentiles are exact within 3 %.

use std::time::Duration;

const STEPS_BITS: u32 = 5;

#[derive(Default)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Histogram {
    pub fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1 << STEPS_BITS);
        let doubling = nanos.ilog2() - STEPS_BITS;
        let step = (nanos >> doubling) - (1 << STEPS_BITS);
        let bucket = (doubling << STEPS_BITS) as usize + usize::try_from(step).unwrap_or(0);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
    }

    pub fn add_all(&mut self, other: &Self) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the middle of the bucket that holds the percentile.
    pub fn percentile_us(&self, percent: u64) -> f64 {
        let target = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= target && seen > 0 {
                let doubling = bucket >> STEPS_BITS;
                let step = bucket & ((1 << STEPS_BITS) - 1);
                let low = (((1 << STEPS_BITS) + step) << doubling) as f64;
                return (low + (1_u64 << doubling) as f64 / 2.0) / 1000.0;
            }
        }
        0.0
    }
}
