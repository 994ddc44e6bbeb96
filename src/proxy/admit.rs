//! Admit: from a call and its route to a permit.

use std::sync::Arc;

use crate::accounting::admit::{Denial, admit as hold};
use crate::accounting::once::Claim;
use crate::accounting::permit::{Demand, Permit};
use crate::clock;
use crate::dialect::estimate;
use crate::domain::time::UnixMs;
use crate::proxy::arrival::Arrival;
use crate::proxy::authenticate::{Known, again};
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::route::Route;
use crate::proxy::worker::Worker;

/// Holds what the call may use, and waits until the hold is written. A key that is revoked while
/// its call waits opens nothing any more.
pub async fn admit(
    worker: &Worker,
    (arrival, now): (&Arrival, UnixMs),
    known: &Known,
    (call, claim): (&Call, Option<Claim>),
    route: &Route,
) -> Result<Permit, Refusal> {
    let demand = Demand {
        id: arrival.id,
        at: arrival.at,
        now,
        arrived: arrival.tick,
        endpoint: call.endpoint,
        model: Arc::clone(&route.model),
        bound: route.bound,
        pieces: call.request.pieces,
        costs: route.costs(call),
        choices: call.request.choices,
        is_unbounded: call.request.output_tokens_max.is_none() && 0 < route.bound.output_tokens,
        body: call.body.clone(),
        refers: call.request.outside.refers,
        hides_usage: route.hides_usage(),
        // Bytes of images and sound say nothing.
        counted_input: match call.endpoint.media() {
            None => estimate::tokens_of_bytes(&call.body),
            Some(_) => 0,
        },
        stream: call.request.stream,
        address: arrival.address,
        claim,
    };
    let still = || again(&worker.shared.directory, known, clock::now(), arrival.address);
    let caller = || still().ok().map(|known| known.caller);
    let mut permit = match hold(&worker.desk, &known.caller, demand, caller).await {
        Err(Denial::Revoked) => return Err(still().err().unwrap_or(Refusal::Unauthenticated)),
        held => held.map_err(Refusal::Denied)?,
    };
    permit.measured.reported = route.most(call, permit.bound);
    permit.writer().written(permit.held_at()).await;
    Ok(permit)
}
