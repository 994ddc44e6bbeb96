//! The table of misbehaviours: what a provider may do on the wire, what the client sees of it, what
//! is charged, and who is asked next. `docs/upstreams.md` is written from it, `misbehaving` proves it.

use crate::harness::openai::{Usage, WORDS, completion, error, error_event, events};
use crate::harness::raw_upstream::{WireAction, send};

pub const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };

/// What a client sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observed {
    /// An error that the gateway tells, with that status, as no answer came that it could pass on.
    UpstreamError(u16),
    /// The same, but the fault is the gateway's.
    GatewayError(u16),
    /// An error, or what is none of both, as the provider told it.
    Relayed(u16),
    /// A whole answer, byte for byte.
    Complete,
    /// Part of an answer, and no end.
    Cut,
    /// Every event, and no end.
    AllButEnd,
    /// What comes, until it has enough and leaves.
    Disconnects,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charged {
    Nothing,
    Usage,
    /// The input that was counted, and what was counted of the output.
    Estimate,
}

/// What the provider does.
pub enum Behavior {
    RefusesConnections,
    ClosesConnection,
    /// This, once it was asked.
    Performs(fn() -> Vec<WireAction>),
    /// The first at first, then the second.
    Recovers(fn() -> Vec<WireAction>, fn() -> Vec<WireAction>),
}

pub struct FaultRow {
    pub name: &'static str,
    pub behavior: Behavior,
    pub stream: bool,
    pub observed: Observed,
    /// The body that it sees, or how it begins.
    pub body: fn() -> String,
    pub charged: Charged,
    /// Whether another provider is asked, if there is one.
    pub retried: bool,
    /// Whether its time-outs are short.
    pub short_timeouts: bool,
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const JSON_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A stream whose head is followed by these events, each a chunk.
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

/// The last byte waits to see whether it is the last of all.
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

const fn row(what: &'static str, acts: fn() -> Vec<WireAction>, told: Expectation) -> FaultRow {
    let (stream, sees, body, charged) = told;
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

/// Of a stream or of a whole answer, what is seen of it, and what is charged.
type Expectation = (bool, Observed, fn() -> String, Charged);

const fn expect_cut(stream: bool, body: fn() -> String) -> Expectation {
    (stream, Observed::Cut, body, Charged::Estimate)
}

const fn expect_complete(stream: bool, body: fn() -> String) -> Expectation {
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
        "says `100 Continue`, and then nothing",
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
        "429 without",
        || vec![send(sized_response("429 Slow", "", error()))],
        Observed::Relayed(429),
        true,
    ),
    FaultRow {
        behavior: Behavior::Recovers(
            || vec![send(sized_response("500 Oh", "", error()))],
            || vec![send(sized_response("200 OK", "", &whole_body()))],
        ),
        ..error_row("500, and the next time an answer", Vec::new, Observed::Relayed(500), true)
    },
    error_row(
        "503 for ever",
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
        "302 to another place",
        || vec![send(sized_response("302 There", "location: http://elsewhere/\r\n", error()))],
        Observed::Relayed(302),
        false,
    ),
    with_short_timeouts(row(
        "stalls after the head",
        || vec![send(chunked(&[])), WireAction::AwaitClose],
        expect_cut(true, empty_body),
    )),
    with_short_timeouts(row(
        "stalls between two events",
        || vec![send(chunked(&good_events()[..3])), WireAction::AwaitClose],
        expect_cut(true, || first_events(3)),
    )),
    row(
        "cuts within an event",
        || vec![send(chunked(&good_events()[..3])), send(chunk(&good_events()[3][..20]))],
        expect_cut(true, || first_events(3) + &good_events()[3][..20]),
    ),
    row(
        "cuts before the usage",
        || vec![send(chunked(&without_usage()))],
        expect_cut(true, || without_usage().concat()),
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
        expect_cut(true, || first_events(2)),
    ),
    row(
        "garbles an event",
        || {
            let mut events = good_events();
            events.insert(2, "data: {\"what?\n\n".to_owned());
            vec![send(chunked(&events)), send("0\r\n\r\n"), WireAction::AwaitClose]
        },
        expect_complete(true, || {
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
        expect_cut(false, || without_last_byte(half_body())),
    ),
    with_short_timeouts(row(
        "sends less than its `content-length`, and stalls",
        || {
            let head = format!("{JSON_HEAD}content-length: {}\r\n\r\n", whole_body().len() + 9);
            vec![send(head + &whole_body()), WireAction::AwaitClose]
        },
        expect_cut(false, || without_last_byte(whole_body())),
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
        expect_complete(false, whole_body),
    ),
    row(
        "drips, a byte at a time",
        || {
            vec![
                WireAction::Drip((chunked(&good_events()) + "0\r\n\r\n").into()),
                WireAction::AwaitClose,
            ]
        },
        expect_complete(true, all_events),
    ),
    row(
        "streams without an end",
        || vec![send(chunked(&[])), WireAction::Repeat(chunk(&good_events()[1]).into())],
        (true, Observed::Disconnects, empty_body, Charged::Estimate),
    ),
    row(
        "HTTP/1.0, without a length",
        || vec![send(JSON_HEAD.replace("1.1", "1.0") + "\r\n" + &whole_body())],
        expect_complete(false, whole_body),
    ),
];

const DOC_HEADER: &str = "# Upstreams

Which upstream a call goes to, and what becomes of it when that one misbehaves. The table is written by a test, which proves each of its rows.

## Who is asked

A model has targets: upstreams, each with the model's name there, a `priority` and a `weight`. Those of the least priority come first. Of one priority one is drawn for each call, by weight; the others follow, the heaviest first. `aliases` are other names of a model: a call by one of them is recorded, priced and allowed as the model, and a key that may use either name may use both.

The next one is asked when there is no connection, no head within `first_byte_timeout_ms`, 429, 5xx, or a refusal of the gateway's own credential (401, 402, 403): on the same hold, and as one request. Once a byte of an answer has gone to the client, nobody else is asked. The last one's answer stands.

An upstream is skipped, which means that it comes after all others:

- while its *circuit* is open. It opens after five failures in a row, when more than half of at least twenty tries in ten seconds have failed, or at once when it refuses the gateway's own credential. Failures are 5xx, time-outs, lost connections, and answers that break off; 429 is none. After a second one call is let through as a probe; after each that fails the circuit is open for twice as long, up to a minute. An answer closes it. All of these are settings of `circuit`.
- for one model, after a 429 or 5xx with `Retry-After` (or `retry-after-ms`), for as long as that says and at most `retry_after_max_ms`.

A call is never refused for it: where nobody else is left, whoever is skipped is asked, and a model with one upstream does not notice.

`connect_timeout_ms` bounds the connection, `idle_timeout_ms` each silence of an answer that has begun. [Metrics](metrics.md) tell of tries, circuits, skips and cuts.

## Misbehaviours

*Estimate* is the input as the gateway counts it, and what it counts of the output that came; *usage* is what the upstream reported. A cut is a connection that closes without the end that its framing promised, so that no client takes a part for the whole. What is not charged gives its hold back; it counts as a request unless there was no connection.

| the upstream | the client sees | charged | another is asked |
|---|---|---|---|
";

fn fault_table() -> String {
    let told = |row: &FaultRow| {
        let sees = match row.observed {
            Observed::UpstreamError(status) | Observed::GatewayError(status) => {
                format!("{status}, of the gateway")
            }
            Observed::Relayed(status) => format!("{status}, as the upstream tells it"),
            Observed::Complete if row.charged == Charged::Usage => "the answer".to_owned(),
            Observed::Complete => "what came, as it came".to_owned(),
            Observed::Cut => "what came, then a cut".to_owned(),
            Observed::AllButEnd => "every event, then a cut".to_owned(),
            Observed::Disconnects => "what comes, until it leaves".to_owned(),
        };
        let charged = match row.charged {
            Charged::Nothing => "nothing",
            Charged::Usage => "usage",
            Charged::Estimate => "estimate",
        };
        let retried = if row.retried { "yes" } else { "no" };
        format!("| {} | {sees} | {charged} | {retried} |\n", row.name)
    };
    FAULTS.iter().map(told).collect()
}

#[test]
fn the_upstreams_page_matches_the_fault_table() {
    let page = format!("{DOC_HEADER}{}", fault_table());
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/upstreams.md");
    if std::fs::read_to_string(kept).unwrap_or_default() != page {
        std::fs::write(kept, &page).expect("docs is writable");
        panic!("docs/upstreams.md was out of date and is written anew: look at it, commit it");
    }
}
