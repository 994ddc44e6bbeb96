//! Exchange: the path of a call, top to bottom. READ THIS FIRST.
//!
//! One line a stage, one file a stage. A stage takes what it needs and returns a small new value;
//! it never calls the next one. What a stage refuses is told in one place, `refuse`.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::accounting::directory::Caller;
use crate::accounting::permit::Permit;
use crate::clock;
use crate::dialect::endpoint::{Dialect, Endpoint, dialect_of_unknown};
use crate::proxy::admit::admit;
use crate::proxy::answer::Answer;
use crate::proxy::arrival::Arrival;
use crate::proxy::authenticate::{Known, again, authenticate};
use crate::proxy::choose::draw;
use crate::proxy::forward::forward;
use crate::proxy::once::claim;
use crate::proxy::receive::{Call, discard, receive};
use crate::proxy::refusals::RefusedCall;
use crate::proxy::refuse::Refusal;
use crate::proxy::relay::relay;
use crate::proxy::route::{Route, route};
use crate::proxy::shape::answer;
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
    let path = parts.uri.path();
    let (endpoint, model) = match Endpoint::of(parts.method.as_str(), path) {
        Some((Endpoint::Health, _)) => return own(inform::health(worker.shared.is_draining())),
        Some((endpoint, model)) => (endpoint, model.map(str::to_owned)),
        None => return own(answer(&Refusal::UnknownPath, dialect_of_unknown(path), &arrival)),
    };
    let dialect = inform::dialect(endpoint, &parts);
    let known = match authenticate(&worker.shared.directory, &parts, &arrival) {
        Ok(known) => known,
        Err(refusal) => {
            worker.unauthenticated.increment(1);
            discard(&parts, body).await;
            return own(answer(&refusal, dialect, &arrival));
        }
    };
    let (caller, shared) = (&known.caller, &worker.shared);
    let told = match endpoint {
        Endpoint::Models | Endpoint::GeminiModels => {
            own(inform::models(&shared.catalog.load(), caller, dialect, &arrival))
        }
        Endpoint::Limits => own(inform::limits(caller, &arrival)),
        _ => match receive((endpoint, model.as_deref()), parts, body, &shared.settings).await {
            Ok(call) => return govern(&worker, &arrival, &known, call).await,
            Err(no) => refused(&worker, &arrival, caller, (endpoint, "", false), &no).await,
        },
    };
    with_limits(told, caller, dialect, &arrival)
}

/// Takes a call that was understood through its other stages.
async fn govern(
    worker: &Rc<Worker>,
    arrival: &Arrival,
    known: &Known,
    call: Call,
) -> Response<Answer> {
    let (caller, endpoint) = (&known.caller, call.endpoint);
    let dialect = endpoint.dialect();
    let (route, permit) = match enter(worker, arrival, known, &call).await {
        Ok(entered) => entered,
        Err(refusal) => {
            let asked = (endpoint, call.request.model.as_str(), call.request.stream);
            let told = refused(worker, arrival, caller, asked, &refusal).await;
            return with_limits(told, caller, dialect, arrival);
        }
    };
    let told = match permit.presence().map(Rc::clone) {
        None => pass(worker, call, &route, permit).await,
        // Only such a call pays for a task of its own.
        Some(presence) => {
            let own = Rc::clone(worker);
            let passing = async move { pass(&own, call, &route, permit).await };
            let told = worker.background.outlive(presence, passing).await;
            told.unwrap_or(Err(Refusal::UpstreamFailed))
        }
    };
    told.unwrap_or_else(|refusal| {
        with_limits(own(answer(&refusal, dialect, arrival)), caller, dialect, arrival)
    })
}

/// Forward and relay: what can go on without a client.
async fn pass(
    worker: &Worker,
    call: Call,
    route: &Route,
    permit: Permit,
) -> Result<Response<Answer>, Refusal> {
    let endpoint = call.endpoint;
    let wants = (call.request.stream, call.request.include_usage.is_some());
    let answered = forward(&worker.pool, call, route, permit).await?;
    let response = relay(answered, endpoint, wants).await?;
    Ok(response.map(|relay| Answer::of(relay, &worker.background)))
}

/// Claim, route and admit, as things are now that the body is here. From here on the call has a
/// permit, which writes its own record.
async fn enter(
    worker: &Worker,
    arrival: &Arrival,
    known: &Known,
    call: &Call,
) -> Result<(Route, Permit), Refusal> {
    if worker.shared.is_draining() {
        return Err(Refusal::Draining);
    }
    let claim = claim(worker, arrival, &known.caller, call).await?;
    let now = clock::now();
    let known = again(&worker.shared.directory, known, now, arrival.address)?;
    let mut route = route(&worker.shared.catalog.load(), &known.caller, call, now)?;
    draw(&mut route.stops, |stop| stop.rank, || worker.ids.random());
    let permit = admit(worker, (arrival, now), &known, (call, claim), &route).await?;
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
    let dialect = endpoint.dialect();
    let told = refusal.told(arrival.at);
    let (status, code) = (told.status_in(dialect), told.code);
    let call = RefusedCall { arrival, caller, endpoint, model, stream, status, code };
    if let Some(noted) = worker.refusals.note(&call) {
        worker.desk.writer.written(noted).await;
    }
    own(answer(refusal, dialect, arrival))
}

/// The gateway's own words.
fn own(response: Response<Bytes>) -> Response<Answer> {
    response.map(Answer::from)
}

/// Tells a caller where the tightest limits stand, beside whatever else it is told.
fn with_limits(
    mut response: Response<Answer>,
    caller: &Caller,
    dialect: Dialect,
    arrival: &Arrival,
) -> Response<Answer> {
    let rooms = caller.rooms(arrival.at);
    headers::add_rooms(response.headers_mut(), &rooms, dialect, arrival.at);
    response
}
