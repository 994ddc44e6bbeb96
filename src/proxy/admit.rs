//! Admit: from a call and its route to a permit.

use std::sync::Arc;

use crate::accounting::admit::admit as hold;
use crate::accounting::directory::Caller;
use crate::accounting::permit::{Demand, Permit};
use crate::dialect::estimate;
use crate::domain::time::UnixMs;
use crate::proxy::arrival::Arrival;
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::route::Route;
use crate::proxy::worker::Worker;

/// Holds what the call may use, and waits until the hold is written.
pub async fn admit(
    worker: &Worker,
    (arrival, now): (&Arrival, UnixMs),
    caller: &Arc<Caller>,
    call: &Call,
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
        counted_input: estimate::tokens_of_bytes(&call.body),
        stream: call.request.stream,
        address: arrival.address,
    };
    let permit = hold(&worker.desk, caller, demand).await.map_err(Refusal::Denied)?;
    permit.writer().written(permit.held_at()).await;
    Ok(permit)
}
