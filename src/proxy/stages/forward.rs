//! Forwards a call to the targets of its route until one responds, all on the same hold.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::uri::InvalidUri;
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;

use crate::accounting::permit::Permit;
use crate::clock;
use crate::crash::crash_point;
use crate::dialect::call_facts::Edit;
use crate::dialect::endpoint::Dialect;
use crate::dialect::parse::output_clamp_edit;
use crate::dialect::paths::split_model_path;
use crate::domain::status::Outcome;
use crate::proxy::headers;
use crate::proxy::refusal::error_spec::Refusal;
use crate::proxy::stages::receive::ReceivedCall;
use crate::proxy::stages::route::Route;
use crate::proxy::upstreams::attempt_metrics::AttemptResult;
use crate::proxy::upstreams::breaker::BreakerPass;
use crate::proxy::upstreams::connect::ConnectError;
use crate::proxy::upstreams::cooldown;
use crate::proxy::upstreams::failover::Candidates;
use crate::proxy::upstreams::pool::{CallError, Lease, Pool};
use crate::proxy::upstreams::request_body::UpstreamBody;
use crate::proxy::upstreams::route_target::RouteTarget;
use crate::proxy::upstreams::upstream::Upstream;
use crate::tasks;

/// The response of an upstream before its body is read.
#[derive(Debug)]
pub struct UpstreamResponse {
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub permit: Permit,
    pub upstream: Arc<Upstream>,
}

/// Sends the call to one target after another until a response is final.
///
/// The next target is tried after a failed connection, a timeout, status 429 or 5xx, or if the upstream
/// rejects the gateway's credential. The response of the last target is final, unless it is about
/// the credential.
pub async fn forward(
    pool: &Pool,
    mut call: ReceivedCall,
    route: &Route,
    mut permit: Permit,
) -> Result<UpstreamResponse, Refusal> {
    crash_point!("hold-written");
    headers::for_upstream(&mut call.parts.headers);
    let clamp = match permit.output_clamp() {
        Some(tokens) => clamp_output(&call, route.model.output_field, tokens).await,
        None => None,
    };
    let mut refusal = Refusal::UpstreamFailed;
    let mut candidates = Candidates::new(&route.model.name, &route.targets);
    while let Some((target, pass)) = candidates.next(clock::monotonic_now()) {
        if 0 < permit.trace.attempts && permit.client_disconnected() {
            // Nobody is left who could use another answer.
            break;
        }
        let Ok(uri) = uri(&call, target) else { continue };
        permit.trace.attempts += 1;
        permit.trace.upstream = Some(Arc::clone(target.upstream.name()));
        permit.trace.upstream_model = target.upstream_model.clone();
        permit.set_pricing(&target.pricing);
        let request = build_request(&call, target, uri, clamp.clone());
        let (sent_at, timeout) =
            (clock::monotonic_now(), target.upstream.settings.first_byte_timeout);
        let attempt = tokio::time::timeout(timeout, send(pool, target, request, &mut permit));
        match attempt.await.unwrap_or(Err(CallError::TimedOut)) {
            Ok((response, lease)) => {
                crash_point!("answered");
                target.upstream.attempts.first_byte.record(clock::elapsed_since(sent_at));
                // An error is free from here on, also for a client that does not hear it out.
                permit.trace.is_free = !response.status().is_success();
                let is_final = match record_response(target, route, pass, &response) {
                    AttemptResult::Credential => {
                        refusal = Refusal::CredentialRefused;
                        false
                    }
                    AttemptResult::Answered => true,
                    _ => candidates.is_exhausted(),
                };
                if is_final {
                    permit.trace.first_byte_us = Some(permit.elapsed_us());
                    let upstream = Arc::clone(&target.upstream);
                    return Ok(UpstreamResponse { response, lease, permit, upstream });
                }
            }
            Err(CallError::ClientDisconnected) => break,
            Err(fault) => refusal = record_failure(target, pass, &fault),
        }
    }
    Err(release_refused(permit, refusal, call.endpoint.dialect()).await)
}

/// Releases a call that ends with `refusal`, and records the error sent to the client.
pub async fn release_refused(mut permit: Permit, refusal: Refusal, dialect: Dialect) -> Refusal {
    let spec = refusal.spec(clock::wall_now());
    if !permit.client_disconnected() {
        permit.trace.status = spec.status_for(dialect);
    }
    permit.trace.refusal = spec.code;
    permit.release(Outcome::Failed).await;
    refusal
}

/// Records the result of an answered attempt in the breaker, cooldowns and metrics of its upstream.
fn record_response(
    target: &RouteTarget,
    route: &Route,
    pass: BreakerPass,
    response: &Response<Incoming>,
) -> AttemptResult {
    let (upstream, status) = (&target.upstream, response.status());
    let result = AttemptResult::from_status(status);
    upstream.record_attempt(pass, result);
    if result == AttemptResult::Credential {
        tracing::error!(
            upstream = %upstream.name(),
            status = status.as_u16(),
            "upstream rejected the gateway credential"
        );
    }
    if matches!(result, AttemptResult::RateLimited | AttemptResult::Failed)
        && let Some(delay) = cooldown::retry_after(response.headers(), clock::wall_now())
    {
        upstream.cool_down(target.model_name(&route.model.name), delay);
    }
    result
}

/// Notes a try that was not answered; what the client is told if it was the last.
fn record_failure(target: &RouteTarget, pass: BreakerPass, fault: &CallError) -> Refusal {
    tracing::warn!(upstream = %target.upstream.name(), %fault, "attempt failed");
    let timed_out =
        matches!(fault, CallError::TimedOut | CallError::Connect(ConnectError::TimedOut));
    let (result, refusal) = if timed_out {
        (AttemptResult::TimedOut, Refusal::UpstreamTimedOut)
    } else {
        (AttemptResult::Unreachable, Refusal::UpstreamFailed)
    };
    target.upstream.record_attempt(pass, result);
    refusal
}

/// Sends a request to one stop. One that met a connection which was closed meanwhile, and so was
/// not sent, goes out on another.
async fn send(
    pool: &Pool,
    target: &RouteTarget,
    mut request: Request<UpstreamBody>,
    permit: &mut Permit,
) -> Result<(Response<Incoming>, Lease), CallError> {
    loop {
        let lease = pool.lease(&target.upstream).await?;
        if permit.client_disconnected() {
            return Err(CallError::ClientDisconnected);
        }
        let (is_new, was_forwarded) = (lease.is_new(), permit.trace.forwarded);
        let was_free = std::mem::take(&mut permit.trace.is_free);
        if !was_forwarded {
            // From here on the upstream may act on the call, whatever becomes of us.
            permit.set_forwarded(true);
            permit.trace.admitted_us = permit.elapsed_us();
        }
        crash_point!("forwarding");
        let mut sending = pin!(lease.send(request));
        let result = poll_fn(|context| {
            permit.record_disconnect();
            sending.as_mut().poll(context)
        });
        match result.await {
            Err(CallError::Stale(unsent)) => {
                permit.set_forwarded(was_forwarded);
                permit.trace.is_free = was_free;
                if is_new {
                    return Err(CallError::Closed);
                }
                request = *unsent;
            }
            result => return result,
        }
    }
}

/// The edit that bounds the output, if one does.
async fn clamp_output(call: &ReceivedCall, field: &'static str, tokens: u64) -> Option<Edit> {
    let (endpoint, body) = (call.endpoint, call.body.clone());
    tasks::run_offloaded(call.body.len(), move || output_clamp_edit(endpoint, field, &body, tokens))
        .await
}

/// The target at one stop, with the model's name there where the path names it.
fn uri(call: &ReceivedCall, target: &RouteTarget) -> Result<Uri, InvalidUri> {
    let in_path = split_model_path(call.parts.uri.path()).is_some();
    let model = target.upstream_model.as_deref().filter(|_| in_path);
    target.upstream.uri(&call.parts.uri, model)
}

/// The request for one stop. Its body is shared with the call, not copied.
fn build_request(
    call: &ReceivedCall,
    target: &RouteTarget,
    uri: Uri,
    clamp: Option<Edit>,
) -> Request<UpstreamBody> {
    let mut edits: Vec<Edit> = call.facts.include_usage.iter().cloned().chain(clamp).collect();
    let default_model = Some(&*call.facts.model).filter(|_| call.facts.model_missing_in_body());
    if let Some(model) = target.upstream_model.as_deref().or(default_model) {
        let name = serde_json::Value::from(model).to_string();
        edits.extend(call.facts.model_edits(&call.body, &name));
    }
    edits.sort_by_key(|edit| edit.range.start);
    let mut request = Request::new(UpstreamBody::new(&call.body, &edits));
    *request.method_mut() = call.parts.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = uri;
    let fields = request.headers_mut();
    fields.clone_from(&call.parts.headers);
    target.upstream.apply_auth(fields);
    request
}
