//! The crash table: for each crash point, what was observed and what the ledger contains after a
//! restart. The documentation page is generated from it, and `crash_points` proves each row.

use crate::harness::process::meteor_command;
use crate::harness::random_callers::CallPlan;
use crate::harness::reconcile::CallState;

/// What makes a gateway reach the crash point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    Call(CallPlan),
    /// Many calls.
    ManyCalls,
    Recharge,
    Refund,
    /// A recharge and a refund, in separate runs.
    AnyPayment,
    /// A restart that finds open calls.
    Start,
}

/// What the client has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientSees {
    Nothing,
    NoEnd,
    MaybeEnd,
    /// No response of the admin API.
    NoResponse,
}

/// What the ledger contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerState {
    Call(&'static [CallState]),
    /// True if the payment is recorded.
    Payment(bool),
    /// Every open call is settled.
    Orphans,
}

/// Whether the call reached the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamSees {
    NotReached,
    Reached,
    MaybeReached,
}

pub struct CrashCase {
    pub point: &'static str,
    /// The state in which the process dies.
    pub when: &'static str,
    pub trigger: Trigger,
    pub upstream: UpstreamSees,
    pub client: ClientSees,
    pub ledger: LedgerState,
    /// The highest passing that one run under load can reach.
    pub passings_max: u64,
}

const UNLIMITED: u64 = u64::MAX;

const fn call_case(
    point: &'static str,
    when: &'static str,
    plan: CallPlan,
    expected: Expected,
) -> CrashCase {
    let (provider, client, states) = expected;
    let ledger = LedgerState::Call(states);
    CrashCase {
        point,
        when,
        trigger: Trigger::Call(plan),
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
    call_case("hold-appended", "the hold is in memory and not written", CallPlan::Stream, ABSENT),
    call_case("hold-written", "the hold is written and nothing is sent", CallPlan::Stream, UNSENT),
    call_case(
        "forwarding",
        "the call counts as forwarded and nothing is sent",
        CallPlan::Stream,
        UNSENT,
    ),
    call_case("request-sent", "the request is in the socket buffer", CallPlan::Stream, UNANSWERED),
    call_case("answered", "the response head has arrived", CallPlan::Stream, UNANSWERED),
    call_case(
        "piece-taken",
        "the first piece of the response has arrived",
        CallPlan::Stream,
        BEGUN,
    ),
    call_case("usage-seen", "the usage has been read, the end has not", CallPlan::Stream, BEGUN),
    call_case(
        "progress-appended",
        "the first progress entry is in memory",
        CallPlan::LongStream,
        BEGUN,
    ),
    call_case(
        "progress-written",
        "the first piece after a progress entry has arrived",
        CallPlan::LongStream,
        CHECKPOINTED,
    ),
    call_case(
        "void-appended",
        "the end of a free call is in memory",
        CallPlan::UpstreamError,
        UNANSWERED,
    ),
    call_case("settle-appended", "the debit is in memory and not written", CallPlan::Stream, BEGUN),
    call_case(
        "buffer-written",
        "a hold is written and its waiter not woken",
        CallPlan::Stream,
        UNSENT,
    ),
    CrashCase {
        point: "segment-rolled",
        when: "the next segment is created and empty",
        trigger: Trigger::ManyCalls,
        upstream: UpstreamSees::MaybeReached,
        client: ClientSees::NoEnd,
        ledger: LedgerState::Call(&[CallState::Absent, CallState::Void]),
        passings_max: 2,
    },
    call_case(
        "settle-written",
        "the debit is written and the end of the stream held back",
        CallPlan::Stream,
        END_HELD_BACK,
    ),
    call_case("end-given", "the end is on its way to the client", CallPlan::Stream, ENDED),
    call_case("batch-uncommitted", "a batch is in an open transaction", CallPlan::Whole, BATCHED),
    call_case(
        "batch-committed",
        "the batch is committed and its readers not notified",
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
        "a payment is committed and not in the live state",
        Trigger::AnyPayment,
        true,
    ),
    CrashCase {
        point: "recovery-projected",
        when: "a restart has projected the journal and settled no open call",
        trigger: Trigger::Start,
        upstream: UpstreamSees::Reached,
        client: ClientSees::NoEnd,
        ledger: LedgerState::Orphans,
        passings_max: 1,
    },
    CrashCase {
        point: "recovery-orphan",
        when: "a restart has settled one open call and not the next",
        trigger: Trigger::Start,
        upstream: UpstreamSees::Reached,
        client: ClientSees::NoEnd,
        ledger: LedgerState::Orphans,
        passings_max: UNLIMITED,
    },
];

const PAGE_HEAD: &str = "# Crash safety

What the ledger contains after the process dies at a critical point. A test generates this page from \
the table that it proves: it kills the gateway at each point, restarts it on the same folder and \
checks the result.

A debug build dies at the n-th passing of a point with `METEOR_CRASH=<point>:<n>`, as by `kill -9`; \
a release build has no crash points and refuses the variable. *Counts* means: counts against request \
limits. Tokens and money that are not charged are returned. `just points` tests many passings of each \
point under load, and `just kills` kills at random times.

| point | the process dies when | the upstream | the client has seen | after the restart |
|---|---|---|---|---|
";

fn table_rows() -> String {
    let row = |row: &CrashCase| {
        let provider = match (row.trigger, row.upstream) {
            (Trigger::Recharge | Trigger::Refund | Trigger::AnyPayment, _) => "–",
            (_, UpstreamSees::NotReached) => "has not received the call",
            (_, UpstreamSees::Reached) => "has received the call",
            (_, UpstreamSees::MaybeReached) => "may have received the call",
        };
        let client = match row.client {
            ClientSees::Nothing => "nothing",
            ClientSees::NoEnd => "no end",
            ClientSees::MaybeEnd => "everything, or no end",
            ClientSees::NoResponse => {
                "no response; a retry with the same idempotency key applies the payment one time"
            }
        };
        let describe = |describe: &CallState| match describe {
            CallState::Absent => "not recorded, does not count",
            CallState::Void => "not charged, counts",
            CallState::Estimate => "charged by its last progress entry, counts",
            CallState::Usage => "charged by its usage, counts",
        };
        let ledger = match row.ledger {
            LedgerState::Call(states) => {
                states.iter().map(describe).collect::<Vec<_>>().join("; or ")
            }
            LedgerState::Payment(true) => "the payment is recorded one time".to_owned(),
            LedgerState::Payment(false) => "the payment is not recorded".to_owned(),
            LedgerState::Orphans => {
                let each =
                    [CallState::Void, CallState::Estimate].iter().map(describe).collect::<Vec<_>>();
                format!("each open call, one time: {}", each.join("; or "))
            }
        };
        format!("| `{}` | {} | {provider} | {client} | {ledger} |\n", row.point, row.when)
    };
    CRASH_CASES.iter().map(row).collect()
}

#[test]
fn the_crash_page_matches_the_table() {
    let page = format!("{PAGE_HEAD}{}", table_rows());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/crash-safety.md");
    if std::fs::read_to_string(file).unwrap_or_default() != page {
        std::fs::write(file, &page).expect("docs is writable");
        panic!("docs/crash-safety.md was out of date and has been rewritten: review and commit it");
    }
}

#[test]
fn unknown_crash_points_are_refused_with_the_full_list() {
    let output = meteor_command()
        .arg("demo")
        .env("METEOR_CRASH", "nowhere:1")
        .output()
        .expect("the binary starts");
    assert!(!output.status.success(), "{output:?}");
    let expected = String::from_utf8(output.stderr).expect("text");
    let (_, listed) = expected.trim().split_once("valid points: ").expect("a list of points");
    let rows: Vec<&str> = CRASH_CASES.iter().map(|row| row.point).collect();
    assert_eq!(listed.split(", ").collect::<Vec<_>>(), rows);
}
