//! Tries: how what was sent to an upstream comes out, for its metrics.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::clock;
use crate::domain::time::UnixMs;
use crate::telemetry::metric;

/// Counts how the tries of an upstream come out.
#[derive(Debug)]
pub struct AttemptMetrics {
    /// In the order of `RESULTS`.
    results: [Counter; RESULTS.len()],
    up: Gauge,
    /// When it last answered, in milliseconds since 1970; 0 where it never has.
    answered_at: AtomicI64,
    /// How the last try came out that was not answered, as its place in `RESULTS`; 0 for none.
    last_failure: AtomicUsize,
    /// Answers that broke off after they had begun.
    pub interrupted: Counter,
    /// How often it was passed over for another.
    pub skipped: Counter,
    /// Seconds from the request to the head of the answer, whatever that says.
    pub first_byte: Histogram,
}

/// How a try came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// With an answer that stands.
    Answered,
    /// With 429.
    RateLimited,
    /// With 5xx.
    Failed,
    /// With a refusal of the gateway's own credential.
    Credential,
    /// Without a connection, or with a broken one.
    Unreachable,
    /// Not in time.
    TimedOut,
}

/// What tries are counted by, in the order of [`Try`].
const RESULTS: [&str; 6] =
    ["answered", "rate_limited", "failed", "credential", "unreachable", "timed_out"];

impl AttemptResult {
    /// How a try came out that was answered so. An answer about the gateway's credential is the
    /// gateway's fault, and may echo the secret.
    pub fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::PAYMENT_REQUIRED | StatusCode::FORBIDDEN => {
                Self::Credential
            }
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited,
            _ if status.is_server_error() => Self::Failed,
            _ => Self::Answered,
        }
    }
}

impl AttemptMetrics {
    /// Counters for the upstream of that name.
    pub fn new(upstream: &str) -> Self {
        let name = || upstream.to_owned();
        let result = |result: &'static str| counter!(metric::UPSTREAM_ATTEMPTS, "upstream" => name(), "result" => result);
        let metrics = Self {
            results: RESULTS.map(result),
            answered_at: AtomicI64::new(0),
            last_failure: AtomicUsize::new(0),
            up: gauge!(metric::UPSTREAM_UP, "upstream" => name()),
            interrupted: counter!(metric::UPSTREAM_INTERRUPTED, "upstream" => name()),
            skipped: counter!(metric::UPSTREAM_SKIPPED, "upstream" => name()),
            first_byte: histogram!(metric::UPSTREAM_FIRST_BYTE_SECONDS, "upstream" => name()),
        };
        // An absence of trouble can be seen.
        metrics.interrupted.absolute(0);
        metrics.skipped.absolute(0);
        metrics
    }

    /// Counts a try.
    pub fn record(&self, result: AttemptResult) {
        let index = result as usize;
        self.results[index].increment(1);
        if result == AttemptResult::Answered {
            self.answered_at.store(clock::wall_now().0, Relaxed);
        } else {
            self.last_failure.store(index, Relaxed);
        }
        let is_up = matches!(
            result,
            AttemptResult::Answered | AttemptResult::RateLimited | AttemptResult::Failed
        );
        self.up.set(if is_up { 1.0 } else { 0.0 });
    }

    /// When it last answered.
    pub fn answered_at(&self) -> Option<UnixMs> {
        Some(UnixMs(self.answered_at.load(Relaxed))).filter(|at| UnixMs(0) < *at)
    }

    /// How the last try came out that was not answered.
    pub fn last_failure(&self) -> Option<&'static str> {
        Some(self.last_failure.load(Relaxed)).filter(|index| 0 < *index).map(|place| RESULTS[place])
    }
}
