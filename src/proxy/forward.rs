//! Forward: to the first upstream of the route that answers, on the same hold.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::uri::InvalidUri;
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;

use crate::accounting::permit::Permit;
use crate::clock;
use crate::crash::crash_point;
use crate::dialect::endpoint::{Dialect, around_model};
use crate::dialect::read::clamp_edit;
use crate::dialect::request::Edit;
use crate::journal::entry::Outcome;
use crate::proxy::breaker::Leave;
use crate::proxy::choose::Turns;
use crate::proxy::connect::ConnectError;
use crate::proxy::headers;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::pool::{CallError, Lease, Pool};
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::rest;
use crate::proxy::route::{Route, Stop};
use crate::proxy::tries::Try;
use crate::proxy::upstream::Upstream;
use crate::tasks;

/// The head of an upstream's answer, and the connection that its body comes on.
#[derive(Debug)]
pub struct Answered {
    /// Head and body.
    pub response: Response<Incoming>,
    /// The connection.
    pub lease: Lease,
    /// The call's hold.
    pub permit: Permit,
    /// Who answers.
    pub upstream: Arc<Upstream>,
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
    crash_point!("hold-written");
    headers::for_upstream(&mut call.parts.headers);
    let bound = match permit.output_clamped() {
        Some(tokens) => bounded(&call, route.model.output_field, tokens).await,
        None => None,
    };
    let mut refusal = Refusal::UpstreamFailed;
    let mut turns = Turns::of(route);
    while let Some((stop, leave)) = turns.next(clock::tick()) {
        if 0 < permit.course.attempts && permit.has_left() {
            // Nobody is left who could use another answer.
            break;
        }
        let Ok(uri) = uri(&call, stop) else { continue };
        permit.course.attempts += 1;
        permit.course.upstream = Some(Arc::clone(stop.upstream.name()));
        permit.course.upstream_model = stop.model.clone();
        permit.set_tariffs(&stop.tariffs);
        let request = outgoing(&call, stop, uri, bound.clone());
        let (begun, timeout) = (clock::tick(), stop.upstream.settings.first_byte_timeout);
        let tried = tokio::time::timeout(timeout, send(pool, stop, request, &mut permit));
        match tried.await.unwrap_or(Err(CallError::TimedOut)) {
            Ok((response, lease)) => {
                crash_point!("answered");
                stop.upstream.tries.first_byte.record(clock::since(begun));
                // An error is free from here on, also for a client that does not hear it out.
                permit.course.is_free = !response.status().is_success();
                let stands = match note(stop, route, leave, &response) {
                    Try::Credential => {
                        refusal = Refusal::CredentialRefused;
                        false
                    }
                    Try::Answered => true,
                    _ => turns.is_over(),
                };
                if stands {
                    permit.course.first_byte_us = Some(permit.elapsed_us());
                    let upstream = Arc::clone(&stop.upstream);
                    return Ok(Answered { response, lease, permit, upstream });
                }
            }
            Err(CallError::Left) => break,
            Err(fault) => refusal = unanswered(stop, leave, &fault),
        }
    }
    Err(give_up(permit, refusal, call.endpoint.dialect()).await)
}

/// Gives a call back that no upstream will answer, and notes what its client is told.
pub async fn give_up(mut permit: Permit, refusal: Refusal, dialect: Dialect) -> Refusal {
    let told = refusal.told(clock::now());
    if !permit.has_left() {
        permit.course.status = told.status_in(dialect);
    }
    permit.course.refusal = told.code;
    permit.release(Outcome::Failed).await;
    refusal
}

/// Notes how a try came out that was answered, for the tries to come.
fn note(stop: &Stop, route: &Route, leave: Leave, response: &Response<Incoming>) -> Try {
    let (upstream, status) = (&stop.upstream, response.status());
    let result = Try::of(status);
    upstream.came_out(leave, result);
    if result == Try::Credential {
        tracing::error!(
            upstream = %upstream.name(),
            status = status.as_u16(),
            "the upstream refuses the gateway's own credential"
        );
    }
    if matches!(result, Try::RateLimited | Try::Failed)
        && let Some(time) = rest::asked_for(response.headers(), clock::now())
    {
        upstream.rest(stop.name(&route.model.name), time);
    }
    result
}

/// Notes a try that was not answered; what the client is told if it was the last.
fn unanswered(stop: &Stop, leave: Leave, fault: &CallError) -> Refusal {
    tracing::warn!(upstream = %stop.upstream.name(), %fault, "no answer");
    let timed_out =
        matches!(fault, CallError::TimedOut | CallError::Connect(ConnectError::TimedOut));
    let (result, told) = if timed_out {
        (Try::TimedOut, Refusal::UpstreamTimedOut)
    } else {
        (Try::Unreachable, Refusal::UpstreamFailed)
    };
    stop.upstream.came_out(leave, result);
    told
}

/// Sends a request to one stop. One that met a connection which was closed meanwhile, and so was
/// not sent, goes out on another.
async fn send(
    pool: &Pool,
    stop: &Stop,
    mut request: Request<Outgoing>,
    permit: &mut Permit,
) -> Result<(Response<Incoming>, Lease), CallError> {
    loop {
        let lease = pool.lease(&stop.upstream).await?;
        if permit.has_left() {
            return Err(CallError::Left);
        }
        let (is_new, was_forwarded) = (lease.is_new(), permit.course.forwarded);
        let was_free = std::mem::take(&mut permit.course.is_free);
        if !was_forwarded {
            // From here on the upstream may act on the call, whatever becomes of us.
            permit.set_forwarded(true);
            permit.course.admitted_us = permit.elapsed_us();
        }
        crash_point!("forwarding");
        let mut sent = pin!(lease.send(request));
        let tried = poll_fn(|context| {
            permit.note_leaving();
            sent.as_mut().poll(context)
        });
        match tried.await {
            Err(CallError::Stale(unsent)) => {
                permit.set_forwarded(was_forwarded);
                permit.course.is_free = was_free;
                if is_new {
                    return Err(CallError::Closed);
                }
                request = *unsent;
            }
            tried => return tried,
        }
    }
}

/// The edit that bounds the output, if one does.
async fn bounded(call: &Call, field: &'static str, tokens: u64) -> Option<Edit> {
    let (endpoint, body) = (call.endpoint, call.body.clone());
    tasks::aside(call.body.len(), move || clamp_edit(endpoint, field, &body, tokens)).await
}

/// The target at one stop, with the model's name there where the path names it.
fn uri(call: &Call, stop: &Stop) -> Result<Uri, InvalidUri> {
    let in_path = around_model(call.parts.uri.path()).is_some();
    let model = stop.model.as_deref().filter(|_| in_path);
    stop.upstream.uri(&call.parts.uri, model)
}

/// The request for one stop. Its body is shared with the call, not copied.
fn outgoing(call: &Call, stop: &Stop, uri: Uri, bound: Option<Edit>) -> Request<Outgoing> {
    let mut edits: Vec<Edit> = call.request.include_usage.iter().cloned().chain(bound).collect();
    let own = Some(&*call.request.model).filter(|_| call.request.is_unnamed());
    if let Some(model) = stop.model.as_deref().or(own) {
        let name = serde_json::Value::from(model).to_string();
        edits.extend(call.request.renamed(&call.body, &name));
    }
    edits.sort_by_key(|edit| edit.range.start);
    let mut request = Request::new(Outgoing::new(&call.body, &edits));
    *request.method_mut() = call.parts.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = uri;
    let fields = request.headers_mut();
    fields.clone_from(&call.parts.headers);
    stop.upstream.sign(fields);
    request
}
