//! The table of upstream faults: what a provider does on the wire, what the client observes, what
//! is charged, and whether another upstream is tried. `docs/upstreams.md` is generated from the
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

const fn assert_cut(stream: bool, body: fn() -> String) -> Expectation {
    (stream, Observed::Cut, body, Charged::Estimate)
}

const fn assert_complete(stream: bool, body: fn() -> String) -> Expectation {
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
        assert_cut(true, empty_body),
    )),
    with_short_timeouts(row(
        "stalls between two events",
        || vec![send(chunked(&good_events()[..3])), WireAction::AwaitClose],
        assert_cut(true, || first_events(3)),
    )),
    row(
        "cuts within an event",
        || vec![send(chunked(&good_events()[..3])), send(chunk(&good_events()[3][..20]))],
        assert_cut(true, || first_events(3) + &good_events()[3][..20]),
    ),
    row(
        "cuts before the usage",
        || vec![send(chunked(&without_usage()))],
        assert_cut(true, || without_usage().concat()),
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
        assert_cut(true, || first_events(2)),
    ),
    row(
        "garbles an event",
        || {
            let mut events = good_events();
            events.insert(2, "data: {\"what?\n\n".to_owned());
            vec![send(chunked(&events)), send("0\r\n\r\n"), WireAction::AwaitClose]
        },
        assert_complete(true, || {
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
        assert_cut(false, || without_last_byte(half_body())),
    ),
    with_short_timeouts(row(
        "sends less than its `content-length`, and stalls",
        || {
            let head = format!("{JSON_HEAD}content-length: {}\r\n\r\n", whole_body().len() + 9);
            vec![send(head + &whole_body()), WireAction::AwaitClose]
        },
        assert_cut(false, || without_last_byte(whole_body())),
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
        assert_complete(false, whole_body),
    ),
    row(
        "drips, a byte at a time",
        || {
            vec![
                WireAction::Drip((chunked(&good_events()) + "0\r\n\r\n").into()),
                WireAction::AwaitClose,
            ]
        },
        assert_complete(true, all_events),
    ),
    row(
        "streams without an end",
        || vec![send(chunked(&[])), WireAction::Repeat(chunk(&good_events()[1]).into())],
        (true, Observed::Disconnects, empty_body, Charged::Estimate),
    ),
    row(
        "HTTP/1.0, without a length",
        || vec![send(JSON_HEAD.replace("1.1", "1.0") + "\r\n" + &whole_body())],
        assert_complete(false, whole_body),
    ),
];

const DOC_HEADER: &str = "# Upstreams

Which upstream serves a call, and what happens when it fails. A test generates this page and checks each row of the table.

## Selection

A model has targets: upstreams, each with the model's name there, a `priority` and a `weight`. Targets with the lowest `priority` value come first. Among targets of equal priority one is drawn for each call by weight; the others follow, the heaviest first. `aliases` are additional names of a model: a call by an alias is logged, priced and authorized as the model, and a key that may use either name may use both.

The next target is tried if there is no connection, no response head within `first_byte_timeout_ms`, a 429, a 5xx, or a refusal of the gateway's own credential (401, 402, 403). All attempts share one hold and count as one request. After the first byte of a response has been sent to the client, no other target is tried. If every target fails, the client receives the last response.

A target is skipped, that is, tried only after all others:

- while the *circuit* of its upstream is open. The circuit opens after five consecutive failures, when more than half of at least twenty attempts in ten seconds have failed, or immediately when the upstream refuses the gateway's own credential. Failures are 5xx, timeouts, lost connections, and responses that are cut; 429 is not a failure. After one second a single call is let through as a probe; each failed probe doubles the time, up to one minute. A successful response closes the circuit. All of these values are settings of `circuit`.
- for one model, after a 429 or 5xx with `Retry-After` (or `retry-after-ms`), for that time, at most `retry_after_max_ms`.

Skipping never refuses a call: if no other target is left, a skipped one is tried. A model with a single upstream is not affected.

`connect_timeout_ms` limits the time to connect, `idle_timeout_ms` each pause of a response that has started. [Metrics](metrics.md) report attempts, circuits, skips and cuts.

## Faults

*Estimate* is the gateway's own count of the input and of the received output; *usage* is what the upstream reported. A cut is a connection that closes without the end that its framing promised, so that the client cannot mistake a part for the whole. A call that is not charged returns its hold; it counts as a request unless there was no connection.

| upstream behavior | client sees | charged | next target tried |
|---|---|---|---|
";

fn fault_table() -> String {
    let format_row = |row: &FaultRow| {
        let sees = match row.observed {
            Observed::UpstreamError(status) | Observed::GatewayError(status) => {
                format!("{status} from the gateway")
            }
            Observed::Relayed(status) => format!("{status}, relayed from the upstream"),
            Observed::Complete if row.charged == Charged::Usage => {
                "the complete response".to_owned()
            }
            Observed::Complete => "what was received, unchanged".to_owned(),
            Observed::Cut => "what was received, then a cut".to_owned(),
            Observed::AllButEnd => "every event, then a cut".to_owned(),
            Observed::Disconnects => "what is sent, until the client disconnects".to_owned(),
        };
        let charged = match row.charged {
            Charged::Nothing => "nothing",
            Charged::Usage => "usage",
            Charged::Estimate => "estimate",
        };
        let retried = if row.retried { "yes" } else { "no" };
        format!("| {} | {sees} | {charged} | {retried} |\n", row.name)
    };
    FAULTS.iter().map(format_row).collect()
}

#[test]
fn the_upstreams_page_matches_the_fault_table() {
    let expected_page = format!("{DOC_HEADER}{}", fault_table());
    let doc_path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/upstreams.md");
    if std::fs::read_to_string(doc_path).unwrap_or_default() != expected_page {
        std::fs::write(doc_path, &expected_page).expect("docs is writable");
        panic!("docs/upstreams.md was out of date and has been regenerated; review and commit it");
    }
}
