//! Tries: how what was sent to an upstream comes out, for its metrics.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::clock;
use crate::domain::time::UnixMs;
use crate::telemetry::metric;

/// Counts how the tries of an upstream come out.
#[derive(Debug)]
pub struct Tries {
    /// In the order of `RESULTS`.
    results: [Counter; RESULTS.len()],
    up: Gauge,
    /// When it last answered, in milliseconds since 1970; 0 where it never has.
    answered_at: AtomicI64,
    /// How the last try came out that was not answered, as its place in `RESULTS`; 0 for none.
    failed_by: AtomicUsize,
    /// Answers that broke off after they had begun.
    pub cut: Counter,
    /// How often it was passed over for another.
    pub skipped: Counter,
    /// Seconds from the request to the head of the answer, whatever that says.
    pub first_byte: Histogram,
}

/// How a try came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
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

impl Try {
    /// How a try came out that was answered so. An answer about the gateway's credential is the
    /// gateway's fault, and may echo the secret.
    pub fn of(status: StatusCode) -> Self {
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

impl Tries {
    /// Counters for the upstream of that name.
    pub fn new(upstream: &str) -> Self {
        let name = || upstream.to_owned();
        let result = |result: &'static str| counter!(metric::UPSTREAM_TRIES, "upstream" => name(), "result" => result);
        let tries = Self {
            results: RESULTS.map(result),
            answered_at: AtomicI64::new(0),
            failed_by: AtomicUsize::new(0),
            up: gauge!(metric::UPSTREAM_UP, "upstream" => name()),
            cut: counter!(metric::UPSTREAM_CUT, "upstream" => name()),
            skipped: counter!(metric::UPSTREAM_SKIPPED, "upstream" => name()),
            first_byte: histogram!(metric::UPSTREAM_FIRST_BYTE_SECONDS, "upstream" => name()),
        };
        // An absence of trouble can be seen.
        tries.cut.absolute(0);
        tries.skipped.absolute(0);
        tries
    }

    /// Counts a try.
    pub fn count(&self, result: Try) {
        let place = result as usize;
        self.results[place].increment(1);
        if result == Try::Answered {
            self.answered_at.store(clock::now().0, Relaxed);
        } else {
            self.failed_by.store(place, Relaxed);
        }
        let is_up = matches!(result, Try::Answered | Try::RateLimited | Try::Failed);
        self.up.set(if is_up { 1.0 } else { 0.0 });
    }

    /// When it last answered.
    pub fn answered_at(&self) -> Option<UnixMs> {
        Some(UnixMs(self.answered_at.load(Relaxed))).filter(|at| UnixMs(0) < *at)
    }

    /// How the last try came out that was not answered.
    pub fn failed_by(&self) -> Option<&'static str> {
        Some(self.failed_by.load(Relaxed)).filter(|place| 0 < *place).map(|place| RESULTS[place])
    }
}
