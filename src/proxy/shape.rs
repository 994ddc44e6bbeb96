//! Shape: a refusal as an answer, in the words of each dialect.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::dialect::endpoint::Dialect;
use crate::domain::ids::RequestLogId;
use crate::proxy::arrival::Arrival;
use crate::proxy::headers;
use crate::proxy::refuse::{Refusal, Told};

/// Whether an SDK is to retry by itself.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The answer that tells a refusal, in the dialect of the caller.
pub fn answer(refusal: &Refusal, dialect: Dialect, arrival: &Arrival) -> Response<Bytes> {
    let told = refusal.told(arrival.at);
    let body = match dialect {
        Dialect::OpenAi => openai(refusal, &told),
        Dialect::Anthropic => anthropic(refusal, &told, arrival.id),
        Dialect::Gemini => gemini(refusal, &told),
    };
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(told.status_in(dialect)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(headers::ERROR_SOURCE, error_source(refusal));
    headers::add_id(fields, arrival.id, dialect);
    if let Some(seconds) = told.retry_after_s {
        fields.insert(RETRY_AFTER, headers::number(seconds));
    }
    if let Some(retry) = told.should_retry {
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

fn openai(refusal: &Refusal, told: &Told) -> Value {
    let own = json!({
        "message": refusal.message(),
        "type": told.kind,
        "param": refusal.param(),
        "code": told.code,
    });
    json!({ "error": with(own, refusal.members()) })
}

fn anthropic(refusal: &Refusal, told: &Told, id: RequestLogId) -> Value {
    let own = json!({
        "type": anthropic_type(told.status),
        "message": refusal.message(),
        "code": told.code,
    });
    let error = with(own, refusal.members());
    json!({ "type": "error", "error": error, "request_id": id.to_string() })
}

fn gemini(refusal: &Refusal, told: &Told) -> Value {
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": told.code.to_ascii_uppercase(),
        "domain": "meteor",
    })];
    if let Some(seconds) = told.retry_after_s {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{seconds}s"),
        }));
    }
    let own = json!({
        "code": told.status,
        "message": refusal.message(),
        "status": gemini_status(told.status),
        "details": details,
    });
    json!({ "error": with(own, refusal.members()) })
}

fn with(mut object: Value, members: Map<String, Value>) -> Value {
    if let Value::Object(object) = &mut object {
        object.extend(members);
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
    use crate::accounting::admit::Denial;
    use crate::accounting::once::Taken;
    use crate::clock;
    use crate::domain::counter::Exceeded;
    use crate::domain::limit::{Level, Limit, Measure, Window};
    use crate::domain::money::Nano;
    use crate::domain::once::Done;
    use crate::domain::time::UnixMs;
    use crate::domain::usage::Usage;
    use crate::domain::wallet::Short;

    const NOW: UnixMs = UnixMs(1_705_314_600_000);

    fn exceeded(limit: Limit, held: i64) -> Refusal {
        let reset_at = UnixMs(NOW.0 + 34_000);
        let exceeded = Exceeded { limit, value: 9, used: 9 - held, held, requested: 1, reset_at };
        Refusal::Denied(Denial::Limit { level: Level::Project, exceeded })
    }

    fn by_wallet(short: Short) -> Refusal {
        Refusal::Denied(Denial::Wallet { short, required: Nano(2) })
    }

    fn executed() -> Refusal {
        let (usage, cost) = (Usage::tokens_of(9, 3), Nano(1_500_000));
        let done = Done { id: RequestLogId(5), status: 200, usage, cost };
        Refusal::Taken(Taken::Done(Box::new(done)))
    }

    /// Every refusal there is.
    fn refusals() -> Vec<Refusal> {
        let mut all = vec![
            Refusal::Unauthenticated,
            Refusal::Forbidden("no"),
            Refusal::UnknownPath,
            Refusal::UnknownModel("m".to_owned()),
            Refusal::Malformed { param: None, message: String::new() },
            Refusal::TooLarge(1),
            Refusal::UnknownCoding,
            Refusal::Taken(Taken::InFlight(RequestLogId(5))),
            executed(),
            Refusal::Taken(Taken::Mismatch(RequestLogId(5))),
            Refusal::Taken(Taken::Unknown),
        ];
        for limit in Limit::ALL {
            all.push(exceeded(limit, 0));
            if limit.measure() != Measure::Requests || limit.window() == Window::Now {
                all.push(exceeded(limit, 1));
            }
        }
        let shorts = [Short::OnHold, Short::Insufficient, Short::Inactive];
        all.extend(shorts.map(by_wallet));
        all.extend([
            Refusal::Draining,
            Refusal::Denied(Denial::JournalFull),
            Refusal::Denied(Denial::QueueFull),
            Refusal::Denied(Denial::Revoked),
            Refusal::UpstreamFailed,
            Refusal::CredentialRefused,
            Refusal::UpstreamTimedOut,
        ]);
        all
    }

    /// When it is said. A new refusal is a new line here, and one in `refusals`.
    fn when(refusal: &Refusal) -> String {
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
            Refusal::UnknownCoding => "body compressed in a way that is not known here",
            Refusal::Taken(Taken::InFlight(_)) => "its `Idempotency-Key` is that of an open call",
            Refusal::Taken(Taken::Done(_)) => {
                "its `Idempotency-Key` is that of a call that is paid"
            }
            Refusal::Taken(Taken::Mismatch(_)) => "its `Idempotency-Key` came with another body",
            Refusal::Taken(Taken::Unknown) => {
                "the database cannot say if an `Idempotency-Key` is free"
            }
            Refusal::Denied(Denial::Limit { exceeded, .. }) => {
                let name = exceeded.limit.field();
                return if 0 < exceeded.held {
                    format!("`{name}`, which calls in flight hold")
                } else {
                    format!("`{name}`, used up")
                };
            }
            Refusal::Denied(Denial::Wallet { short, .. }) => match short {
                Short::OnHold => "the wallet would cover it but for holds of calls in flight",
                Short::Insufficient => "the wallet does not cover it",
                Short::Inactive => "the wallet is switched off",
            },
            Refusal::Denied(Denial::QueueFull) => "too many calls wait for what others hold",
            Refusal::Denied(Denial::Revoked) => "the key was revoked while its call waited",
            Refusal::Denied(Denial::JournalFull) => "the journal's backlog is full",
            Refusal::Draining => "the gateway is about to stop",
            Refusal::UpstreamFailed => "no upstream could be reached",
            Refusal::CredentialRefused => "the upstream refuses the gateway's own credential",
            Refusal::UpstreamTimedOut => "the upstream took too long",
        }
        .to_owned()
    }

    fn row(refusal: &Refusal) -> String {
        let told = refusal.told(NOW);
        let status = match (told.status, told.status_in(Dialect::Anthropic)) {
            (status, same) if status == same => status.to_string(),
            (status, other) => format!("{status}; {other} in Anthropic's"),
        };
        let retry_after = match told.retry_after_s {
            None => "–".to_owned(),
            Some(35) => "to the reset".to_owned(),
            Some(seconds) => seconds.to_string(),
        };
        let should_retry = told.should_retry.map_or("–".to_owned(), |retry| retry.to_string());
        format!(
            "| {} | {status} | `{}` | `{}` | `{}` | `{}` | {retry_after} | {should_retry} |\n",
            when(refusal),
            told.code,
            told.kind,
            anthropic_type(told.status),
            gemini_status(told.status),
        )
    }

    const BEFORE: &str = "\
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
    fn the_table_is_what_is_kept() {
        let rows: String = refusals().iter().map(row).collect();
        let table = format!("{BEFORE}{rows}");
        let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/refusals.md");
        if std::fs::read_to_string(kept).unwrap_or_default() != table {
            std::fs::write(kept, &table).expect("docs is writable");
            panic!("docs/refusals.md was out of date and is written anew: look at it, commit it");
        }
    }

    /// The body and the headers of a refusal.
    fn answered(refusal: &Refusal, dialect: Dialect) -> (Value, Response<Bytes>) {
        let address = "127.0.0.1".parse().expect("an address");
        let arrival = Arrival { id: RequestLogId(7), at: NOW, tick: clock::tick(), address };
        let response = answer(refusal, dialect, &arrival);
        (serde_json::from_slice(response.body()).expect("JSON"), response)
    }

    #[test]
    fn every_refusal_has_the_shape_of_its_dialect() {
        for refusal in refusals() {
            let (openai, response) = answered(&refusal, Dialect::OpenAi);
            let told = refusal.told(NOW);
            assert_eq!(response.status(), told.status);
            assert_eq!(openai["error"]["code"], told.code);
            let (anthropic, response) = answered(&refusal, Dialect::Anthropic);
            assert_eq!(anthropic["type"], "error");
            assert_eq!(
                anthropic["request_id"],
                response.headers()["request-id"].to_str().expect("text")
            );
            assert_eq!(anthropic["error"]["code"], told.code);
            let (gemini, response) = answered(&refusal, Dialect::Gemini);
            assert_eq!(gemini["error"]["code"], response.status().as_u16());
            assert_eq!(gemini["error"]["details"][0]["domain"], "meteor");
            for error in [&openai["error"], &anthropic["error"], &gemini["error"]] {
                assert_eq!(error["message"], refusal.message());
                assert_eq!(error["limit"], openai["error"]["limit"]);
                assert_eq!(error["required"].is_string(), told.status == 402);
            }
        }
    }

    #[test]
    fn a_call_that_is_paid_is_told_in_every_dialect_alike() {
        for dialect in Dialect::ALL {
            let (body, response) = answered(&executed(), dialect);
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
    fn gemini_is_told_in_its_details_when_to_come_again() {
        let (body, response) = answered(&exceeded(Limit::DailyRequests, 0), Dialect::Gemini);
        let details = &body["error"]["details"];
        assert_eq!(details[0]["reason"], "DAILY_REQUESTS_EXCEEDED");
        assert_eq!(details[1]["retryDelay"], "35s");
        assert_eq!(response.headers()["retry-after"], "35");
        assert_eq!(response.headers()["x-should-retry"], "false");
        let (body, _) = answered(&by_wallet(Short::Insufficient), Dialect::Gemini);
        assert_eq!(body["error"]["details"].as_array().map(Vec::len), Some(1));
    }
}
