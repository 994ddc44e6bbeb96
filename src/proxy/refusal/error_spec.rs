//! The refusals of the data plane, each with its HTTP status, error code and retry advice.

use crate::accounting::admit::AdmissionError;
use crate::accounting::idempotency::KeyConflict;
use crate::dialect::endpoint::Dialect;
use crate::domain::counter::Exceeded;
use crate::domain::limit::Window;
use crate::domain::time::{UnixMs, seconds_until};
use crate::domain::usage::Unit;
use crate::domain::wallet::WalletShortfall;

/// Why the gateway itself answers a call with an error. `message` holds the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The API key is missing, unknown, disabled, revoked or expired, or two keys differ.
    Unauthenticated,
    Forbidden(ForbiddenReason),
    UnknownPath,
    /// No model of this name is served in the dialect of the call.
    UnknownModel(String),
    Invalid(InvalidRequest),
    /// The body is larger than this many bytes.
    TooLarge(usize),
    /// The `Content-Encoding` of the request is not supported.
    UnsupportedEncoding,
    IdempotencyConflict(KeyConflict),
    /// A limit or the wallet does not cover the call.
    NotAdmitted(AdmissionError),
    /// The gateway is shutting down.
    Draining,
    /// No upstream responded, or its response cannot be forwarded.
    UpstreamFailed,
    /// The upstream rejected the gateway's own credential.
    CredentialRefused,
    UpstreamTimedOut,
}

/// What an authenticated caller may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForbiddenReason {
    OrganizationInactive,
    ProjectArchived,
    /// The client address is outside the key's `allowed_cidrs`.
    Address,
    Model,
    /// The request names a second model that the key may not use.
    SecondaryModel,
}

/// Why a request is malformed, or cannot be served as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidRequest {
    /// The parser of the dialect rejected the body.
    Body {
        /// The field at fault, if it is one field.
        param: Option<&'static str>,
        message: String,
    },
    /// The `content-type` of a form has no valid boundary, for this reason.
    FormBoundary(&'static str),
    NotJson,
    NotForm,
    BodyTimedOut,
    /// The connection ended before the whole body arrived.
    BodyIncomplete,
    /// The body cannot be decoded with this `Content-Encoding`.
    Undecodable(&'static str),
    /// The request path holds an invalid model name.
    ModelName,
    /// This query parameter selects a response format that cannot be metered.
    UnmeterableQuery(&'static str),
    IdempotencyKey,
    /// No target of the model has a price for this unit, which the call may use.
    Unpriced(Unit),
    /// This field refers to state at a provider that may belong to another tenant.
    ForeignState(&'static str),
}

/// How a refusal is reported, with the terms of the OpenAI dialect; `error_response` translates
/// them to the other dialects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorSpec {
    /// The HTTP status.
    pub status: u16,
    /// The `type` of the error object.
    pub kind: &'static str,
    /// The `code` of the error object, and the name of the refusal in logs and metrics.
    pub code: &'static str,
    /// The value of `Retry-After`.
    pub retry_after_s: Option<u64>,
    /// Whether SDKs should retry on their own; `None` leaves the choice to them.
    pub should_retry: Option<bool>,
}

/// Retry delay if only calls in flight stand in the way.
const RETRY_SOON_S: u64 = 1;

impl ErrorSpec {
    /// The status in `dialect`: Anthropic has a status of its own for overload.
    pub const fn status_for(&self, dialect: Dialect) -> u16 {
        match (dialect, self.status) {
            (Dialect::Anthropic, 503) => 529,
            (_, status) => status,
        }
    }
}

impl Refusal {
    /// Returns status, code and retry advice at `now`. No other place decides them.
    pub fn spec(&self, now: UnixMs) -> ErrorSpec {
        let spec = |status, kind, code| ErrorSpec {
            status,
            kind,
            code,
            retry_after_s: None,
            should_retry: None,
        };
        match self {
            Self::Unauthenticated | Self::NotAdmitted(AdmissionError::Revoked) => {
                spec(401, "authentication_error", "invalid_api_key")
            }
            Self::Forbidden(_) => spec(403, "permission_error", "permission_denied"),
            Self::UnknownPath => spec(404, "invalid_request_error", "unknown_path"),
            Self::UnknownModel(_) => spec(404, "invalid_request_error", "model_not_found"),
            Self::Invalid(_) => spec(400, "invalid_request_error", "invalid_request"),
            Self::UnsupportedEncoding => spec(415, "invalid_request_error", "unsupported_encoding"),
            Self::TooLarge(_) => spec(413, "invalid_request_error", "request_too_large"),
            Self::IdempotencyConflict(KeyConflict::InFlight(_)) => ErrorSpec {
                should_retry: Some(false),
                ..spec(409, "invalid_request_error", "idempotency_key_in_flight")
            },
            Self::IdempotencyConflict(KeyConflict::Completed(_)) => ErrorSpec {
                should_retry: Some(false),
                ..spec(409, "invalid_request_error", "already_executed")
            },
            Self::IdempotencyConflict(KeyConflict::BodyMismatch(_)) => ErrorSpec {
                should_retry: Some(false),
                ..spec(422, "invalid_request_error", "idempotency_mismatch")
            },
            Self::NotAdmitted(AdmissionError::Limit { exceeded, .. }) => limit_spec(exceeded, now),
            Self::NotAdmitted(AdmissionError::Wallet {
                shortfall: WalletShortfall::OnHold,
                ..
            }) => ErrorSpec {
                retry_after_s: Some(RETRY_SOON_S),
                should_retry: Some(true),
                ..spec(402, "insufficient_quota", "balance_on_hold")
            },
            Self::NotAdmitted(AdmissionError::Wallet { .. }) => ErrorSpec {
                should_retry: Some(false),
                ..spec(402, "insufficient_quota", "insufficient_balance")
            },
            Self::Draining
            | Self::IdempotencyConflict(KeyConflict::Unavailable)
            | Self::NotAdmitted(AdmissionError::JournalFull | AdmissionError::QueueFull) => {
                ErrorSpec {
                    retry_after_s: Some(RETRY_SOON_S),
                    ..spec(503, "overloaded_error", "overloaded")
                }
            }
            Self::UpstreamFailed | Self::CredentialRefused => {
                spec(502, "upstream_error", "upstream_error")
            }
            Self::UpstreamTimedOut => spec(504, "upstream_error", "upstream_timeout"),
        }
    }
}

fn limit_spec(exceeded: &Exceeded, now: UnixMs) -> ErrorSpec {
    let code = exceeded.limit.code();
    let until_reset_s = seconds_until(exceeded.reset_at, now);
    let spec = |kind, seconds, should_retry| ErrorSpec {
        status: 429,
        kind,
        code,
        retry_after_s: Some(seconds),
        should_retry,
    };
    let kind = match exceeded.limit.window() {
        Window::Minute | Window::Concurrent => "rate_limit_error",
        Window::Day | Window::Month => "insufficient_quota",
    };
    if exceeded.transient() {
        return spec(kind, RETRY_SOON_S, Some(true));
    }
    match exceeded.limit.window() {
        Window::Minute => spec(kind, until_reset_s.min(60), None),
        Window::Concurrent => spec(kind, RETRY_SOON_S, None),
        Window::Day | Window::Month => spec(kind, until_reset_s, Some(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::{Level, Limit};

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    fn spec(limit: Limit, used: i64, held: i64, reset_at: UnixMs) -> ErrorSpec {
        let exceeded = Exceeded { limit, value: 9, used, held, requested: 4, reset_at };
        Refusal::NotAdmitted(AdmissionError::Limit { level: Level::Project, exceeded }).spec(NOW)
    }

    #[test]
    fn an_exhausted_limit_is_not_to_be_retried_before_its_reset() {
        let day = spec(Limit::DailyRequests, 9, 0, NOW.day().next().start());
        assert_eq!((day.status, day.code), (429, "daily_requests_exceeded"));
        assert_eq!((day.retry_after_s, day.should_retry), (Some(48_600), Some(false)));
        let minute = spec(Limit::RequestsPerMinute, 9, 0, NOW.minute().end());
        assert_eq!((minute.retry_after_s, minute.should_retry), (Some(60), None));
        assert_eq!(minute.kind, "rate_limit_error");
    }

    #[test]
    fn a_limit_held_by_calls_in_flight_is_to_be_retried_soon() {
        let day = NOW.day().next().start();
        let soon = (Some(1), Some(true));
        for limit in [Limit::DailyTokens, Limit::MonthlySpend, Limit::ConcurrentCalls] {
            let spec = spec(limit, 5, 1, day);
            assert_eq!((spec.retry_after_s, spec.should_retry), soon, "{limit:?}");
        }
        assert_ne!(spec(Limit::DailyTokens, 6, 1, day).should_retry, Some(true), "used up");
        // A call in flight has been counted as a request for good.
        assert_ne!(spec(Limit::DailyRequests, 5, 1, day).should_retry, Some(true));
    }

    #[test]
    fn an_overload_has_the_status_of_the_dialect() {
        let spec = Refusal::Draining.spec(NOW);
        assert_eq!(Dialect::ALL.map(|dialect| spec.status_for(dialect)), [503, 529, 503]);
    }
}
