//! Shape: a refusal as an answer, in the words of each dialect.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::dialect::endpoint::Dialect;
use crate::domain::ids::RequestLogId;
use crate::proxy::headers;
use crate::proxy::refusal::reason::{ErrorSpec, Refusal};
use crate::proxy::request_context::RequestContext;

/// Whether an SDK is to retry by itself.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The answer that tells a refusal, in the dialect of the caller.
pub fn error_response(
    refusal: &Refusal,
    dialect: Dialect,
    ctx: &RequestContext,
) -> Response<Bytes> {
    let spec = refusal.spec(ctx.received_at);
    let body = match dialect {
        Dialect::OpenAi => openai(refusal, &spec),
        Dialect::Anthropic => anthropic(refusal, &spec, ctx.id),
        Dialect::Gemini => gemini(refusal, &spec),
    };
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(spec.status_for(dialect)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(headers::ERROR_SOURCE, error_source(refusal));
    headers::add_id(fields, ctx.id, dialect);
    if let Some(seconds) = spec.retry_after_s {
        fields.insert(RETRY_AFTER, headers::number(seconds));
    }
    if let Some(retry) = spec.should_retry {
        let text = if retry { "true" } else { "false" };
        fields.insert(SHOULD_RETRY, HeaderValue::from_static(text));
    }
    response
}

fn error_source(refusal: &Refusal) -> HeaderValue {
    HeaderValue::from_static(match refusal {
        Refusal::UpstreamFailed | Refusal::UpstreamTimedOut => "upstream",
        _ => "gateway",
    })
}

fn openai(refusal: &Refusal, spec: &ErrorSpec) -> Value {
    let error = json!({
        "message": refusal.message(),
        "type": spec.kind,
        "param": refusal.param(),
        "code": spec.code,
    });
    json!({ "error": merge(error, refusal.details()) })
}

fn anthropic(refusal: &Refusal, spec: &ErrorSpec, id: RequestLogId) -> Value {
    let base_error = json!({
        "type": anthropic_type(spec.status),
        "message": refusal.message(),
        "code": spec.code,
    });
    let error = merge(base_error, refusal.details());
    json!({ "type": "error", "error": error, "request_id": id.to_string() })
}

fn gemini(refusal: &Refusal, spec: &ErrorSpec) -> Value {
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": spec.code.to_ascii_uppercase(),
        "domain": "meteor",
    })];
    if let Some(seconds) = spec.retry_after_s {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{seconds}s"),
        }));
    }
    let error = json!({
        "code": spec.status,
        "message": refusal.message(),
        "status": gemini_status(spec.status),
        "details": details,
    });
    json!({ "error": merge(error, refusal.details()) })
}

fn merge(mut object: Value, details: Map<String, Value>) -> Value {
    if let Value::Object(object) = &mut object {
        object.extend(details);
    }
    object
}

/// The `type` that goes with a status.
const fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// The `status` that goes with a status.
const fn gemini_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        402 => "FAILED_PRECONDITION",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ALREADY_EXISTS",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        400..=499 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::admit::AdmissionError;
    use crate::accounting::idempotency::KeyConflict;
    use crate::clock;
    use crate::domain::counter::Exceeded;
    use crate::domain::idempotency::CompletedCall;
    use crate::domain::limit::{Level, Limit, Measure, Window};
    use crate::domain::money::Nano;
    use crate::domain::time::UnixMs;
    use crate::domain::usage::Usage;
    use crate::domain::wallet::WalletShortfall;

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    fn exceeded(limit: Limit, held: i64) -> Refusal {
        let reset_at = UnixMs(NOW.0 + 34_000);
        let exceeded = Exceeded { limit, value: 9, used: 9 - held, held, requested: 1, reset_at };
        Refusal::NotAdmitted(AdmissionError::Limit { level: Level::Project, exceeded })
    }

    fn wallet_refusal(shortfall: WalletShortfall) -> Refusal {
        Refusal::NotAdmitted(AdmissionError::Wallet { shortfall, required: Nano(2) })
    }

    fn executed() -> Refusal {
        let (usage, cost) = (Usage::from_tokens(9, 3), Nano(1_500_000));
        let call = CompletedCall { id: RequestLogId(5), status: 200, usage, cost };
        Refusal::IdempotencyConflict(KeyConflict::Completed(Box::new(call)))
    }

    /// Every refusal there is.
    fn all_refusals() -> Vec<Refusal> {
        let mut all = vec![
            Refusal::Unauthenticated,
            Refusal::Forbidden("no"),
            Refusal::UnknownPath,
            Refusal::UnknownModel("m".to_owned()),
            Refusal::Malformed { param: None, message: String::new() },
            Refusal::TooLarge(1),
            Refusal::UnsupportedEncoding,
            Refusal::IdempotencyConflict(KeyConflict::InFlight(RequestLogId(5))),
            executed(),
            Refusal::IdempotencyConflict(KeyConflict::BodyMismatch(RequestLogId(5))),
            Refusal::IdempotencyConflict(KeyConflict::Unavailable),
        ];
        for limit in Limit::ALL {
            all.push(exceeded(limit, 0));
            if limit.measure() != Measure::Requests || limit.window() == Window::Concurrent {
                all.push(exceeded(limit, 1));
            }
        }
        let shortfalls =
            [WalletShortfall::OnHold, WalletShortfall::Insufficient, WalletShortfall::Inactive];
        all.extend(shortfalls.map(wallet_refusal));
        all.extend([
            Refusal::Draining,
            Refusal::NotAdmitted(AdmissionError::JournalFull),
            Refusal::NotAdmitted(AdmissionError::QueueFull),
            Refusal::NotAdmitted(AdmissionError::Revoked),
            Refusal::UpstreamFailed,
            Refusal::CredentialRefused,
            Refusal::UpstreamTimedOut,
        ]);
        all
    }

    /// When it is said. A new refusal is a new line here, and one in `refusals`.
    fn description(refusal: &Refusal) -> String {
        match refusal {
            Refusal::Unauthenticated => "no key, an unknown, expired or revoked one, or two",
            Refusal::Forbidden(_) => {
                "the key may not use this model or address; project archived, organization inactive"
            }
            Refusal::UnknownPath => "no such method and path",
            Refusal::UnknownModel(_) => "no such model in this dialect",
            Refusal::Malformed { .. } => {
                "body or `Idempotency-Key` malformed, a policy field twice, a reference to state \
                 that tenants share"
            }
            Refusal::TooLarge(_) => "body too large",
            Refusal::UnsupportedEncoding => "body compressed in a way that is not known here",
            Refusal::IdempotencyConflict(KeyConflict::InFlight(_)) => {
                "its `Idempotency-Key` is that of an open call"
            }
            Refusal::IdempotencyConflict(KeyConflict::Completed(_)) => {
                "its `Idempotency-Key` is that of a call that is paid"
            }
            Refusal::IdempotencyConflict(KeyConflict::BodyMismatch(_)) => {
                "its `Idempotency-Key` came with another body"
            }
            Refusal::IdempotencyConflict(KeyConflict::Unavailable) => {
                "the database cannot say if an `Idempotency-Key` is free"
            }
            Refusal::NotAdmitted(AdmissionError::Limit { exceeded, .. }) => {
                let name = exceeded.limit.field();
                return if 0 < exceeded.held {
                    format!("`{name}`, which calls in flight hold")
                } else {
                    format!("`{name}`, used up")
                };
            }
            Refusal::NotAdmitted(AdmissionError::Wallet { shortfall, .. }) => match shortfall {
                WalletShortfall::OnHold => {
                    "the wallet would cover it but for holds of calls in flight"
                }
                WalletShortfall::Insufficient => "the wallet does not cover it",
                WalletShortfall::Inactive => "the wallet is switched off",
            },
            Refusal::NotAdmitted(AdmissionError::QueueFull) => {
                "too many calls wait for what others hold"
            }
            Refusal::NotAdmitted(AdmissionError::Revoked) => {
                "the key was revoked while its call waited"
            }
            Refusal::NotAdmitted(AdmissionError::JournalFull) => "the journal's backlog is full",
            Refusal::Draining => "the gateway is about to stop",
            Refusal::UpstreamFailed => "no upstream could be reached",
            Refusal::CredentialRefused => "the upstream refuses the gateway's own credential",
            Refusal::UpstreamTimedOut => "the upstream took too long",
        }
        .to_owned()
    }

    fn row(refusal: &Refusal) -> String {
        let spec = refusal.spec(NOW);
        let status = match (spec.status, spec.status_for(Dialect::Anthropic)) {
            (status, same) if status == same => status.to_string(),
            (status, other) => format!("{status}; {other} in Anthropic's"),
        };
        let retry_after = match spec.retry_after_s {
            None => "–".to_owned(),
            Some(35) => "to the reset".to_owned(),
            Some(seconds) => seconds.to_string(),
        };
        let should_retry = spec.should_retry.map_or("–".to_owned(), |retry| retry.to_string());
        format!(
            "| {} | {status} | `{}` | `{}` | `{}` | `{}` | {retry_after} | {should_retry} |\n",
            description(refusal),
            spec.code,
            spec.kind,
            anthropic_type(spec.status),
            gemini_status(spec.status),
        )
    }

    const TABLE_HEAD: &str = "\
# Refusals

Every no of the gateway itself, in the three dialects. Written by a test from the code that says no; \
what an upstream says passes as it is, with `x-meteor-error-source: upstream`.

The code stands in `error.code` (OpenAI, Anthropic) or, in capitals, as `reason` of the `ErrorInfo` \
in `error.details` (Gemini). `Retry-After` is in whole seconds, and stands in a `RetryInfo` too \
(Gemini). In all dialects the error object of a limit carries `limit`: its `name`, `level`, `limit`, \
`used`, `held`, `requested`, `resetAt`, and whether it is `transient`: whether the call would fit if \
those in flight gave back what they hold. That of the wallet carries `required` and `transient`, \
never the balance. That of an `Idempotency-Key` carries the `requestLogId` of the call that has it, \
and, if that is paid, `call`: its `status`, `usage` and `cost`.

| when | status | code | OpenAI `type` | Anthropic `type` | Gemini `status` | `Retry-After` | `x-should-retry` |
|---|---|---|---|---|---|---|---|
";

    #[test]
    fn the_documented_table_is_up_to_date() {
        let rows: String = all_refusals().iter().map(row).collect();
        let table = format!("{TABLE_HEAD}{rows}");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/refusals.md");
        if std::fs::read_to_string(path).unwrap_or_default() != table {
            std::fs::write(path, &table).expect("docs is writable");
            panic!("docs/refusals.md was out of date and is written anew: look at it, commit it");
        }
    }

    /// The body and the headers of a refusal.
    fn respond(refusal: &Refusal, dialect: Dialect) -> (Value, Response<Bytes>) {
        let address = "127.0.0.1".parse().expect("an address");
        let ctx = RequestContext {
            id: RequestLogId(7),
            received_at: NOW,
            started_at: clock::monotonic_now(),
            address,
        };
        let response = error_response(refusal, dialect, &ctx);
        (serde_json::from_slice(response.body()).expect("JSON"), response)
    }

    #[test]
    fn every_refusal_has_the_shape_of_its_dialect() {
        for refusal in all_refusals() {
            let (openai, response) = respond(&refusal, Dialect::OpenAi);
            let spec = refusal.spec(NOW);
            assert_eq!(response.status(), spec.status);
            assert_eq!(openai["error"]["code"], spec.code);
            let (anthropic, response) = respond(&refusal, Dialect::Anthropic);
            assert_eq!(anthropic["type"], "error");
            assert_eq!(
                anthropic["request_id"],
                response.headers()["request-id"].to_str().expect("text")
            );
            assert_eq!(anthropic["error"]["code"], spec.code);
            let (gemini, response) = respond(&refusal, Dialect::Gemini);
            assert_eq!(gemini["error"]["code"], response.status().as_u16());
            assert_eq!(gemini["error"]["details"][0]["domain"], "meteor");
            for error in [&openai["error"], &anthropic["error"], &gemini["error"]] {
                assert_eq!(error["message"], refusal.message());
                assert_eq!(error["limit"], openai["error"]["limit"]);
                assert_eq!(error["required"].is_string(), spec.status == 402);
            }
        }
    }

    #[test]
    fn a_completed_call_is_reported_the_same_in_every_dialect() {
        for dialect in Dialect::ALL {
            let (body, response) = respond(&executed(), dialect);
            let error = &body["error"];
            assert_eq!(error["requestLogId"], RequestLogId(5).to_string());
            let call = &error["call"];
            assert_eq!((&call["status"], &call["cost"]), (&json!(200), &json!("0.0015")));
            let counts = ["inputTokens", "outputTokens", "images"].map(|unit| &call["usage"][unit]);
            assert_eq!(counts, [9, 3, 0]);
            assert_eq!(response.headers()["x-request-id"], RequestLogId(7).to_string());
            assert_eq!(response.headers()["x-should-retry"], "false");
        }
    }

    #[test]
    fn gemini_details_contain_the_retry_delay() {
        let (body, response) = respond(&exceeded(Limit::DailyRequests, 0), Dialect::Gemini);
        let details = &body["error"]["details"];
        assert_eq!(details[0]["reason"], "DAILY_REQUESTS_EXCEEDED");
        assert_eq!(details[1]["retryDelay"], "35s");
        assert_eq!(response.headers()["retry-after"], "35");
        assert_eq!(response.headers()["x-should-retry"], "false");
        let (body, _) = respond(&wallet_refusal(WalletShortfall::Insufficient), Dialect::Gemini);
        assert_eq!(body["error"]["details"].as_array().map(Vec::len), Some(1));
    }
}
