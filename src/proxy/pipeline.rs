//! The path of a call from top to bottom. Read this file first.
//!
//! Each stage has a file of its own in `stages`. A stage takes what it needs, returns a new value and
//! never calls the next stage. `refusal` turns what a stage refuses into an error response.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::accounting::key_directory::Caller;
use crate::accounting::permit::Permit;
use crate::clock;
use crate::dialect::endpoint::Dialect;
use crate::dialect::paths::{LocalEndpoint, PathMatch, dialect_for_unknown_path, match_path};
use crate::proxy::refusal::error_response::error_response;
use crate::proxy::refusal::error_spec::Refusal;
use crate::proxy::refusal::refusal_log::RefusedCall;
use crate::proxy::request_context::RequestContext;
use crate::proxy::response::decoded_meter::StreamOptions;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::server::worker::Worker;
use crate::proxy::stages::admit::{RoutedCall, admit};
use crate::proxy::stages::authenticate::{Authenticated, authenticate, reauthenticate};
use crate::proxy::stages::claim::claim_idempotency_key;
use crate::proxy::stages::forward::forward;
use crate::proxy::stages::receive::{ReceivedCall, drain_request_body, receive};
use crate::proxy::stages::relay::relay;
use crate::proxy::stages::route::{Route, route};
use crate::proxy::upstreams::failover::order_by_weight;
use crate::proxy::{headers, local_endpoints};

/// Handles one request.
pub async fn handle(
    worker: Rc<Worker>,
    request: Request<Incoming>,
    address: IpAddr,
) -> Response<ResponseBody> {
    let ctx = worker.request_ids.new_request(address);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let (matched, model) = match match_path(parts.method.as_str(), path) {
        Some((PathMatch::Local(LocalEndpoint::Health), _)) => {
            return local_response(local_endpoints::health(worker.shared.is_draining()));
        }
        Some((matched, model)) => (matched, model.map(str::to_owned)),
        None => {
            return local_response(error_response(
                &Refusal::UnknownPath,
                dialect_for_unknown_path(path),
                &ctx,
            ));
        }
    };
    let dialect = local_endpoints::caller_dialect(matched, &parts);
    let authenticated = match authenticate(&worker.shared.directory, &parts, &ctx) {
        Ok(authenticated) => authenticated,
        Err(refusal) => {
            worker.unauthenticated.increment(1);
            drain_request_body(&parts, body).await;
            return local_response(error_response(&refusal, dialect, &ctx));
        }
    };
    let (caller, shared) = (&authenticated.caller, &worker.shared);
    let response = match matched {
        PathMatch::Local(LocalEndpoint::Limits) => {
            local_response(local_endpoints::limits(caller, &ctx))
        }
        PathMatch::Local(_) => {
            local_response(local_endpoints::models(&shared.catalog.load(), caller, dialect, &ctx))
        }
        PathMatch::Proxied(endpoint) => {
            match receive(endpoint, model.as_deref(), parts, body, &shared.settings).await {
                Ok(call) => return proxy_call(&worker, &ctx, &authenticated, call).await,
                Err(refusal) => {
                    let (context, model, stream) = (&ctx, "", false);
                    let call = RefusedCall { context, caller, endpoint, model, stream };
                    refuse_and_log(&worker, &call, &refusal).await
                }
            }
        }
    };
    add_rate_limit_headers(response, caller, dialect, &ctx)
}

/// Runs the stages after `receive`.
async fn proxy_call(
    worker: &Rc<Worker>,
    ctx: &RequestContext,
    authenticated: &Authenticated,
    call: ReceivedCall,
) -> Response<ResponseBody> {
    let (caller, endpoint) = (&authenticated.caller, call.endpoint);
    let dialect = endpoint.dialect();
    let (route, permit) = match admit_call(worker, ctx, authenticated, &call).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let (model, stream) = (call.facts.model.as_str(), call.facts.stream);
            let refused = RefusedCall { context: ctx, caller, endpoint, model, stream };
            let response = refuse_and_log(worker, &refused, &refusal).await;
            return add_rate_limit_headers(response, caller, dialect, ctx);
        }
    };
    let result = match permit.disconnect_tracker().map(Rc::clone) {
        None => forward_and_relay(worker, call, &route, permit).await,
        // Only calls that may be drained run in a task of their own.
        Some(tracker) => {
            let task_worker = Rc::clone(worker);
            let work = async move { forward_and_relay(&task_worker, call, &route, permit).await };
            let result = worker.detached.run_detached(tracker, work).await;
            result.unwrap_or(Err(Refusal::UpstreamFailed))
        }
    };
    result.unwrap_or_else(|refusal| {
        add_rate_limit_headers(
            local_response(error_response(&refusal, dialect, ctx)),
            caller,
            dialect,
            ctx,
        )
    })
}

/// Runs the stages that may continue after the client has disconnected.
async fn forward_and_relay(
    worker: &Worker,
    call: ReceivedCall,
    route: &Route,
    permit: Permit,
) -> Result<Response<ResponseBody>, Refusal> {
    let endpoint = call.endpoint;
    let stream = StreamOptions {
        requested: call.facts.stream,
        strip_usage: call.facts.include_usage.is_some(),
    };
    let upstream_response = forward(&worker.pool, call, route, permit).await?;
    let response = relay(upstream_response, endpoint, stream).await?;
    Ok(response.map(|relay| ResponseBody::from_relay(relay, &worker.detached)))
}

/// Claims the idempotency key, routes and admits, all at the time after the body was read. Afterwards
/// the permit writes the log entry of the call.
async fn admit_call(
    worker: &Worker,
    ctx: &RequestContext,
    authenticated: &Authenticated,
    call: &ReceivedCall,
) -> Result<(Route, Permit), Refusal> {
    if worker.shared.is_draining() {
        return Err(Refusal::Draining);
    }
    let claim = claim_idempotency_key(worker, ctx, &authenticated.caller, call).await?;
    let now = clock::wall_now();
    let authenticated = reauthenticate(&worker.shared.directory, authenticated, now, ctx.address)?;
    let mut route = route(&worker.shared.catalog.load(), &authenticated.caller, call, now)?;
    order_by_weight(&mut route.targets, |target| target.rank, || worker.request_ids.next_random());
    let routed = RoutedCall { ctx, now, authenticated: &authenticated, call, route: &route, claim };
    let permit = admit(worker, routed).await?;
    Ok((route, permit))
}

/// Logs a refused call and returns its error response once the log entry is written.
async fn refuse_and_log(
    worker: &Worker,
    call: &RefusedCall<'_>,
    refusal: &Refusal,
) -> Response<ResponseBody> {
    let (ctx, dialect) = (call.context, call.endpoint.dialect());
    let spec = refusal.spec(ctx.received_at);
    if let Some(position) = worker.refusal_log.log(call, spec.status_for(dialect), spec.code) {
        worker.admission.writer.wait_written(position).await;
    }
    local_response(error_response(refusal, dialect, ctx))
}

fn local_response(response: Response<Bytes>) -> Response<ResponseBody> {
    response.map(ResponseBody::from)
}

/// Adds the rate limit headers of the caller to a response of the gateway itself.
fn add_rate_limit_headers(
    mut response: Response<ResponseBody>,
    caller: &Caller,
    dialect: Dialect,
    ctx: &RequestContext,
) -> Response<ResponseBody> {
    let limits = caller.tightest_limits(ctx.received_at);
    headers::add_rate_limits(response.headers_mut(), &limits, dialect, ctx.received_at);
    response
}
