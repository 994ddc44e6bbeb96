//! Turns a refusal into an error response in the format of each dialect.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::dialect::endpoint::Dialect;
use crate::domain::ids::RequestLogId;
use crate::proxy::headers;
use crate::proxy::refusal::error_spec::{ErrorSpec, Refusal};
use crate::proxy::request_context::RequestContext;

/// Controls whether the OpenAI and Anthropic SDKs retry on their own.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Returns the error response for `refusal` in the dialect of the caller.
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

/// The Anthropic error type of an HTTP status.
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

/// The Google RPC status name of an HTTP status.
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
    use crate::proxy::refusal::error_spec::{ForbiddenReason, InvalidRequest};

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

    /// One of each kind of refusal.
    fn all_refusals() -> Vec<Refusal> {
        let mut all = vec![
            Refusal::Unauthenticated,
            Refusal::Forbidden(ForbiddenReason::Model),
            Refusal::UnknownPath,
            Refusal::UnknownModel("m".to_owned()),
            Refusal::Invalid(InvalidRequest::NotJson),
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

    /// When the gateway sends the refusal. A new refusal needs a line here and in `all_refusals`.
    fn description(refusal: &Refusal) -> String {
        match refusal {
            Refusal::Unauthenticated => "API key missing, unknown, disabled, expired or revoked, or two keys that differ",
            Refusal::Forbidden(_) => {
                "model or client address not allowed for the key; project archived; organization not active"
            }
            Refusal::UnknownPath => "unknown method or path",
            Refusal::UnknownModel(_) => "unknown model, or not served in this dialect",
            Refusal::Invalid(_) => {
                "malformed body, header or query; duplicate policy field; reference to provider \
                 state of a shared credential"
            }
            Refusal::TooLarge(_) => "request body too large",
            Refusal::UnsupportedEncoding => "unsupported `Content-Encoding`",
            Refusal::IdempotencyConflict(KeyConflict::InFlight(_)) => {
                "a call with this `Idempotency-Key` is in flight"
            }
            Refusal::IdempotencyConflict(KeyConflict::Completed(_)) => {
                "a call with this `Idempotency-Key` was completed and charged"
            }
            Refusal::IdempotencyConflict(KeyConflict::BodyMismatch(_)) => {
                "this `Idempotency-Key` was used with a different request"
            }
            Refusal::IdempotencyConflict(KeyConflict::Unavailable) => {
                "the lookup of an `Idempotency-Key` failed"
            }
            Refusal::NotAdmitted(AdmissionError::Limit { exceeded, .. }) => {
                let name = exceeded.limit.field();
                return if 0 < exceeded.held {
                    format!("`{name}` exceeded, partly held by calls in flight")
                } else {
                    format!("`{name}` exceeded")
                };
            }
            Refusal::NotAdmitted(AdmissionError::Wallet { shortfall, .. }) => match shortfall {
                WalletShortfall::OnHold => {
                    "wallet balance held by calls in flight"
                }
                WalletShortfall::Insufficient => "wallet balance too low",
                WalletShortfall::Inactive => "wallet disabled",
            },
            Refusal::NotAdmitted(AdmissionError::QueueFull) => {
                "too many calls are waiting for quota or balance"
            }
            Refusal::NotAdmitted(AdmissionError::Revoked) => {
                "the API key was revoked while its call waited"
            }
            Refusal::NotAdmitted(AdmissionError::JournalFull) => "the journal is full",
            Refusal::Draining => "the gateway is shutting down",
            Refusal::UpstreamFailed => "no upstream could be reached, or its response could not be forwarded",
            Refusal::CredentialRefused => "the upstream rejected the gateway's own credential",
            Refusal::UpstreamTimedOut => "the upstream did not respond in time",
        }
        .to_owned()
    }

    fn row(refusal: &Refusal) -> String {
        let spec = refusal.spec(NOW);
        let status = match (spec.status, spec.status_for(Dialect::Anthropic)) {
            (status, same) if status == same => status.to_string(),
            (status, other) => format!("{status} ({other} in the Anthropic dialect)"),
        };
        let retry_after = match spec.retry_after_s {
            None => "–".to_owned(),
            Some(34) => "until the reset".to_owned(),
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
# Error responses

All errors that the gateway itself returns, in the three dialects. A test generates this page from \
the code. Errors of an upstream are forwarded unchanged, with `x-meteor-error-source: upstream`.

The code is in `error.code` (OpenAI, Anthropic) or, in upper case, in `reason` of the `ErrorInfo` in \
`error.details` (Gemini). `Retry-After` is in whole seconds; Gemini responses repeat it as `RetryInfo`.

In every dialect the error object carries further fields:

- for a limit, `limit` with `name`, `level`, `limit`, `used`, `held`, `requested`, `resetAt` (`null` \
for `concurrentCallsLimit`) and `transient`. `transient` is true if the call would fit once the calls \
in flight return what they hold;
- for the wallet, `limit` with `name` (`wallet`), `required` and `transient`, never the balance;
- for an `Idempotency-Key`, the `requestLogId` of the call that owns the key and, if that call was \
charged, `call` with its `status`, `usage` and `cost`.

| when | status | code | OpenAI `type` | Anthropic `type` | Gemini `status` | `Retry-After` | `x-should-retry` |
|---|---|---|---|---|---|---|---|
";

    #[test]
    fn the_documented_table_is_up_to_date() {
        let rows: String = all_refusals().iter().map(row).collect();
        let table = format!("{TABLE_HEAD}{rows}");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if std::fs::read_to_string(path).unwrap_or_default() != table {
            std::fs::write(path, &table).expect("docs is writable");
            panic!("docs/errors.md was out of date and was regenerated: review and commit it");
        }
    }

    /// The JSON body and the response of a refusal.
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
        assert_eq!(details[1]["retryDelay"], "34s");
        assert_eq!(response.headers()["retry-after"], "34");
        assert_eq!(response.headers()["x-should-retry"], "false");
        let (body, _) = respond(&wallet_refusal(WalletShortfall::Insufficient), Dialect::Gemini);
        assert_eq!(body["error"]["details"].as_array().map(Vec::len), Some(1));
    }
}
