//! The table of crashes: for each point what has been seen, and what stands in the ledger after the
//! next start. `docs/crashes.md` is written from it, and `points` proves each row.

use crate::crowd::Way;
use crate::process::binary;
use crate::reconcile::State;

/// What makes a gateway pass the point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Call(Way),
    /// Many calls.
    Calls,
    Recharge,
    Refund,
    /// Both, in lives of their own.
    Either,
    /// A start that finds calls open.
    Start,
}

/// What its client has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    Nothing,
    NoEnd,
    MaybeEnd,
    /// Of the admin API: no answer.
    NoAnswer,
}

/// What stands in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ledger {
    Call(&'static [State]),
    /// Whether the payment does.
    Payment(bool),
    /// Every call that was open has ended.
    Orphans,
}

/// Whether the provider has seen the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    No,
    Yes,
    Maybe,
}

pub struct Row {
    pub point: &'static str,
    /// When the process dies there.
    pub when: &'static str,
    pub by: By,
    pub provider: Provider,
    pub client: Client,
    pub ledger: Ledger,
    /// The most passings that a life under load can be asked for.
    pub most: u64,
}

const MANY: u64 = u64::MAX;

const fn of_call(point: &'static str, when: &'static str, way: Way, told: Told) -> Row {
    let (provider, client, states) = told;
    let ledger = Ledger::Call(states);
    Row { point, when, by: By::Call(way), provider, client, ledger, most: MANY }
}

const fn of_payment(point: &'static str, when: &'static str, by: By, done: bool) -> Row {
    let ledger = Ledger::Payment(done);
    Row { point, when, by, provider: Provider::No, client: Client::NoAnswer, ledger, most: MANY }
}

type Told = (Provider, Client, &'static [State]);

const ABSENT: Told = (Provider::No, Client::Nothing, &[State::Absent]);
const UNSENT: Told = (Provider::No, Client::Nothing, &[State::Void]);
const UNANSWERED: Told = (Provider::Yes, Client::Nothing, &[State::Void]);
const BEGUN: Told = (Provider::Yes, Client::NoEnd, &[State::Void]);
const FAR: Told = (Provider::Yes, Client::NoEnd, &[State::Estimate]);
const UNENDED: Told = (Provider::Yes, Client::NoEnd, &[State::Usage]);
const ENDED: Told = (Provider::Yes, Client::MaybeEnd, &[State::Usage]);
const BATCHED: Told = (Provider::Yes, Client::MaybeEnd, &[State::Void, State::Usage]);

pub const ROWS: [Row; 22] = [
    of_call("hold-appended", "the hold is in memory, and not written", Way::Stream, ABSENT),
    of_call("hold-written", "the hold is written, and nothing sent", Way::Stream, UNSENT),
    of_call("forwarding", "the call counts as forwarded, and nothing is sent", Way::Stream, UNSENT),
    of_call("request-sent", "the request is with the system", Way::Stream, UNANSWERED),
    of_call("answered", "the head of the answer is here", Way::Stream, UNANSWERED),
    of_call("piece-taken", "the first piece of the answer is here", Way::Stream, BEGUN),
    of_call("usage-seen", "the usage was read, and the end not yet", Way::Stream, BEGUN),
    of_call("progress-appended", "the first progress is in memory", Way::Long, BEGUN),
    of_call("progress-written", "the first piece after a progress is here", Way::Long, FAR),
    of_call("void-appended", "the end of a free call is in memory", Way::Fail, UNANSWERED),
    of_call("settle-appended", "the debit is in memory, and not written", Way::Stream, BEGUN),
    of_call("turn-written", "a hold is written, and nobody told of it", Way::Stream, UNSENT),
    Row {
        point: "segment-rolled",
        when: "the next segment is begun, and empty",
        by: By::Calls,
        provider: Provider::Maybe,
        client: Client::NoEnd,
        ledger: Ledger::Call(&[State::Absent, State::Void]),
        most: 2,
    },
    of_call("settle-written", "the debit is written, the end held back", Way::Stream, UNENDED),
    of_call("end-given", "the end is on its way to the client", Way::Stream, ENDED),
    of_call("batch-uncommitted", "a batch is in an open transaction", Way::Whole, BATCHED),
    of_call("batch-committed", "it is committed, and nobody told of it", Way::Whole, BATCHED),
    of_payment("recharge-posted", "a recharge is in an open transaction", By::Recharge, false),
    of_payment("refund-posted", "a refund is in an open transaction", By::Refund, false),
    of_payment("money-committed", "either is committed, and not in the books", By::Either, true),
    Row {
        point: "recovery-projected",
        when: "a start has projected the journal, and ended no open call",
        by: By::Start,
        provider: Provider::Yes,
        client: Client::NoEnd,
        ledger: Ledger::Orphans,
        most: 1,
    },
    Row {
        point: "recovery-orphan",
        when: "a start has ended one of the open calls, and not the next",
        by: By::Start,
        provider: Provider::Yes,
        client: Client::NoEnd,
        ledger: Ledger::Orphans,
        most: MANY,
    },
];

const BEFORE: &str = "# Crashes

What is so when the process dies at the worst moments. Written by a test from the table that it \
proves: it has the gateway die at each, starts it again on the same folder, and looks.

A debug build dies at the n-th passing of a point with `METEOR_CRASH=<point>:<n>`, as by `kill -9`; \
a release build has no points and refuses the variable. *Counts* is: against the limits on requests. \
What is not charged gives its tokens and its money back. `just points` tries many passings of each \
under load, and `just kills` kills at random.

| point | the process dies when | the provider | the client has seen | after the next start |
|---|---|---|---|---|
";

fn page() -> String {
    let row = |row: &Row| {
        let provider = match (row.by, row.provider) {
            (By::Recharge | By::Refund | By::Either, _) => "–",
            (_, Provider::No) => "has not seen it",
            (_, Provider::Yes) => "has seen it",
            (_, Provider::Maybe) => "may have seen it",
        };
        let client = match row.client {
            Client::Nothing => "nothing",
            Client::NoEnd => "no end",
            Client::MaybeEnd => "all, or no end",
            Client::NoAnswer => {
                "no answer; who asks again with the same key is answered, and it is done once"
            }
        };
        let state = |state: &State| match state {
            State::Absent => "stands nowhere, does not count",
            State::Void => "not charged, counts",
            State::Estimate => "charged by its last progress, counts",
            State::Usage => "charged by its usage, counts",
        };
        let ledger = match row.ledger {
            Ledger::Call(states) => states.iter().map(state).collect::<Vec<_>>().join("; or "),
            Ledger::Payment(true) => "is there, once".to_owned(),
            Ledger::Payment(false) => "is not there".to_owned(),
            Ledger::Orphans => {
                let each = [State::Void, State::Estimate].iter().map(state).collect::<Vec<_>>();
                format!("each open call once: {}", each.join("; or "))
            }
        };
        format!("| `{}` | {} | {provider} | {client} | {ledger} |\n", row.point, row.when)
    };
    ROWS.iter().map(row).collect()
}

#[test]
fn the_page_of_crashes_is_the_table_that_is_proven() {
    let page = format!("{BEFORE}{}", page());
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/crashes.md");
    if std::fs::read_to_string(kept).unwrap_or_default() != page {
        std::fs::write(kept, &page).expect("docs is writable");
        panic!("docs/crashes.md was out of date and is written anew: look at it, commit it");
    }
}

#[test]
fn an_unknown_point_is_refused_and_told_all_there_are_and_each_has_its_row() {
    let output = binary().arg("demo").env("METEOR_CRASH", "nowhere:1").output().expect("it starts");
    assert!(!output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).expect("text");
    let (_, listed) = told.trim().split_once("the points are ").expect("a list of points");
    let rows: Vec<&str> = ROWS.iter().map(|row| row.point).collect();
    assert_eq!(listed.split(", ").collect::<Vec<_>>(), rows);
}
