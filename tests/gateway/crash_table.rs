//! The table of crashes: for each point what has been seen, and what stands in the ledger after the
//! next start. `docs/crash-safety.md` is written from it, and `points` proves each row.

use crate::harness::process::meteor_command;
use crate::harness::random_callers::CallPlan;
use crate::harness::reconcile::CallState;

/// What makes a gateway pass the point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    Call(CallPlan),
    /// Many calls.
    ManyCalls,
    Recharge,
    Refund,
    /// Both, in lives of their own.
    AnyPayment,
    /// A start that finds calls open.
    Start,
}

/// What its client has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientSees {
    Nothing,
    NoEnd,
    MaybeEnd,
    /// Of the admin API: no answer.
    NoResponse,
}

/// What stands in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerState {
    Call(&'static [CallState]),
    /// Whether the payment does.
    Payment(bool),
    /// Every call that was open has ended.
    Orphans,
}

/// Whether the provider has seen the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamSees {
    NotReached,
    Reached,
    MaybeReached,
}

pub struct CrashCase {
    pub point: &'static str,
    /// When the process dies there.
    pub when: &'static str,
    pub trigger: Trigger,
    pub upstream: UpstreamSees,
    pub client: ClientSees,
    pub ledger: LedgerState,
    /// The most passings that a life under load can be asked for.
    pub passings_max: u64,
}

const UNLIMITED: u64 = u64::MAX;

const fn call_case(
    point: &'static str,
    when: &'static str,
    way: CallPlan,
    told: Expected,
) -> CrashCase {
    let (provider, client, states) = told;
    let ledger = LedgerState::Call(states);
    CrashCase {
        point,
        when,
        trigger: Trigger::Call(way),
        upstream: provider,
        client,
        ledger,
        passings_max: UNLIMITED,
    }
}

const fn payment_case(
    point: &'static str,
    when: &'static str,
    by: Trigger,
    done: bool,
) -> CrashCase {
    let ledger = LedgerState::Payment(done);
    CrashCase {
        point,
        when,
        trigger: by,
        upstream: UpstreamSees::NotReached,
        client: ClientSees::NoResponse,
        ledger,
        passings_max: UNLIMITED,
    }
}

type Expected = (UpstreamSees, ClientSees, &'static [CallState]);

const ABSENT: Expected = (UpstreamSees::NotReached, ClientSees::Nothing, &[CallState::Absent]);
const UNSENT: Expected = (UpstreamSees::NotReached, ClientSees::Nothing, &[CallState::Void]);
const UNANSWERED: Expected = (UpstreamSees::Reached, ClientSees::Nothing, &[CallState::Void]);
const BEGUN: Expected = (UpstreamSees::Reached, ClientSees::NoEnd, &[CallState::Void]);
const CHECKPOINTED: Expected = (UpstreamSees::Reached, ClientSees::NoEnd, &[CallState::Estimate]);
const END_HELD_BACK: Expected = (UpstreamSees::Reached, ClientSees::NoEnd, &[CallState::Usage]);
const ENDED: Expected = (UpstreamSees::Reached, ClientSees::MaybeEnd, &[CallState::Usage]);
const BATCHED: Expected =
    (UpstreamSees::Reached, ClientSees::MaybeEnd, &[CallState::Void, CallState::Usage]);

pub const CRASH_CASES: [CrashCase; 22] = [
    call_case("hold-appended", "the hold is in memory, and not written", CallPlan::Stream, ABSENT),
    call_case("hold-written", "the hold is written, and nothing sent", CallPlan::Stream, UNSENT),
    call_case(
        "forwarding",
        "the call counts as forwarded, and nothing is sent",
        CallPlan::Stream,
        UNSENT,
    ),
    call_case("request-sent", "the request is with the system", CallPlan::Stream, UNANSWERED),
    call_case("answered", "the head of the answer is here", CallPlan::Stream, UNANSWERED),
    call_case("piece-taken", "the first piece of the answer is here", CallPlan::Stream, BEGUN),
    call_case("usage-seen", "the usage was read, and the end not yet", CallPlan::Stream, BEGUN),
    call_case("progress-appended", "the first progress is in memory", CallPlan::LongStream, BEGUN),
    call_case(
        "progress-written",
        "the first piece after a progress is here",
        CallPlan::LongStream,
        CHECKPOINTED,
    ),
    call_case(
        "void-appended",
        "the end of a free call is in memory",
        CallPlan::UpstreamError,
        UNANSWERED,
    ),
    call_case(
        "settle-appended",
        "the debit is in memory, and not written",
        CallPlan::Stream,
        BEGUN,
    ),
    call_case(
        "buffer-written",
        "a hold is written, and nobody told of it",
        CallPlan::Stream,
        UNSENT,
    ),
    CrashCase {
        point: "segment-rolled",
        when: "the next segment is begun, and empty",
        trigger: Trigger::ManyCalls,
        upstream: UpstreamSees::MaybeReached,
        client: ClientSees::NoEnd,
        ledger: LedgerState::Call(&[CallState::Absent, CallState::Void]),
        passings_max: 2,
    },
    call_case(
        "settle-written",
        "the debit is written, the end held back",
        CallPlan::Stream,
        END_HELD_BACK,
    ),
    call_case("end-given", "the end is on its way to the client", CallPlan::Stream, ENDED),
    call_case("batch-uncommitted", "a batch is in an open transaction", CallPlan::Whole, BATCHED),
    call_case(
        "batch-committed",
        "it is committed, and nobody told of it",
        CallPlan::Whole,
        BATCHED,
    ),
    payment_case(
        "recharge-posted",
        "a recharge is in an open transaction",
        Trigger::Recharge,
        false,
    ),
    payment_case("refund-posted", "a refund is in an open transaction", Trigger::Refund, false),
    payment_case(
        "money-committed",
        "either is committed, and not in the books",
        Trigger::AnyPayment,
        true,
    ),
    CrashCase {
        point: "recovery-projected",
        when: "a start has projected the journal, and ended no open call",
        trigger: Trigger::Start,
        upstream: UpstreamSees::Reached,
        client: ClientSees::NoEnd,
        ledger: LedgerState::Orphans,
        passings_max: 1,
    },
    CrashCase {
        point: "recovery-orphan",
        when: "a start has ended one of the open calls, and not the next",
        trigger: Trigger::Start,
        upstream: UpstreamSees::Reached,
        client: ClientSees::NoEnd,
        ledger: LedgerState::Orphans,
        passings_max: UNLIMITED,
    },
];

const PAGE_HEAD: &str = "# Crashes

What is so when the process dies at the worst moments. Written by a test from the table that it \
proves: it has the gateway die at each, starts it again on the same folder, and looks.

A debug build dies at the n-th passing of a point with `METEOR_CRASH=<point>:<n>`, as by `kill -9`; \
a release build has no points and refuses the variable. *Counts* is: against the limits on requests. \
What is not charged gives its tokens and its money back. `just points` tries many passings of each \
under load, and `just kills` kills at random.

| point | the process dies when | the provider | the client has seen | after the next start |
|---|---|---|---|---|
";

fn table_rows() -> String {
    let row = |row: &CrashCase| {
        let provider = match (row.trigger, row.upstream) {
            (Trigger::Recharge | Trigger::Refund | Trigger::AnyPayment, _) => "–",
            (_, UpstreamSees::NotReached) => "has not seen it",
            (_, UpstreamSees::Reached) => "has seen it",
            (_, UpstreamSees::MaybeReached) => "may have seen it",
        };
        let client = match row.client {
            ClientSees::Nothing => "nothing",
            ClientSees::NoEnd => "no end",
            ClientSees::MaybeEnd => "all, or no end",
            ClientSees::NoResponse => {
                "no answer; who asks again with the same key is answered, and it is done once"
            }
        };
        let state = |state: &CallState| match state {
            CallState::Absent => "stands nowhere, does not count",
            CallState::Void => "not charged, counts",
            CallState::Estimate => "charged by its last progress, counts",
            CallState::Usage => "charged by its usage, counts",
        };
        let ledger = match row.ledger {
            LedgerState::Call(states) => states.iter().map(state).collect::<Vec<_>>().join("; or "),
            LedgerState::Payment(true) => "is there, once".to_owned(),
            LedgerState::Payment(false) => "is not there".to_owned(),
            LedgerState::Orphans => {
                let each =
                    [CallState::Void, CallState::Estimate].iter().map(state).collect::<Vec<_>>();
                format!("each open call once: {}", each.join("; or "))
            }
        };
        format!("| `{}` | {} | {provider} | {client} | {ledger} |\n", row.point, row.when)
    };
    CRASH_CASES.iter().map(row).collect()
}

#[test]
fn the_crash_page_matches_the_table() {
    let page = format!("{PAGE_HEAD}{}", table_rows());
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/crash-safety.md");
    if std::fs::read_to_string(kept).unwrap_or_default() != page {
        std::fs::write(kept, &page).expect("docs is writable");
        panic!("docs/crash-safety.md was out of date and is written anew: look at it, commit it");
    }
}

#[test]
fn unknown_crash_points_are_refused_with_the_full_list() {
    let output =
        meteor_command().arg("demo").env("METEOR_CRASH", "nowhere:1").output().expect("it starts");
    assert!(!output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).expect("text");
    let (_, listed) = told.trim().split_once("the points are ").expect("a list of points");
    let rows: Vec<&str> = CRASH_CASES.iter().map(|row| row.point).collect();
    assert_eq!(listed.split(", ").collect::<Vec<_>>(), rows);
}
