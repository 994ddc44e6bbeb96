//! Admits a routed call: reserves its maximum usage and returns the permit.

use std::sync::Arc;

use crate::accounting::admit::{self, AdmissionError};
use crate::accounting::idempotency::IdempotencyClaim;
use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::clock;
use crate::dialect::estimate;
use crate::domain::time::UnixMs;
use crate::proxy::refusal::error_spec::Refusal;
use crate::proxy::request_context::RequestContext;
use crate::proxy::server::worker::Worker;
use crate::proxy::stages::authenticate::{Authenticated, reauthenticate};
use crate::proxy::stages::receive::ReceivedCall;
use crate::proxy::stages::route::Route;

/// A routed call that is ready for admission.
#[derive(Debug)]
pub struct RoutedCall<'a> {
    pub ctx: &'a RequestContext,
    /// The time after the request was parsed.
    pub now: UnixMs,
    pub authenticated: &'a Authenticated,
    pub call: &'a ReceivedCall,
    pub route: &'a Route,
    pub claim: Option<IdempotencyClaim>,
}

/// Reserves the maximum usage of the call and waits until the hold is written to the journal. The API
/// key is checked again after every wait.
pub async fn admit(worker: &Worker, routed: RoutedCall<'_>) -> Result<Permit, Refusal> {
    let RoutedCall { ctx, now, authenticated, call, route, claim } = routed;
    let request = AdmissionRequest {
        id: ctx.id,
        received_at: ctx.received_at,
        now,
        started_at: ctx.started_at,
        endpoint: call.endpoint,
        model: Arc::clone(&route.model),
        bound: route.bound,
        item_units_max: call.facts.item_units_max,
        pricing: route.hold_pricing(call),
        choices: call.facts.choices,
        output_unbounded: call.facts.output_tokens_max.is_none() && 0 < route.bound.output_tokens,
        body: call.body.clone(),
        has_external_content: call.facts.external_refs.has_external_content,
        usage_is_hidden: route.usage_is_hidden(),
        // The bytes of images and audio do not bound their tokens.
        counted_input: match call.endpoint.media() {
            None => estimate::tokens_of_bytes(&call.body),
            Some(_) => 0,
        },
        stream: call.facts.stream,
        address: ctx.address,
        claim,
    };
    let recheck =
        || reauthenticate(&worker.shared.directory, authenticated, clock::wall_now(), ctx.address);
    let recheck_caller = || recheck().ok().map(|authenticated| authenticated.caller);
    let mut permit =
        match admit::admit(&worker.admission, &authenticated.caller, request, recheck_caller).await
        {
            Err(AdmissionError::Revoked) => {
                return Err(recheck().err().unwrap_or(Refusal::Unauthenticated));
            }
            result => result.map_err(Refusal::NotAdmitted)?,
        };
    permit.measured.reported = route.max_media_usage(call, permit.bound);
    permit.writer().wait_written(permit.hold_position()).await;
    Ok(permit)
}
