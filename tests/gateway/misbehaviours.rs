//! The table of misbehaviours: what a provider may do on the wire, what the client sees of it, what
//! is charged, and who is asked next. `docs/upstreams.md` is written from it, `misbehaving` proves it.

use crate::openai::{Usage, WORDS, completion, error, error_event, events};
use crate::wire::{Act, say};

pub const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };

/// What a client sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sees {
    /// An error that the gateway tells, with that status, as no answer came that it could pass on.
    Own(u16),
    /// The same, but the fault is the gateway's.
    Fault(u16),
    /// An error, or what is none of both, as the provider told it.
    Theirs(u16),
    /// A whole answer, byte for byte.
    All,
    /// Part of an answer, and no end.
    Cut,
    /// Every event, and no end.
    AllButTheEnd,
    /// What comes, until it has enough and leaves.
    Leaves,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charged {
    Nothing,
    Usage,
    /// The input that was counted, and what was counted of the output.
    Estimate,
}

/// What the provider does.
pub enum Does {
    RefusesConnections,
    ClosesAtOnce,
    /// This, once it was asked.
    Acts(fn() -> Vec<Act>),
    /// The first at first, then the second.
    Recovers(fn() -> Vec<Act>, fn() -> Vec<Act>),
}

pub struct Row {
    pub what: &'static str,
    pub does: Does,
    pub stream: bool,
    pub sees: Sees,
    /// The body that it sees, or how it begins.
    pub body: fn() -> String,
    pub charged: Charged,
    /// Whether another provider is asked, if there is one.
    pub retried: bool,
    /// Whether its time-outs are short.
    pub hasty: bool,
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A stream whose head is followed by these events, each a chunk.
fn chunked(events: &[String]) -> String {
    let chunks: String = events.iter().map(|event| chunk(event)).collect();
    format!("{STREAM}transfer-encoding: chunked\r\n\r\n{chunks}")
}

fn sized(status: &str, more: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn good() -> Vec<String> {
    events(WORDS, Some(USAGE))
}

fn all() -> String {
    good().concat()
}

fn first(pieces: usize) -> String {
    good()[..pieces].concat()
}

fn without_usage() -> Vec<String> {
    let mut events = events(WORDS, None);
    events.pop();
    events
}

pub fn whole() -> String {
    completion(USAGE)
}

fn half() -> String {
    whole()[..whole().len() / 2].to_owned()
}

/// The last byte waits to see whether it is the last of all.
fn all_but_a_byte(mut body: String) -> String {
    body.pop();
    body
}

fn nothing() -> String {
    String::new()
}

fn failed() -> String {
    error().to_owned()
}

const fn error_row(what: &'static str, acts: fn() -> Vec<Act>, sees: Sees, retried: bool) -> Row {
    let body = if matches!(sees, Sees::Theirs(_)) { failed } else { nothing };
    let (does, charged) = (Does::Acts(acts), Charged::Nothing);
    Row { what, does, stream: false, sees, body, charged, retried, hasty: false }
}

const fn row(what: &'static str, acts: fn() -> Vec<Act>, told: Seen) -> Row {
    let (stream, sees, body, charged) = told;
    let does = Does::Acts(acts);
    Row { what, does, stream, sees, body, charged, retried: false, hasty: false }
}

const fn hasty(row: Row) -> Row {
    Row { hasty: true, ..row }
}

/// Of a stream or of a whole answer, what is seen of it, and what is charged.
type Seen = (bool, Sees, fn() -> String, Charged);

const fn cut(stream: bool, body: fn() -> String) -> Seen {
    (stream, Sees::Cut, body, Charged::Estimate)
}

const fn fine(stream: bool, body: fn() -> String) -> Seen {
    (stream, Sees::All, body, Charged::Usage)
}

pub static ROWS: &[Row] = &[
    Row {
        does: Does::RefusesConnections,
        ..error_row("refuses the connection", Vec::new, Sees::Own(502), true)
    },
    Row {
        does: Does::ClosesAtOnce,
        ..error_row("accepts the connection and closes it", Vec::new, Sees::Own(502), true)
    },
    error_row("reads the request and closes", Vec::new, Sees::Own(502), true),
    hasty(error_row("stalls before the head", || vec![Act::Mute], Sees::Own(504), true)),
    hasty(error_row(
        "says `100 Continue`, and then nothing",
        || vec![say("HTTP/1.1 100 Continue\r\n\r\n"), Act::Mute],
        Sees::Own(504),
        true,
    )),
    hasty(error_row(
        "stalls within the head",
        || vec![say(&WHOLE[..40]), Act::Mute],
        Sees::Own(504),
        true,
    )),
    error_row("garbles the head", || vec![say("HTTP/9 what?\r\n\r\n")], Sees::Own(502), true),
    error_row(
        "sends a head without an end",
        || vec![say(WHOLE), Act::Repeat(format!("x-more: {}\r\n", "m".repeat(65_536)).into())],
        Sees::Own(502),
        true,
    ),
    error_row(
        "429 with `Retry-After`",
        || vec![say(sized("429 Slow", "retry-after: 7\r\n", error()))],
        Sees::Theirs(429),
        true,
    ),
    error_row("429 without", || vec![say(sized("429 Slow", "", error()))], Sees::Theirs(429), true),
    Row {
        does: Does::Recovers(
            || vec![say(sized("500 Oh", "", error()))],
            || vec![say(sized("200 OK", "", &whole()))],
        ),
        ..error_row("500, and the next time an answer", Vec::new, Sees::Theirs(500), true)
    },
    error_row("503 for ever", || vec![say(sized("503 No", "", error()))], Sees::Theirs(503), true),
    error_row(
        "401 to the gateway's own credential",
        || vec![say(sized("401 Who", "", error()))],
        Sees::Fault(502),
        true,
    ),
    error_row(
        "302 to another place",
        || vec![say(sized("302 There", "location: http://elsewhere/\r\n", error()))],
        Sees::Theirs(302),
        false,
    ),
    hasty(row("stalls after the head", || vec![say(chunked(&[])), Act::Mute], cut(true, nothing))),
    hasty(row(
        "stalls between two events",
        || vec![say(chunked(&good()[..3])), Act::Mute],
        cut(true, || first(3)),
    )),
    row(
        "cuts within an event",
        || vec![say(chunked(&good()[..3])), say(chunk(&good()[3][..20]))],
        cut(true, || first(3) + &good()[3][..20]),
    ),
    row(
        "cuts before the usage",
        || vec![say(chunked(&without_usage()))],
        cut(true, || without_usage().concat()),
    ),
    row(
        "cuts after the usage, before `[DONE]`",
        || vec![say(chunked(&good()[..good().len() - 1]))],
        (true, Sees::Cut, || first(good().len() - 1), Charged::Usage),
    ),
    row(
        "cuts after `[DONE]`, before the last chunk",
        || vec![say(chunked(&good()))],
        (true, Sees::AllButTheEnd, all, Charged::Usage),
    ),
    row(
        "garbles the size of a chunk",
        || vec![say(chunked(&good()[..2])), say("what?\r\n")],
        cut(true, || first(2)),
    ),
    row(
        "garbles an event",
        || {
            let mut events = good();
            events.insert(2, "data: {\"what?\n\n".to_owned());
            vec![say(chunked(&events)), say("0\r\n\r\n"), Act::Mute]
        },
        fine(true, || first(2) + "data: {\"what?\n\n" + &good()[2..].concat()),
    ),
    row(
        "an error event in a stream of 200",
        || {
            let events = [&good()[..3], &[error_event()]].concat();
            vec![say(chunked(&events)), say("0\r\n\r\n"), Act::Mute]
        },
        (true, Sees::All, || first(3) + &error_event(), Charged::Estimate),
    ),
    row(
        "200 with an error for a body",
        || vec![say(sized("200 OK", "", error()))],
        (false, Sees::All, failed, Charged::Estimate),
    ),
    row(
        "sends less than its `content-length`, and closes",
        || vec![say(format!("{WHOLE}content-length: {}\r\n\r\n{}", whole().len(), half()))],
        cut(false, || all_but_a_byte(half())),
    ),
    hasty(row(
        "sends less than its `content-length`, and stalls",
        || {
            let head = format!("{WHOLE}content-length: {}\r\n\r\n", whole().len() + 9);
            vec![say(head + &whole()), Act::Mute]
        },
        cut(false, || all_but_a_byte(whole())),
    )),
    row(
        "sends more than its `content-length`",
        || {
            let head = format!("{WHOLE}content-length: {}\r\n\r\n", half().len());
            vec![say(head + &whole()), Act::Mute]
        },
        (false, Sees::All, half, Charged::Estimate),
    ),
    row(
        "sends garbage after the end",
        || vec![say(sized("200 OK", "", &whole()) + "HTTP/9 what?\r\n\r\n"), Act::Mute],
        fine(false, whole),
    ),
    row(
        "drips, a byte at a time",
        || vec![Act::Drip((chunked(&good()) + "0\r\n\r\n").into()), Act::Mute],
        fine(true, all),
    ),
    row(
        "streams without an end",
        || vec![say(chunked(&[])), Act::Repeat(chunk(&good()[1]).into())],
        (true, Sees::Leaves, nothing, Charged::Estimate),
    ),
    row(
        "HTTP/1.0, without a length",
        || vec![say(WHOLE.replace("1.1", "1.0") + "\r\n" + &whole())],
        fine(false, whole),
    ),
];

const BEFORE: &str = "# Upstreams

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

fn page() -> String {
    let told = |row: &Row| {
        let sees = match row.sees {
            Sees::Own(status) | Sees::Fault(status) => format!("{status}, of the gateway"),
            Sees::Theirs(status) => format!("{status}, as the upstream tells it"),
            Sees::All if row.charged == Charged::Usage => "the answer".to_owned(),
            Sees::All => "what came, as it came".to_owned(),
            Sees::Cut => "what came, then a cut".to_owned(),
            Sees::AllButTheEnd => "every event, then a cut".to_owned(),
            Sees::Leaves => "what comes, until it leaves".to_owned(),
        };
        let charged = match row.charged {
            Charged::Nothing => "nothing",
            Charged::Usage => "usage",
            Charged::Estimate => "estimate",
        };
        let retried = if row.retried { "yes" } else { "no" };
        format!("| {} | {sees} | {charged} | {retried} |\n", row.what)
    };
    ROWS.iter().map(told).collect()
}

#[test]
fn the_page_of_upstreams_is_the_table_that_is_proven() {
    let page = format!("{BEFORE}{}", page());
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/upstreams.md");
    if std::fs::read_to_string(kept).unwrap_or_default() != page {
        std::fs::write(kept, &page).expect("docs is writable");
        panic!("docs/upstreams.md was out of date and is written anew: look at it, commit it");
    }
}
