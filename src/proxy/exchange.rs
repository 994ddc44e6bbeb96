//! Exchange: the path of a call, top to bottom. READ THIS FIRST.
//!
//! One line a stage, one file a stage. A stage takes what it needs and returns a small new value;
//! it never calls the next one. What a stage refuses is told in one place, [`refuse`].

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::accounting::directory::Caller;
use crate::accounting::permit::Permit;
use crate::clock;
use crate::dialect::endpoint::Endpoint;
use crate::proxy::admit::admit;
use crate::proxy::answer::Answer;
use crate::proxy::arrival::Arrival;
use crate::proxy::authenticate::{Known, again, authenticate};
use crate::proxy::forward::forward;
use crate::proxy::receive::{Call, receive};
use crate::proxy::refusals::RefusedCall;
use crate::proxy::refuse::{self, Refusal, Told};
use crate::proxy::relay::relay;
use crate::proxy::route::{Route, route};
use crate::proxy::worker::Worker;
use crate::proxy::{headers, inform};

/// Answers one request.
pub async fn exchange(
    worker: Rc<Worker>,
    request: Request<Incoming>,
    address: IpAddr,
) -> Response<Answer> {
    let arrival = worker.ids.arrival(address);
    let (parts, body) = request.into_parts();
    let endpoint = match Endpoint::of(parts.method.as_str(), parts.uri.path()) {
        Some((Endpoint::Health, _)) => return own(inform::health(worker.shared.is_draining())),
        Some((endpoint, _)) => endpoint,
        None => return own(refuse::answer(&Refusal::UnknownPath, &arrival)),
    };
    let known = match authenticate(&worker.shared.directory, &parts, &arrival) {
        Ok(known) => known,
        Err(refusal) => {
            worker.unauthenticated.increment(1);
            return own(refuse::answer(&refusal, &arrival));
        }
    };
    let caller = &known.caller;
    let answer = match endpoint {
        Endpoint::Models => own(inform::models(&worker.shared.catalog.load(), caller, &arrival)),
        Endpoint::Limits => own(inform::limits(caller, &arrival)),
        _ => match receive(endpoint, parts, body, &worker.shared.settings).await {
            Ok(call) => return govern(&worker, &arrival, &known, call).await,
            Err(no) => refused(&worker, &arrival, caller, (endpoint, "", false), &no).await,
        },
    };
    with_limits(answer, caller, &arrival)
}

/// Takes a call that was understood through its other stages.
async fn govern(worker: &Worker, arrival: &Arrival, known: &Known, call: Call) -> Response<Answer> {
    let caller = &known.caller;
    let (route, permit) = match enter(worker, arrival, known, &call).await {
        Ok(entered) => entered,
        Err(refusal) => {
            let asked = (call.endpoint, call.request.model.as_str(), call.request.stream);
            let answer = refused(worker, arrival, caller, asked, &refusal).await;
            return with_limits(answer, caller, arrival);
        }
    };
    let strips = call.request.include_usage.is_some();
    match forward(&worker.pool, call, &route, permit).await {
        Ok(answered) => relay(answered, strips).await.map(Answer::from),
        Err(refusal) => with_limits(own(refuse::answer(&refusal, arrival)), caller, arrival),
    }
}

/// Route and admit, as things are now that the body is here. From here on the call has a permit,
/// which writes its own record.
async fn enter(
    worker: &Worker,
    arrival: &Arrival,
    known: &Known,
    call: &Call,
) -> Result<(Route, Permit), Refusal> {
    if worker.shared.is_draining() {
        return Err(Refusal::Draining);
    }
    let now = clock::now();
    let known = again(&worker.shared.directory, known, now, arrival.address)?;
    let route = route(&worker.shared.catalog.load(), &known.caller, call)?;
    let permit = admit(worker, (arrival, now), &known.caller, call, &route).await?;
    Ok((route, permit))
}

/// Tells a caller no, and notes it in the log: whoever saw the answer finds it there.
async fn refused(
    worker: &Worker,
    arrival: &Arrival,
    caller: &Caller,
    (endpoint, model, stream): (Endpoint, &str, bool),
    refusal: &Refusal,
) -> Response<Answer> {
    let Told { status, code, .. } = refusal.told(arrival.at);
    let call = RefusedCall { arrival, caller, endpoint, model, stream, status, code };
    if let Some(noted) = worker.refusals.note(&call) {
        worker.desk.writer.written(noted).await;
    }
    own(refuse::answer(refusal, arrival))
}

/// The gateway's own words.
fn own(response: Response<Bytes>) -> Response<Answer> {
    response.map(Answer::from)
}

/// Tells a caller where the tightest limits stand, beside whatever else it is told.
fn with_limits(
    mut response: Response<Answer>,
    caller: &Caller,
    arrival: &Arrival,
) -> Response<Answer> {
    headers::add_rooms(response.headers_mut(), &caller.project.rooms(arrival.at), arrival.at);
    response
}
