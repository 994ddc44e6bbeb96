//! The table of upstream faults: what a provider does on the wire, what the client observes, what
//! is charged, and whether another upstream is tried. `docs/routing-and-failover.md` is generated from the
//! table, and `upstream_faults` tests each row.

use crate::harness::openai::{Usage, WORDS, completion, error, error_event, events};
use crate::harness::raw_upstream::{WireAction, send};

pub const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };

/// What the client observes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observed {
    /// An error of the gateway with this status, source `upstream`, because no response could be
    /// relayed.
    UpstreamError(u16),
    /// An error of the gateway with this status, source `gateway`.
    GatewayError(u16),
    /// A response of the provider with this status, relayed unchanged.
    Relayed(u16),
    /// A complete response, byte for byte.
    Complete,
    /// Part of a response, then a cut.
    Cut,
    /// Every event, but no end of the body.
    AllButEnd,
    /// An endless response, from which the client disconnects.
    Disconnects,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charged {
    Nothing,
    Usage,
    /// The gateway's own count of the input and of the received output.
    Estimate,
}

pub enum Behavior {
    RefusesConnections,
    ClosesConnection,
    /// Performs these actions after it has read the request.
    Performs(fn() -> Vec<WireAction>),
    /// Performs the first actions on the first request, the second on the next.
    Recovers(fn() -> Vec<WireAction>, fn() -> Vec<WireAction>),
}

pub struct FaultRow {
    pub name: &'static str,
    pub behavior: Behavior,
    pub stream: bool,
    pub observed: Observed,
    /// The expected body.
    pub body: fn() -> String,
    pub charged: Charged,
    /// Whether another upstream is tried, if there is one.
    pub retried: bool,
    /// Whether the upstream has short timeouts.
    pub short_timeouts: bool,
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const JSON_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A stream head followed by these events, each in a chunk of its own.
fn chunked(events: &[String]) -> String {
    let chunks: String = events.iter().map(|event| chunk(event)).collect();
    format!("{STREAM_HEAD}transfer-encoding: chunked\r\n\r\n{chunks}")
}

fn sized_response(status: &str, more: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn good_events() -> Vec<String> {
    events(WORDS, Some(USAGE))
}

fn all_events() -> String {
    good_events().concat()
}

fn first_events(pieces: usize) -> String {
    good_events()[..pieces].concat()
}

fn without_usage() -> Vec<String> {
    let mut events = events(WORDS, None);
    events.pop();
    events
}

pub fn whole_body() -> String {
    completion(USAGE)
}

fn half_body() -> String {
    whole_body()[..whole_body().len() / 2].to_owned()
}

/// The body without its last byte, which the gateway holds back until the response has ended.
fn without_last_byte(mut body: String) -> String {
    body.pop();
    body
}

fn empty_body() -> String {
    String::new()
}

fn error_body() -> String {
    error().to_owned()
}

const fn error_row(
    what: &'static str,
    acts: fn() -> Vec<WireAction>,
    sees: Observed,
    retried: bool,
) -> FaultRow {
    let body = if matches!(sees, Observed::Relayed(_)) { error_body } else { empty_body };
    let (does, charged) = (Behavior::Performs(acts), Charged::Nothing);
    FaultRow {
        name: what,
        behavior: does,
        stream: false,
        observed: sees,
        body,
        charged,
        retried,
        short_timeouts: false,
    }
}

const fn row(
    what: &'static str,
    acts: fn() -> Vec<WireAction>,
    expectation: Expectation,
) -> FaultRow {
    let (stream, sees, body, charged) = expectation;
    let does = Behavior::Performs(acts);
    FaultRow {
        name: what,
        behavior: does,
        stream,
        observed: sees,
        body,
        charged,
        retried: false,
        short_timeouts: false,
    }
}

const fn with_short_timeouts(row: FaultRow) -> FaultRow {
    FaultRow { short_timeouts: true, ..row }
}

/// Whether the call is streamed, what the client observes, the expected body, and the charge.
type Expectation = (bool, Observed, fn() -> String, Charged);

const fn cut_response(stream: bool, body: fn() -> String) -> Expectation {
    (stream, Observed::Cut, body, Charged::Estimate)
}

const fn complete_response(stream: bool, body: fn() -> String) -> Expectation {
    (stream, Observed::Complete, body, Charged::Usage)
}

pub static FAULTS: &[FaultRow] = &[
    FaultRow {
        behavior: Behavior::RefusesConnections,
        ..error_row("refuses the connection", Vec::new, Observed::UpstreamError(502), true)
    },
    FaultRow {
        behavior: Behavior::ClosesConnection,
        ..error_row(
            "accepts the connection and closes it",
            Vec::new,
            Observed::UpstreamError(502),
            true,
        )
    },
    error_row("reads the request and closes", Vec::new, Observed::UpstreamError(502), true),
    with_short_timeouts(error_row(
        "stalls before the head",
        || vec![WireAction::AwaitClose],
        Observed::UpstreamError(504),
        true,
    )),
    with_short_timeouts(error_row(
        "sends `100 Continue`, then nothing",
        || vec![send("HTTP/1.1 100 Continue\r\n\r\n"), WireAction::AwaitClose],
        Observed::UpstreamError(504),
        true,
    )),
    with_short_timeouts(error_row(
        "stalls within the head",
        || vec![send(&JSON_HEAD[..40]), WireAction::AwaitClose],
        Observed::UpstreamError(504),
        true,
    )),
    error_row(
        "garbles the head",
        || vec![send("HTTP/9 what?\r\n\r\n")],
        Observed::UpstreamError(502),
        true,
    ),
    error_row(
        "sends a head without an end",
        || {
            vec![
                send(JSON_HEAD),
                WireAction::Repeat(format!("x-more: {}\r\n", "m".repeat(65_536)).into()),
            ]
        },
        Observed::UpstreamError(502),
        true,
    ),
    error_row(
        "429 with `Retry-After`",
        || vec![send(sized_response("429 Slow", "retry-after: 7\r\n", error()))],
        Observed::Relayed(429),
        true,
    ),
    error_row(
        "429 without `Retry-After`",
        || vec![send(sized_response("429 Slow", "", error()))],
        Observed::Relayed(429),
        true,
    ),
    FaultRow {
        behavior: Behavior::Recovers(
            || vec![send(sized_response("500 Oh", "", error()))],
            || vec![send(sized_response("200 OK", "", &whole_body()))],
        ),
        ..error_row("500, then a response to the next call", Vec::new, Observed::Relayed(500), true)
    },
    error_row(
        "503 repeatedly",
        || vec![send(sized_response("503 No", "", error()))],
        Observed::Relayed(503),
        true,
    ),
    error_row(
        "401 to the gateway's own credential",
        || vec![send(sized_response("401 Who", "", error()))],
        Observed::GatewayError(502),
        true,
    ),
    error_row(
        "302 to another location",
        || vec![send(sized_response("302 There", "location: http://elsewhere/\r\n", error()))],
        Observed::Relayed(302),
        false,
    ),
    with_short_timeouts(row(
        "stalls after the head",
        || vec![send(chunked(&[])), WireAction::AwaitClose],
        cut_response(true, empty_body),
    )),
    with_short_timeouts(row(
        "stalls between two events",
        || vec![send(chunked(&good_events()[..3])), WireAction::AwaitClose],
        cut_response(true, || first_events(3)),
    )),
    row(
        "cuts within an event",
        || vec![send(chunked(&good_events()[..3])), send(chunk(&good_events()[3][..20]))],
        cut_response(true, || first_events(3) + &good_events()[3][..20]),
    ),
    row(
        "cuts before the usage",
        || vec![send(chunked(&without_usage()))],
        cut_response(true, || without_usage().concat()),
    ),
    row(
        "cuts after the usage, before `[DONE]`",
        || vec![send(chunked(&good_events()[..good_events().len() - 1]))],
        (true, Observed::Cut, || first_events(good_events().len() - 1), Charged::Usage),
    ),
    row(
        "cuts after `[DONE]`, before the last chunk",
        || vec![send(chunked(&good_events()))],
        (true, Observed::AllButEnd, all_events, Charged::Usage),
    ),
    row(
        "garbles the size of a chunk",
        || vec![send(chunked(&good_events()[..2])), send("what?\r\n")],
        cut_response(true, || first_events(2)),
    ),
    row(
        "garbles an event",
        || {
            let mut events = good_events();
            events.insert(2, "data: {\"what?\n\n".to_owned());
            vec![send(chunked(&events)), send("0\r\n\r\n"), WireAction::AwaitClose]
        },
        complete_response(true, || {
            first_events(2) + "data: {\"what?\n\n" + &good_events()[2..].concat()
        }),
    ),
    row(
        "an error event in a stream of 200",
        || {
            let events = [&good_events()[..3], &[error_event()]].concat();
            vec![send(chunked(&events)), send("0\r\n\r\n"), WireAction::AwaitClose]
        },
        (true, Observed::Complete, || first_events(3) + &error_event(), Charged::Estimate),
    ),
    row(
        "200 with an error for a body",
        || vec![send(sized_response("200 OK", "", error()))],
        (false, Observed::Complete, error_body, Charged::Estimate),
    ),
    row(
        "sends less than its `content-length`, and closes",
        || {
            vec![send(format!(
                "{JSON_HEAD}content-length: {}\r\n\r\n{}",
                whole_body().len(),
                half_body()
            ))]
        },
        cut_response(false, || without_last_byte(half_body())),
    ),
    with_short_timeouts(row(
        "sends less than its `content-length`, and stalls",
        || {
            let head = format!("{JSON_HEAD}content-length: {}\r\n\r\n", whole_body().len() + 9);
            vec![send(head + &whole_body()), WireAction::AwaitClose]
        },
        cut_response(false, || without_last_byte(whole_body())),
    )),
    row(
        "sends more than its `content-length`",
        || {
            let head = format!("{JSON_HEAD}content-length: {}\r\n\r\n", half_body().len());
            vec![send(head + &whole_body()), WireAction::AwaitClose]
        },
        (false, Observed::Complete, half_body, Charged::Estimate),
    ),
    row(
        "sends garbage after the end",
        || {
            vec![
                send(sized_response("200 OK", "", &whole_body()) + "HTTP/9 what?\r\n\r\n"),
                WireAction::AwaitClose,
            ]
        },
        complete_response(false, whole_body),
    ),
    row(
        "drips, a byte at a time",
        || {
            vec![
                WireAction::Drip((chunked(&good_events()) + "0\r\n\r\n").into()),
                WireAction::AwaitClose,
            ]
        },
        complete_response(true, all_events),
    ),
    row(
        "streams without an end",
        || vec![send(chunked(&[])), WireAction::Repeat(chunk(&good_events()[1]).into())],
        (true, Observed::Disconnects, empty_body, Charged::Estimate),
    ),
    row(
        "HTTP/1.0, without a length",
        || vec![send(JSON_HEAD.replace("1.1", "1.0") + "\r\n" + &whole_body())],
        complete_response(false, whole_body),
    ),
];
