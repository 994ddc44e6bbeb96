//! Refusals: every no of the data plane, and the one match that says how it is told.

use serde_json::{Map, Value, json};

use crate::accounting::admit::Denial;
use crate::accounting::once::Taken;
use crate::dialect::endpoint::Dialect;
use crate::domain::counter::Exceeded;
use crate::domain::limit::{Level, Limit, Limits, Measure, Window};
use crate::domain::money::Nano;
use crate::domain::once::Done;
use crate::domain::time::UnixMs;
use crate::domain::usage::Unit;
use crate::domain::wallet::Short;

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
    UnknownCoding,
    /// Its `Idempotency-Key` is not free.
    Taken(Taken),
    /// A limit or the wallet.
    Denied(Denial),
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
pub struct Told {
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
const SOON_S: i64 = 1;

impl Told {
    /// The status in that dialect: Anthropic has one of its own for an overload.
    pub const fn status_in(&self, dialect: Dialect) -> u16 {
        match (dialect, self.status) {
            (Dialect::Anthropic, 503) => 529,
            (_, status) => status,
        }
    }
}

impl Refusal {
    /// How it is told, at `now`. The one place where status, code and retry meet.
    pub fn told(&self, now: UnixMs) -> Told {
        let told = |status, kind, code| Told {
            status,
            kind,
            code,
            retry_after_s: None,
            should_retry: None,
        };
        match self {
            Self::Unauthenticated | Self::Denied(Denial::Revoked) => {
                told(401, "authentication_error", "invalid_api_key")
            }
            Self::Forbidden(_) => told(403, "permission_error", "permission_denied"),
            Self::UnknownPath => told(404, "invalid_request_error", "unknown_path"),
            Self::UnknownModel(_) => told(404, "invalid_request_error", "model_not_found"),
            Self::Malformed { .. } => told(400, "invalid_request_error", "invalid_request"),
            Self::UnknownCoding => told(415, "invalid_request_error", "unsupported_encoding"),
            Self::TooLarge(_) => told(413, "invalid_request_error", "request_too_large"),
            Self::Taken(Taken::InFlight(_)) => Told {
                should_retry: Some(false),
                ..told(409, "invalid_request_error", "idempotency_key_in_flight")
            },
            Self::Taken(Taken::Done(_)) => Told {
                should_retry: Some(false),
                ..told(409, "invalid_request_error", "already_executed")
            },
            Self::Taken(Taken::Mismatch(_)) => Told {
                should_retry: Some(false),
                ..told(422, "invalid_request_error", "idempotency_mismatch")
            },
            Self::Denied(Denial::Limit { exceeded, .. }) => by_limit(exceeded, now),
            Self::Denied(Denial::Wallet { short: Short::OnHold, .. }) => Told {
                retry_after_s: Some(SOON_S),
                should_retry: Some(true),
                ..told(402, "insufficient_quota", "balance_on_hold")
            },
            Self::Denied(Denial::Wallet { .. }) => Told {
                should_retry: Some(false),
                ..told(402, "insufficient_quota", "insufficient_balance")
            },
            Self::Draining
            | Self::Taken(Taken::Unknown)
            | Self::Denied(Denial::JournalFull | Denial::QueueFull) => {
                Told { retry_after_s: Some(SOON_S), ..told(503, "overloaded_error", "overloaded") }
            }
            Self::UpstreamFailed | Self::CredentialRefused => {
                told(502, "upstream_error", "upstream_error")
            }
            Self::UpstreamTimedOut => told(504, "upstream_error", "upstream_timeout"),
        }
    }

    /// What is wrong and what to do.
    pub fn message(&self) -> String {
        match self {
            Self::Unauthenticated | Self::Denied(Denial::Revoked) => {
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
            Self::UnknownCoding => {
                "the body's content-encoding is not known here; send it as gzip, \
                                    deflate, br or zstd, or without one"
                    .to_owned()
            }
            Self::Taken(taken) => taken_message(taken).to_owned(),
            Self::Denied(Denial::Limit { exceeded, .. }) => limit_message(exceeded),
            Self::Denied(Denial::Wallet { short, .. }) => match short {
                Short::Inactive => "the organization's wallet is switched off",
                Short::OnHold => {
                    "calls in flight hold what is left in the wallet; try again in a moment"
                }
                Short::Insufficient => {
                    "the organization's wallet does not cover what this call may cost; recharge \
                     it, or lower max_tokens"
                }
            }
            .to_owned(),
            Self::Draining => "the gateway is about to stop; try again".to_owned(),
            Self::Denied(Denial::QueueFull) => {
                "too many calls wait for what others hold; try again".to_owned()
            }
            Self::Denied(Denial::JournalFull) => {
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
            Self::Taken(Taken::InFlight(_) | Taken::Done(_) | Taken::Mismatch(_)) => {
                Some("Idempotency-Key")
            }
            _ => None,
        }
    }

    /// What the error object says besides, in every dialect: which limit, what the wallet was asked
    /// for, or which call has the key. Never what is in the wallet.
    pub fn members(&self) -> Map<String, Value> {
        let members = match self {
            Self::Taken(Taken::InFlight(id) | Taken::Mismatch(id)) => {
                json!({ "requestLogId": id.to_string() })
            }
            Self::Taken(Taken::Done(done)) => {
                json!({ "requestLogId": done.id.to_string(), "call": call_object(done) })
            }
            Self::Denied(Denial::Limit { level, exceeded }) => {
                json!({ "limit": limit_object(*level, exceeded) })
            }
            Self::Denied(Denial::Wallet { short, required }) => {
                let (required, transient) = (required.to_string(), *short == Short::OnHold);
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
        match members {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

fn by_limit(exceeded: &Exceeded, now: UnixMs) -> Told {
    let code = exceeded.limit.code();
    let until_reset_s = (exceeded.reset_at.0 - now.0).max(0) / 1_000 + 1;
    let told = |kind, seconds, should_retry| Told {
        status: 429,
        kind,
        code,
        retry_after_s: Some(seconds),
        should_retry,
    };
    let kind = match exceeded.limit.window() {
        Window::Minute | Window::Now => "rate_limit_error",
        Window::Day | Window::Month => "insufficient_quota",
    };
    if is_transient(exceeded) {
        return told(kind, SOON_S, Some(true));
    }
    match exceeded.limit.window() {
        Window::Minute => told(kind, until_reset_s.min(60), None),
        Window::Now => told(kind, SOON_S, None),
        Window::Day | Window::Month => told(kind, until_reset_s, Some(false)),
    }
}

/// Whether only calls in flight stand in the way. Each of them has been counted for good; what it
/// holds of tokens and money may come back, and its place does.
fn is_transient(exceeded: &Exceeded) -> bool {
    let limit = exceeded.limit;
    let returns = limit.measure() != Measure::Requests || limit.window() == Window::Now;
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

const fn taken_message(taken: &Taken) -> &'static str {
    match taken {
        Taken::InFlight(_) => {
            "the call with this Idempotency-Key is in flight; wait for its answer, or look it up \
             in the request log"
        }
        Taken::Done(_) => {
            "the call with this Idempotency-Key was executed already and is not executed again; \
             send another key for another call"
        }
        Taken::Mismatch(_) => {
            "this Idempotency-Key was used with another body; send another key for another call"
        }
        Taken::Unknown => {
            "whether this Idempotency-Key is free cannot be said at the moment; try again"
        }
    }
}

/// How a call came out, in the words of the request log. An object of its own: Gemini's error has
/// another `status`.
fn call_object(done: &Done) -> Value {
    let counts = Unit::ALL.map(|unit| (unit.name().to_owned(), done.usage.get(unit).into()));
    let usage = Map::from_iter(counts);
    json!({ "status": done.status, "usage": usage, "cost": done.cost.to_string() })
}

/// A count, or money as exact text.
fn amount(limit: Limit, value: i64) -> String {
    match limit.measure() {
        Measure::Spend => Nano(value).to_string(),
        Measure::Requests | Measure::Tokens => value.to_string(),
    }
}

fn limit_object(level: Level, exceeded: &Exceeded) -> Value {
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

    fn told(limit: Limit, (used, held): (i64, i64), reset_at: UnixMs) -> Told {
        let exceeded = Exceeded { limit, value: 9, used, held, requested: 4, reset_at };
        Refusal::Denied(Denial::Limit { level: Level::Project, exceeded }).told(NOW)
    }

    #[test]
    fn a_limit_that_is_used_up_is_not_to_be_retried_before_its_reset() {
        let day = told(Limit::DailyRequests, (9, 0), NOW.day().next().start());
        assert_eq!((day.status, day.code), (429, "daily_requests_exceeded"));
        assert_eq!((day.retry_after_s, day.should_retry), (Some(48_601), Some(false)));
        let minute = told(Limit::RequestsPerMinute, (9, 0), NOW.minute().end());
        assert_eq!((minute.retry_after_s, minute.should_retry), (Some(60), None));
        assert_eq!(minute.kind, "rate_limit_error");
    }

    #[test]
    fn a_limit_that_only_calls_in_flight_hold_is_to_be_retried_soon() {
        let day = NOW.day().next().start();
        let soon = (Some(1), Some(true));
        for limit in [Limit::DailyTokens, Limit::MonthlySpend, Limit::ConcurrentCalls] {
            let told = told(limit, (5, 1), day);
            assert_eq!((told.retry_after_s, told.should_retry), soon, "{limit:?}");
        }
        assert_ne!(told(Limit::DailyTokens, (6, 1), day).should_retry, Some(true), "used up");
        // A call in flight is counted already: none of its requests comes back.
        assert_ne!(told(Limit::DailyRequests, (5, 1), day).should_retry, Some(true));
    }

    #[test]
    fn a_wallet_refusal_never_tells_the_balance() {
        let denial = Denial::Wallet { short: Short::OnHold, required: Nano(1_500_000_000) };
        let told = Value::Object(Refusal::Denied(denial).members());
        let limit = json!({
            "name": "wallet", "level": "organization", "required": "1.50", "transient": true,
        });
        assert_eq!(told, json!({ "required": "1.50", "transient": true, "limit": limit }));
    }

    #[test]
    fn an_overload_has_the_status_that_the_dialect_knows() {
        let told = Refusal::Draining.told(NOW);
        assert_eq!(Dialect::ALL.map(|dialect| told.status_in(dialect)), [503, 529, 503]);
    }
}
