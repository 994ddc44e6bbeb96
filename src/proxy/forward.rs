//! Forward: to the first upstream of the route that answers, on the same hold.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use metrics::{counter, gauge};

use crate::accounting::permit::Permit;
use crate::dialect::openai::Edit;
use crate::journal::entry::Outcome;
use crate::proxy::connect::ConnectError;
use crate::proxy::headers;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::pool::{CallError, Lease, Pool};
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::route::{Route, Stop};
use crate::telemetry::metric;

/// The head of an upstream's answer, and the connection that its body comes on.
#[derive(Debug)]
pub struct Answered {
    /// Head and body.
    pub response: Response<Incoming>,
    /// The connection.
    pub lease: Lease,
    /// The call's hold.
    pub permit: Permit,
    /// How long the answer may be silent.
    pub idle_timeout: Duration,
}

/// Sends the call along its route until somebody answers it.
///
/// The next stop is tried while no byte was answered: after a failed connection, a time-out, 429,
/// 5xx, or a refusal of the gateway's own credential. The last answer stands.
pub async fn forward(
    pool: &Pool,
    mut call: Call,
    route: &Route,
    mut permit: Permit,
) -> Result<Answered, Refusal> {
    headers::for_upstream(&mut call.parts.headers);
    let mut refusal = Refusal::UpstreamFailed;
    for (place, stop) in route.stops.iter().enumerate() {
        let is_last = place + 1 == route.stops.len();
        permit.course.attempts += 1;
        permit.course.upstream = Some(Arc::clone(&stop.upstream.name));
        permit.course.upstream_model = stop.model.clone();
        if !permit.course.forwarded {
            permit.course.forwarded = true;
            permit.course.admitted_us = permit.elapsed_us();
        }
        let outgoing = outgoing(&call, stop)?;
        match pool.call(&stop.upstream, stop.lane, || again(&outgoing)).await {
            Ok((response, lease)) => {
                let status = response.status();
                tell(stop, if is_own_credential(status) { "credential" } else { "answered" });
                if is_own_credential(status) {
                    tracing::error!(
                        upstream = %stop.upstream.name,
                        status = status.as_u16(),
                        "the upstream refuses the gateway's own credential"
                    );
                } else if is_last || !is_worth_another(status) {
                    permit.course.first_byte_us = Some(permit.elapsed_us());
                    let idle_timeout = stop.upstream.idle_timeout;
                    return Ok(Answered { response, lease, permit, idle_timeout });
                }
            }
            Err(fault) => {
                tracing::warn!(upstream = %stop.upstream.name, %fault, "no answer");
                let timed_out = matches!(
                    fault,
                    CallError::TimedOut | CallError::Connect(ConnectError::TimedOut)
                );
                tell(stop, if timed_out { "timed_out" } else { "unreachable" });
                refusal =
                    if timed_out { Refusal::UpstreamTimedOut } else { Refusal::UpstreamFailed };
            }
        }
    }
    let told = refusal.told(crate::clock::now());
    permit.course.status = told.status;
    permit.course.refusal = told.code;
    permit.release(Outcome::Failed);
    Err(refusal)
}

/// An answer about the gateway's credential is the gateway's fault, and may echo the secret.
fn is_own_credential(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::PAYMENT_REQUIRED | StatusCode::FORBIDDEN
    )
}

fn is_worth_another(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// The request for one stop.
fn outgoing(call: &Call, stop: &Stop) -> Result<Request<Outgoing>, Refusal> {
    let malformed =
        |_| Refusal::Malformed { param: None, message: "the path cannot be forwarded".to_owned() };
    let asked = call.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut edits: Vec<Edit> = call.request.include_usage.iter().cloned().collect();
    if let Some(model) = &stop.model {
        let text = Cow::Owned(serde_json::Value::from(&**model).to_string());
        edits.push(Edit { range: call.request.model_at.clone(), text });
        edits.sort_by_key(|edit| edit.range.start);
    }
    let mut request = Request::new(Outgoing::new(&call.body, &edits));
    *request.method_mut() = call.parts.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = stop.upstream.uri(asked).map_err(malformed)?;
    let fields = request.headers_mut();
    fields.clone_from(&call.parts.headers);
    fields.insert(http::header::HOST, stop.upstream.host_header.clone());
    let own = stop.upstream.headers.iter().chain(&stop.upstream.credential);
    for (name, value) in own {
        fields.insert(name.clone(), value.clone());
    }
    Ok(request)
}

/// The same request once more. Its body is shared, not copied.
fn again(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut same = Request::new(request.body().clone());
    *same.method_mut() = request.method().clone();
    *same.uri_mut() = request.uri().clone();
    *same.headers_mut() = request.headers().clone();
    same
}

fn tell(stop: &Stop, result: &'static str) {
    let name = stop.upstream.name.to_string();
    counter!(metric::UPSTREAM_TRIES, "upstream" => name.clone(), "result" => result).increment(1);
    let up = if result == "answered" { 1.0 } else { 0.0 };
    gauge!(metric::UPSTREAM_UP, "upstream" => name).set(up);
}
