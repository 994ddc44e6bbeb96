//! Inform: what the gateway answers by itself, without an upstream and without being counted.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::accounting::directory::Caller;
use crate::dialect::endpoint::Dialect;
use crate::domain::limit::{Limit, Measure};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::proxy::arrival::Arrival;
use crate::proxy::catalog::Catalog;
use crate::proxy::headers;

/// The models that this key may use.
pub fn models(catalog: &Catalog, caller: &Caller, arrival: &Arrival) -> Response<Bytes> {
    let models: Vec<Value> = catalog
        .names(Dialect::OpenAi)
        .into_iter()
        .filter(|name| caller.may_use_model(name))
        .map(|name| json!({ "id": name, "object": "model", "created": 0, "owned_by": "meteor" }))
        .collect();
    answer(&json!({ "object": "list", "data": models }), arrival)
}

/// All limits that apply to this key, and where each stands.
pub fn limits(caller: &Caller, arrival: &Arrival) -> Response<Bytes> {
    let page = &mut *caller.project.lock();
    page.counters.roll(arrival.at);
    let limits: Vec<Value> = page
        .quota
        .limits
        .set()
        .map(|(limit, value)| {
            let (used, held) = page.counters.standing(limit);
            json!({
                "name": limit.field(),
                "level": "project",
                "limit": amount(limit, value),
                "used": amount(limit, used),
                "held": amount(limit, held),
                "remaining": amount(limit, (value - used - held).max(0)),
                "resetAt": reset(page.counters.reset_at(limit), limit),
                "enforced": page.quota.enforce,
            })
        })
        .collect();
    answer(&json!({ "object": "list", "data": limits }), arrival)
}

/// Whether calls are taken here.
pub fn health(is_draining: bool) -> Response<Bytes> {
    let (status, text) = if is_draining {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

/// A count, or money as exact text.
fn amount(limit: Limit, value: i64) -> Value {
    match limit.measure() {
        Measure::Spend => Value::from(Nano(value).to_string()),
        Measure::Requests | Measure::Tokens => Value::from(value),
    }
}

fn reset(at: UnixMs, limit: Limit) -> Option<String> {
    (limit != Limit::ConcurrentCalls).then(|| at.to_string())
}

fn answer(body: &Value, arrival: &Arrival) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(headers::REQUEST_ID, headers::request_id(arrival.id));
    response
}
