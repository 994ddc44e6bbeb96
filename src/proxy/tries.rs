//! Tries: how what was sent to an upstream comes out, for its metrics.

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::telemetry::metric;

/// Counts how the tries of an upstream come out.
#[derive(Debug)]
pub struct Tries {
    answered: Counter,
    rate_limited: Counter,
    failed: Counter,
    credential: Counter,
    unreachable: Counter,
    timed_out: Counter,
    up: Gauge,
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
            answered: result("answered"),
            rate_limited: result("rate_limited"),
            failed: result("failed"),
            credential: result("credential"),
            unreachable: result("unreachable"),
            timed_out: result("timed_out"),
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
        let (counter, is_up) = match result {
            Try::Answered => (&self.answered, 1.0),
            Try::RateLimited => (&self.rate_limited, 1.0),
            Try::Failed => (&self.failed, 1.0),
            Try::Credential => (&self.credential, 0.0),
            Try::Unreachable => (&self.unreachable, 0.0),
            Try::TimedOut => (&self.timed_out, 0.0),
        };
        counter.increment(1);
        self.up.set(is_up);
    }
}
