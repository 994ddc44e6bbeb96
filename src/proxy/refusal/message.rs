//! The texts of all refusals, and the details that their error objects carry.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::accounting::admit::AdmissionError;
use crate::accounting::idempotency::KeyConflict;
use crate::domain::counter::Exceeded;
use crate::domain::idempotency::CompletedCall;
use crate::domain::usage::Unit;
use crate::domain::wallet::WalletShortfall;
use crate::proxy::limit_json::{amount_text, exceeded_json, reset_instant};
use crate::proxy::refusal::error_spec::{ForbiddenReason, InvalidRequest, Refusal};

impl Refusal {
    /// Returns what is wrong and what the client can do.
    pub fn message(&self) -> String {
        let text = match self {
            Self::Unauthenticated | Self::NotAdmitted(AdmissionError::Revoked) => {
                "missing or invalid API key; send one key, as `Authorization: Bearer KEY` or in \
                 the header that your SDK uses"
            }
            Self::Forbidden(reason) => forbidden_text(*reason),
            Self::UnknownPath => {
                "unknown method or path; the documentation lists the supported endpoints"
            }
            Self::UnknownModel(name) => {
                return format!(
                    "model `{name}` not found; GET /v1/models lists the models of this API key"
                );
            }
            Self::Invalid(invalid) => return invalid_text(invalid),
            Self::TooLarge(bytes) => {
                return format!("request body exceeds the limit of {bytes} bytes; send less");
            }
            Self::UnsupportedEncoding => {
                "unsupported Content-Encoding; use gzip, deflate, br or zstd, or send the body \
                 uncompressed"
            }
            Self::IdempotencyConflict(conflict) => conflict_text(conflict),
            Self::NotAdmitted(AdmissionError::Limit { exceeded, .. }) => {
                return limit_text(exceeded);
            }
            Self::NotAdmitted(AdmissionError::Wallet { shortfall, .. }) => wallet_text(*shortfall),
            Self::NotAdmitted(AdmissionError::QueueFull) => {
                "too many calls are waiting for quota or wallet balance; retry"
            }
            Self::NotAdmitted(AdmissionError::JournalFull) => {
                "the gateway is overloaded: its journal is full; retry"
            }
            Self::Draining => "the gateway is shutting down; retry",
            Self::UpstreamFailed => "the upstream could not be reached or failed; retry",
            Self::CredentialRefused => {
                "the upstream rejected the gateway's own credential; contact the gateway operator"
            }
            Self::UpstreamTimedOut => "the upstream did not respond in time; retry",
        };
        text.to_owned()
    }

    /// Returns the request field at fault, if it is one field.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(invalid) => invalid_param(invalid),
            Self::UnknownModel(_) => Some("model"),
            Self::IdempotencyConflict(
                KeyConflict::InFlight(_) | KeyConflict::Completed(_) | KeyConflict::BodyMismatch(_),
            ) => Some("Idempotency-Key"),
            _ => None,
        }
    }

    /// Returns further members of the error object, the same in every dialect: the exceeded limit,
    /// the amount required from the wallet, or the call that owns the idempotency key. Never
    /// contains the balance of the wallet.
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
                let mut details = Map::new();
                details.insert("limit".to_owned(), exceeded_json(*level, exceeded));
                return details;
            }
            Self::NotAdmitted(AdmissionError::Wallet { shortfall, required }) => {
                let required = required.to_string();
                let transient = *shortfall == WalletShortfall::OnHold;
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

const fn forbidden_text(reason: ForbiddenReason) -> &'static str {
    match reason {
        ForbiddenReason::OrganizationInactive => "the organization of this API key is not active",
        ForbiddenReason::ProjectArchived => "the project of this API key is archived",
        ForbiddenReason::Address => "this API key may not be used from this IP address",
        ForbiddenReason::Model => {
            "this API key may not use this model; GET /v1/models lists the models it may use"
        }
        ForbiddenReason::SecondaryModel => {
            "this API key may not use one of the models named in the request body"
        }
    }
}

fn invalid_text(invalid: &InvalidRequest) -> String {
    let text = match invalid {
        InvalidRequest::Body { message, .. } => return message.clone(),
        InvalidRequest::FormBoundary(problem) => problem,
        InvalidRequest::NotJson => "the header content-type must be application/json",
        InvalidRequest::NotForm => "the header content-type must be multipart/form-data",
        InvalidRequest::BodyTimedOut => "the request body did not arrive in time",
        InvalidRequest::BodyIncomplete => "the connection ended before the whole body arrived",
        InvalidRequest::Undecodable(encoding) => {
            return format!(
                "the request body could not be decoded as \"{encoding}\"; check Content-Encoding"
            );
        }
        InvalidRequest::ModelName => "invalid model name in the request path",
        InvalidRequest::UnmeterableQuery(name) => {
            return format!(
                "query parameter `{name}` selects a response format that cannot be metered; \
                 remove it, or use `alt=sse` or `alt=json`"
            );
        }
        InvalidRequest::IdempotencyKey => {
            "the header Idempotency-Key must have 1 to 255 visible ASCII characters and be sent \
             at most one time"
        }
        InvalidRequest::Unpriced(unit) => {
            return format!(
                "this model has no price for `{}`, which the request may use; remove that \
                 feature from the request, or use another model",
                unit.name()
            );
        }
        InvalidRequest::ForeignState(field) => {
            return format!(
                "`{field}` refers to state at the provider that may belong to another tenant; \
                 send the content itself"
            );
        }
    };
    text.to_owned()
}

const fn invalid_param(invalid: &InvalidRequest) -> Option<&'static str> {
    match invalid {
        InvalidRequest::Body { param, .. } => *param,
        InvalidRequest::UnmeterableQuery(name) => Some(name),
        InvalidRequest::ForeignState(field) => Some(field),
        InvalidRequest::ModelName | InvalidRequest::Unpriced(_) => Some("model"),
        InvalidRequest::IdempotencyKey => Some("Idempotency-Key"),
        InvalidRequest::FormBoundary(_)
        | InvalidRequest::NotJson
        | InvalidRequest::NotForm
        | InvalidRequest::BodyTimedOut
        | InvalidRequest::BodyIncomplete
        | InvalidRequest::Undecodable(_) => None,
    }
}

const fn conflict_text(conflict: &KeyConflict) -> &'static str {
    match conflict {
        KeyConflict::InFlight(_) => {
            "a call with this Idempotency-Key is still in flight; wait for its response, or look \
             up `requestLogId` in the request log"
        }
        KeyConflict::Completed(_) => {
            "a call with this Idempotency-Key has already completed and is not repeated; send a \
             new call with a new key"
        }
        KeyConflict::BodyMismatch(_) => {
            "this Idempotency-Key was used with a different request; send a new call with a new \
             key"
        }
        KeyConflict::Unavailable => "the idempotency lookup failed; retry",
    }
}

const fn wallet_text(shortfall: WalletShortfall) -> &'static str {
    match shortfall {
        WalletShortfall::Inactive => "the organization's wallet is disabled",
        WalletShortfall::OnHold => {
            "the remaining wallet balance is held by calls in flight; retry in a moment"
        }
        WalletShortfall::Insufficient => {
            "the wallet balance does not cover the maximum cost of this call; recharge the \
             wallet, or lower `max_tokens`"
        }
    }
}

fn limit_text(exceeded: &Exceeded) -> String {
    let limit = exceeded.limit;
    let amount = |value: i64| amount_text(limit, value);
    let mut text = format!(
        "{} of {} exceeded: {} used, {} held by calls in flight, {} requested",
        limit.field(),
        amount(exceeded.value),
        amount(exceeded.used),
        amount(exceeded.held),
        amount(exceeded.requested),
    );
    if let Some(reset_at) = reset_instant(limit, exceeded.reset_at) {
        // Writing to a string cannot fail.
        let _ = write!(text, "; the limit resets at {reset_at}");
    }
    text
}

/// How the completed call ended, in the terms of the request log. An object of its own, because
/// Gemini's error object has another `status`.
fn completed_call_json(call: &CompletedCall) -> Value {
    let counts = Unit::ALL.map(|unit| (unit.name().to_owned(), call.usage.get(unit).into()));
    let usage = Map::from_iter(counts);
    json!({ "status": call.status, "usage": usage, "cost": call.cost.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::{Level, Limit};
    use crate::domain::money::Nano;
    use crate::domain::time::UnixMs;

    fn text(limit: Limit) -> String {
        let reset_at = UnixMs(1_705_314_600_000);
        let exceeded = Exceeded { limit, value: 9, used: 5, held: 1, requested: 4, reset_at };
        Refusal::NotAdmitted(AdmissionError::Limit { level: Level::Project, exceeded }).message()
    }

    #[test]
    fn a_limit_text_names_the_reset_of_limits_with_a_window() {
        assert_eq!(
            text(Limit::DailyTokens),
            "dailyTokenLimit of 9 exceeded: 5 used, 1 held by calls in flight, 4 requested; the \
             limit resets at 2024-01-15T10:30:00.000Z"
        );
        assert_eq!(
            text(Limit::ConcurrentCalls),
            "concurrentCallsLimit of 9 exceeded: 5 used, 1 held by calls in flight, 4 requested"
        );
    }

    #[test]
    fn a_wallet_refusal_never_contains_the_balance() {
        let (shortfall, required) = (WalletShortfall::OnHold, Nano(1_500_000_000));
        let refusal = Refusal::NotAdmitted(AdmissionError::Wallet { shortfall, required });
        let limit = json!({
            "name": "wallet", "level": "organization", "required": "1.50", "transient": true,
        });
        assert_eq!(
            Value::Object(refusal.details()),
            json!({ "required": "1.50", "transient": true, "limit": limit })
        );
    }
}
