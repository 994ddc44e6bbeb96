//! Counts the results of the attempts at an upstream.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::clock;
use crate::domain::time::UnixMs;
use crate::telemetry::metric;

/// Metrics of one upstream.
#[derive(Debug)]
pub struct AttemptMetrics {
    /// One counter per entry of `RESULTS`.
    results: [Counter; RESULTS.len()],
    up: Gauge,
    /// When the upstream last responded, in milliseconds since 1970; 0 if it never has.
    answered_at: AtomicI64,
    /// The last result other than `Answered`, as an index into `RESULTS`; 0 if there is none.
    last_failure: AtomicUsize,
    /// Responses that broke off after they had started.
    pub interrupted: Counter,
    /// How often another target was chosen although this one came first.
    pub skipped: Counter,
    /// Seconds from the request to the response head, for any status.
    pub first_byte: Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// The response is final, whether success or client error.
    Answered,
    /// Status 429.
    RateLimited,
    /// Status 5xx.
    Failed,
    /// The upstream rejected the gateway's credential.
    Credential,
    /// No connection, or one that broke.
    Unreachable,
    TimedOut,
}

/// Values of the metric label `result`, in the order of [`AttemptResult`].
const RESULTS: [&str; 6] =
    ["answered", "rate_limited", "failed", "credential", "unreachable", "timed_out"];

impl AttemptResult {
    /// Classifies a response. A response about the gateway's credential is never forwarded: it is no
    /// fault of the client and may echo the secret.
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
        // Export zeros, so that the absence of errors is visible.
        metrics.interrupted.absolute(0);
        metrics.skipped.absolute(0);
        metrics
    }

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

    pub fn answered_at(&self) -> Option<UnixMs> {
        Some(UnixMs(self.answered_at.load(Relaxed))).filter(|at| UnixMs(0) < *at)
    }

    /// Returns the label of the last result other than `Answered`.
    pub fn last_failure(&self) -> Option<&'static str> {
        Some(self.last_failure.load(Relaxed)).filter(|index| 0 < *index).map(|index| RESULTS[index])
    }
}
