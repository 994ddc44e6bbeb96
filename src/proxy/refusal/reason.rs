//! Refusals: every no of the data plane, and the one match that says how it is told.

use serde_json::{Map, Value, json};

use crate::accounting::admit::AdmissionError;
use crate::accounting::idempotency::KeyConflict;
use crate::dialect::endpoint::Dialect;
use crate::domain::counter::Exceeded;
use crate::domain::idempotency::CompletedCall;
use crate::domain::limit::{Level, Limit, Limits, Measure, Window};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::domain::usage::Unit;
use crate::domain::wallet::WalletShortfall;

/// A no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No key, an unknown one, an expired one, or two different ones.
    Unauthenticated,
    /// The key, its project or its organization may not do this.
    Forbidden(&'static str),
    /// There is no such path here.
    UnknownPath,
    /// There is no such model here.
    UnknownModel(String),
    /// The request is malformed.
    Malformed {
        /// The field, where one is to blame.
        param: Option<&'static str>,
        /// What is wrong and what to do.
        message: String,
    },
    /// The body is larger than this many bytes.
    TooLarge(usize),
    /// The body is coded in a way that is not known here.
    UnsupportedEncoding,
    /// Its `Idempotency-Key` is not free.
    IdempotencyConflict(KeyConflict),
    /// A limit or the wallet.
    NotAdmitted(AdmissionError),
    /// The gateway is about to stop.
    Draining,
    /// No upstream answered.
    UpstreamFailed,
    /// The upstream refused the gateway's own credential.
    CredentialRefused,
    /// The upstream took too long.
    UpstreamTimedOut,
}

/// How a refusal is told, in the words of the OpenAI dialect; `shape` translates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorSpec {
    /// The HTTP status.
    pub status: u16,
    /// The error's `type`.
    pub kind: &'static str,
    /// The error's `code`, and the refusal's name in logs and metrics.
    pub code: &'static str,
    /// Whether it is said in seconds when to come again.
    pub retry_after_s: Option<i64>,
    /// Whether clients should retry by themselves; `None` leaves it to them.
    pub should_retry: Option<bool>,
}

/// How soon to come again where only what is in flight stands in the way.
const RETRY_SOON_S: i64 = 1;

impl ErrorSpec {
    /// The status in that dialect: Anthropic has one of its own for an overload.
    pub const fn status_for(&self, dialect: Dialect) -> u16 {
        match (dialect, self.status) {
            (Dialect::Anthropic, 503) => 529,
            (_, status) => status,
        }
    }
}

impl Refusal {
    /// How it is told, at `now`. The one place where status, code and retry meet.
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
            Self::Malformed { .. } => spec(400, "invalid_request_error", "invalid_request"),
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

    /// What is wrong and what to do.
    pub fn message(&self) -> String {
        match self {
            Self::Unauthenticated | Self::NotAdmitted(AdmissionError::Revoked) => {
                "no valid API key: send one, as `Authorization: Bearer …` or \
                                      where your SDK puts it, and only one"
                    .to_owned()
            }
            Self::Forbidden(why) => (*why).to_owned(),
            Self::UnknownPath => "there is no such method and path here; see the list of \
                                  endpoints in the documentation"
                .to_owned(),
            Self::UnknownModel(name) => format!(
                "the model `{name}` is not served here; GET /v1/models lists those this key may use"
            ),
            Self::Malformed { message, .. } => message.clone(),
            Self::TooLarge(bytes) => format!("the body is larger than {bytes} bytes; send less"),
            Self::UnsupportedEncoding => {
                "the body's content-encoding is not known here; send it as gzip, \
                                    deflate, br or zstd, or without one"
                    .to_owned()
            }
            Self::IdempotencyConflict(conflict) => conflict_message(conflict).to_owned(),
            Self::NotAdmitted(AdmissionError::Limit { exceeded, .. }) => limit_message(exceeded),
            Self::NotAdmitted(AdmissionError::Wallet { shortfall, .. }) => match shortfall {
                WalletShortfall::Inactive => "the organization's wallet is switched off",
                WalletShortfall::OnHold => {
                    "calls in flight hold what is left in the wallet; try again in a moment"
                }
                WalletShortfall::Insufficient => {
                    "the organization's wallet does not cover what this call may cost; recharge \
                     it, or lower max_tokens"
                }
            }
            .to_owned(),
            Self::Draining => "the gateway is about to stop; try again".to_owned(),
            Self::NotAdmitted(AdmissionError::QueueFull) => {
                "too many calls wait for what others hold; try again".to_owned()
            }
            Self::NotAdmitted(AdmissionError::JournalFull) => {
                "the gateway cannot take calls at the moment; try again".to_owned()
            }
            Self::UpstreamFailed => "the upstream could not be reached".to_owned(),
            Self::CredentialRefused => "the upstream does not accept the gateway's own \
                                        credential; tell the gateway's operator"
                .to_owned(),
            Self::UpstreamTimedOut => "the upstream took too long to answer".to_owned(),
        }
    }

    /// The field to blame, where there is one.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Malformed { param, .. } => *param,
            Self::UnknownModel(_) => Some("model"),
            Self::IdempotencyConflict(
                KeyConflict::InFlight(_) | KeyConflict::Completed(_) | KeyConflict::BodyMismatch(_),
            ) => Some("Idempotency-Key"),
            _ => None,
        }
    }

    /// What the error object says besides, in every dialect: which limit, what the wallet was asked
    /// for, or which call has the key. Never what is in the wallet.
    pub fn details(&self) -> Map<String, Value> {
        let details = match self {
            Self::IdempotencyConflict(
                KeyConflict::InFlight(id) | KeyConflict::BodyMismatch(id),
            ) => {
                json!({ "requestLogId": id.to_string() })
            }
            Self::IdempotencyConflict(KeyConflict::Completed(call)) => {
                json!({ "requestLogId": call.id.to_string(), "call": completed_call_json(call) })
            }
            Self::NotAdmitted(AdmissionError::Limit { level, exceeded }) => {
                json!({ "limit": limit_json(*level, exceeded) })
            }
            Self::NotAdmitted(AdmissionError::Wallet { shortfall, required }) => {
                let (required, transient) =
                    (required.to_string(), *shortfall == WalletShortfall::OnHold);
                json!({
                    "required": required,
                    "transient": transient,
                    "limit": {
                        "name": "wallet",
                        "level": "organization",
                        "required": required,
                        "transient": transient,
                    },
                })
            }
            _ => Value::Null,
        };
        match details {
            Value::Object(details) => details,
            _ => Map::new(),
        }
    }
}

fn limit_spec(exceeded: &Exceeded, now: UnixMs) -> ErrorSpec {
    let code = exceeded.limit.code();
    let until_reset_s = (exceeded.reset_at.0 - now.0).max(0) / 1_000 + 1;
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
    if is_transient(exceeded) {
        return spec(kind, RETRY_SOON_S, Some(true));
    }
    match exceeded.limit.window() {
        Window::Minute => spec(kind, until_reset_s.min(60), None),
        Window::Concurrent => spec(kind, RETRY_SOON_S, None),
        Window::Day | Window::Month => spec(kind, until_reset_s, Some(false)),
    }
}

/// Whether only calls in flight stand in the way. Each of them has been counted for good; what it
/// holds of tokens and money may come back, and its place does.
fn is_transient(exceeded: &Exceeded) -> bool {
    let limit = exceeded.limit;
    let returns = limit.measure() != Measure::Requests || limit.window() == Window::Concurrent;
    returns && exceeded.transient()
}

fn limit_message(exceeded: &Exceeded) -> String {
    let amount = |value: i64| amount(exceeded.limit, value);
    format!(
        "{} of {} is reached: {} used, {} held by calls in flight, {} asked for; it resets at {}",
        exceeded.limit.field(),
        amount(exceeded.value),
        amount(exceeded.used),
        amount(exceeded.held),
        amount(exceeded.requested),
        exceeded.reset_at,
    )
}

const fn conflict_message(conflict: &KeyConflict) -> &'static str {
    match conflict {
        KeyConflict::InFlight(_) => {
            "the call with this Idempotency-Key is in flight; wait for its answer, or look it up \
             in the request log"
        }
        KeyConflict::Completed(_) => {
            "the call with this Idempotency-Key was executed already and is not executed again; \
             send another key for another call"
        }
        KeyConflict::BodyMismatch(_) => {
            "this Idempotency-Key was used with another body; send another key for another call"
        }
        KeyConflict::Unavailable => {
            "whether this Idempotency-Key is free cannot be said at the moment; try again"
        }
    }
}

/// How a call came out, in the words of the request log. An object of its own: Gemini's error has
/// another `status`.
fn completed_call_json(call: &CompletedCall) -> Value {
    let counts = Unit::ALL.map(|unit| (unit.name().to_owned(), call.usage.get(unit).into()));
    let usage = Map::from_iter(counts);
    json!({ "status": call.status, "usage": usage, "cost": call.cost.to_string() })
}

/// A count, or money as exact text.
fn amount(limit: Limit, value: i64) -> String {
    match limit.measure() {
        Measure::Spend => Nano(value).to_string(),
        Measure::Requests | Measure::Tokens => value.to_string(),
    }
}

fn limit_json(level: Level, exceeded: &Exceeded) -> Value {
    let value = |value: i64| match exceeded.limit.measure() {
        Measure::Spend => Value::from(Nano(value).to_string()),
        Measure::Requests | Measure::Tokens => Value::from(value.min(Limits::MAX)),
    };
    json!({
        "name": exceeded.limit.field(),
        "level": level.name(),
        "limit": value(exceeded.value),
        "used": value(exceeded.used),
        "held": value(exceeded.held),
        "requested": value(exceeded.requested),
        "resetAt": exceeded.reset_at.to_string(),
        "transient": is_transient(exceeded),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    fn spec(limit: Limit, (used, held): (i64, i64), reset_at: UnixMs) -> ErrorSpec {
        let exceeded = Exceeded { limit, value: 9, used, held, requested: 4, reset_at };
        Refusal::NotAdmitted(AdmissionError::Limit { level: Level::Project, exceeded }).spec(NOW)
    }

    #[test]
    fn a_limit_that_is_used_up_is_not_to_be_retried_before_its_reset() {
        let day = spec(Limit::DailyRequests, (9, 0), NOW.day().next().start());
        assert_eq!((day.status, day.code), (429, "daily_requests_exceeded"));
        assert_eq!((day.retry_after_s, day.should_retry), (Some(48_601), Some(false)));
        let minute = spec(Limit::RequestsPerMinute, (9, 0), NOW.minute().end());
        assert_eq!((minute.retry_after_s, minute.should_retry), (Some(60), None));
        assert_eq!(minute.kind, "rate_limit_error");
    }

    #[test]
    fn a_limit_that_only_calls_in_flight_hold_is_to_be_retried_soon() {
        let day = NOW.day().next().start();
        let soon = (Some(1), Some(true));
        for limit in [Limit::DailyTokens, Limit::MonthlySpend, Limit::ConcurrentCalls] {
            let spec = spec(limit, (5, 1), day);
            assert_eq!((spec.retry_after_s, spec.should_retry), soon, "{limit:?}");
        }
        assert_ne!(spec(Limit::DailyTokens, (6, 1), day).should_retry, Some(true), "used up");
        // A call in flight is counted already: none of its requests comes back.
        assert_ne!(spec(Limit::DailyRequests, (5, 1), day).should_retry, Some(true));
    }

    #[test]
    fn a_wallet_refusal_never_contains_the_balance() {
        let error = AdmissionError::Wallet {
            shortfall: WalletShortfall::OnHold,
            required: Nano(1_500_000_000),
        };
        let details = Value::Object(Refusal::NotAdmitted(error).details());
        let limit = json!({
            "name": "wallet", "level": "organization", "required": "1.50", "transient": true,
        });
        assert_eq!(details, json!({ "required": "1.50", "transient": true, "limit": limit }));
    }

    #[test]
    fn an_overload_has_the_status_of_the_dialect() {
        let spec = Refusal::Draining.spec(NOW);
        assert_eq!(Dialect::ALL.map(|dialect| spec.status_for(dialect)), [503, 529, 503]);
    }
}
