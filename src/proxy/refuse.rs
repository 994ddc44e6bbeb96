//! Refusals: every no of the data plane, and the one match that says how it is told.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::accounting::admit::Denial;
use crate::domain::counter::Exceeded;
use crate::domain::limit::{Level, Limit, Limits, Measure, Window};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::domain::wallet::Short;
use crate::proxy::arrival::Arrival;
use crate::proxy::headers;

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

/// How a refusal is told.
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

const OVERLOADED_RETRY_S: i64 = 1;
const ON_HOLD_RETRY_S: i64 = 1;

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
            Self::Unauthenticated => told(401, "authentication_error", "invalid_api_key"),
            Self::Forbidden(_) => told(403, "permission_error", "permission_denied"),
            Self::UnknownPath => told(404, "invalid_request_error", "unknown_path"),
            Self::UnknownModel(_) => told(404, "invalid_request_error", "model_not_found"),
            Self::Malformed { .. } => told(400, "invalid_request_error", "invalid_request"),
            Self::TooLarge(_) => told(413, "invalid_request_error", "request_too_large"),
            Self::Denied(Denial::Limit { exceeded, .. }) => by_limit(exceeded, now),
            Self::Denied(Denial::Wallet { short: Short::OnHold, .. }) => Told {
                retry_after_s: Some(ON_HOLD_RETRY_S),
                should_retry: Some(true),
                ..told(402, "insufficient_quota", "balance_on_hold")
            },
            Self::Denied(Denial::Wallet { .. }) => Told {
                should_retry: Some(false),
                ..told(402, "insufficient_quota", "insufficient_balance")
            },
            Self::Draining | Self::Denied(Denial::JournalFull) => Told {
                retry_after_s: Some(OVERLOADED_RETRY_S),
                ..told(503, "overloaded_error", "overloaded")
            },
            Self::UpstreamFailed | Self::CredentialRefused => {
                told(502, "upstream_error", "upstream_error")
            }
            Self::UpstreamTimedOut => told(504, "upstream_error", "upstream_timeout"),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Unauthenticated => "no valid API key: send one as `Authorization: Bearer …`, \
                                      and only one"
                .to_owned(),
            Self::Forbidden(why) => (*why).to_owned(),
            Self::UnknownPath => "there is no such method and path here; see the list of \
                                  endpoints in the documentation"
                .to_owned(),
            Self::UnknownModel(name) => format!(
                "the model `{name}` is not served here; GET /v1/models lists those this key may use"
            ),
            Self::Malformed { message, .. } => message.clone(),
            Self::TooLarge(bytes) => format!("the body is larger than {bytes} bytes; send less"),
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

    fn param(&self) -> Option<&'static str> {
        match self {
            Self::Malformed { param, .. } => *param,
            Self::UnknownModel(_) => Some("model"),
            _ => None,
        }
    }

    /// The object that says which limit, or what the wallet was asked for.
    fn limit(&self) -> Option<Value> {
        match self {
            Self::Denied(Denial::Limit { level, exceeded }) => Some(limit_object(*level, exceeded)),
            Self::Denied(Denial::Wallet { short, required }) => Some(json!({
                "name": "wallet",
                "level": "organization",
                "required": required.to_string(),
                "transient": *short == Short::OnHold,
            })),
            _ => None,
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
    match exceeded.limit.window() {
        Window::Minute => told("rate_limit_error", until_reset_s.min(60), None),
        Window::Now => told("rate_limit_error", 1, None),
        Window::Day | Window::Month => told("insufficient_quota", until_reset_s, Some(false)),
    }
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
    // A call that is in flight has been counted for good; what it holds of tokens may come back.
    let returns =
        exceeded.limit.measure() != Measure::Requests || exceeded.limit.window() == Window::Now;
    json!({
        "name": exceeded.limit.field(),
        "level": level.name(),
        "limit": value(exceeded.value),
        "used": value(exceeded.used),
        "held": value(exceeded.held),
        "requested": value(exceeded.requested),
        "resetAt": exceeded.reset_at.to_string(),
        "transient": returns && exceeded.transient(),
    })
}

/// The answer that tells a refusal, in the dialect of the caller.
pub fn answer(refusal: &Refusal, arrival: &Arrival) -> Response<Bytes> {
    let told = refusal.told(arrival.at);
    let mut error = json!({
        "message": refusal.message(),
        "type": told.kind,
        "param": refusal.param(),
        "code": told.code,
    });
    if let (Some(limit), Value::Object(error)) = (refusal.limit(), &mut error) {
        for name in ["required", "transient"] {
            if told.status == 402
                && let Some(value) = limit.get(name)
            {
                error.insert(name.to_owned(), value.clone());
            }
        }
        error.insert("limit".to_owned(), limit);
    }
    let body = json!({ "error": error }).to_string();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() =
        StatusCode::from_u16(told.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(headers::ERROR_SOURCE, error_source(refusal));
    fields.insert(headers::REQUEST_ID, headers::request_id(arrival.id));
    if let Some(seconds) = told.retry_after_s {
        fields.insert(RETRY_AFTER, headers::number(seconds));
    }
    if let Some(retry) = told.should_retry {
        let text = if retry { "true" } else { "false" };
        fields.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static(text));
    }
    response
}

fn error_source(refusal: &Refusal) -> HeaderValue {
    HeaderValue::from_static(match refusal {
        Refusal::UpstreamFailed | Refusal::UpstreamTimedOut => "upstream",
        _ => "gateway",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_limit_is_not_to_be_retried_and_a_minute_is_short() {
        let now = UnixMs(1_705_314_600_000);
        let exceeded = |limit: Limit, reset_at| Exceeded {
            limit,
            value: 1,
            used: 1,
            held: 0,
            requested: 1,
            reset_at: UnixMs(reset_at),
        };
        let denied = |limit, reset_at| {
            let exceeded = exceeded(limit, reset_at);
            Refusal::Denied(Denial::Limit { level: Level::Project, exceeded })
        };
        let day = denied(Limit::DailyRequests, now.day().next().start().0);
        let told = day.told(now);
        assert_eq!((told.status, told.code), (429, "daily_requests_exceeded"));
        assert_eq!((told.retry_after_s, told.should_retry), (Some(48_601), Some(false)));
        let minute = denied(Limit::RequestsPerMinute, now.minute().end().0);
        assert_eq!(minute.told(now).retry_after_s, Some(60));
        assert_eq!(minute.told(now).kind, "rate_limit_error");
    }

    #[test]
    fn a_wallet_refusal_never_tells_the_balance() {
        let denial = Denial::Wallet { short: Short::OnHold, required: Nano(1_500_000_000) };
        let object = Refusal::Denied(denial).limit().expect("an object");
        assert_eq!(object["required"], "1.50");
        assert_eq!(object["transient"], true);
        assert_eq!(object.as_object().map(serde_json::Map::len), Some(4));
    }
}
