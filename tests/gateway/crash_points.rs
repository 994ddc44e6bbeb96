//! The crash points: at each the gateway dies by its own hand, and what the table of crashes says of
//! it is so after the next start.

use std::time::Duration;

use crate::crash_table::{CRASH_CASES, ClientSees, CrashCase, LedgerState, Trigger, UpstreamSees};
use crate::harness::deployment::{
    Deployment, LimitedBy, Payment, recharge, refund, send_payment, single_call,
};
use crate::harness::random_callers::{CallPlan, CallerState, ClientView, Random, make_call};
use crate::harness::reconcile::{CallState, Reconciliation};
use crate::kill_9::{LoadRun, env_number};

/// What was under way when the gateway died.
enum InFlight {
    Call(ClientView),
    Payment(Payment),
    Load,
}

/// Has one call or payment, alone, pass the point.
async fn run_single(site: &mut Deployment, by: Trigger) -> InFlight {
    let tenant = site.limited_tenants[0].tenant.clone();
    let victim = match by {
        Trigger::Call(way) => {
            let heard =
                make_call(single_call(site.next_marker(), way), &tenant, &CallerState::default())
                    .await;
            site.client_views.push(heard.clone());
            InFlight::Call(heard)
        }
        Trigger::Recharge | Trigger::Refund | Trigger::AnyPayment => {
            let number = site.payments.len();
            let ended = site.client_views.iter().find(|heard| heard.ended);
            let mut paid = match ended {
                Some(heard) if by == Trigger::Refund => refund(number, heard),
                _ => recharge(number, 0, 7),
            };
            paid.status = send_payment(&tenant, &paid).await;
            site.payments.push(paid.clone());
            InFlight::Payment(paid)
        }
        Trigger::ManyCalls | Trigger::Start => InFlight::Load,
    };
    site.wait_for_crash().await;
    victim
}

/// Compares what became of it with the row.
fn compare_with_row(
    row: &CrashCase,
    victim: &InFlight,
    accounts: &Reconciliation<'_>,
    counted: u64,
) {
    let point = row.point;
    match (victim, row.ledger) {
        (InFlight::Call(heard), LedgerState::Call(states)) => {
            let marker = heard.call.marker;
            let state = accounts.state(marker);
            assert!(states.contains(&state), "{point}: {state:?} is none of {states:?}: {heard:?}");
            assert_eq!(
                counted,
                u64::from(state != CallState::Absent),
                "{point}: counted {heard:?}"
            );
            let reached = accounts.was_forwarded(marker);
            let told = if reached { UpstreamSees::Reached } else { UpstreamSees::NotReached };
            let as_told = row.upstream == UpstreamSees::MaybeReached || row.upstream == told;
            assert!(as_told, "{point}: {reached} is not {:?}", row.upstream);
            match row.client {
                ClientSees::Nothing => assert!(heard.head.is_none(), "{point}: {heard:?}"),
                ClientSees::NoEnd => assert!(!heard.ended, "{point}: {heard:?}"),
                ClientSees::MaybeEnd | ClientSees::NoResponse => {}
            }
        }
        (InFlight::Payment(paid), LedgerState::Payment(done)) => {
            assert_eq!(paid.status, None, "{point}: {paid:?}");
            let lines = accounts.records_named(&paid.name);
            assert_eq!(lines.len(), usize::from(done), "{point}: {paid:?} {lines:?}");
        }
        (InFlight::Load, _) => {}
        _ => panic!("{point}: a row of something else"),
    }
}

const MIXED: &[CallPlan] = &[
    CallPlan::Whole,
    CallPlan::Stream,
    CallPlan::Stream,
    CallPlan::LongStream,
    CallPlan::Disconnect,
    CallPlan::UpstreamError,
    CallPlan::LongModelName,
];

/// 24 callers of three tenants, who do as `ways` says; every fourth makes bulky calls.
fn callers(ways: &'static [CallPlan]) -> Vec<(usize, &'static [CallPlan])> {
    let caller =
        |at: usize| (at % 3, if at.is_multiple_of(4) { &[CallPlan::LongModelName] } else { ways });
    (0..24).map(caller).collect()
}

const TENANTS: [LimitedBy; 5] = [
    LimitedBy::Nothing,
    LimitedBy::Requests,
    LimitedBy::Nothing,
    LimitedBy::Tokens,
    LimitedBy::Wallet,
];

/// Leaves long streams open that the next start has to end.
async fn leave_streams_open(site: &mut Deployment, seed: u64) {
    const LONG: &[CallPlan] = &[CallPlan::LongStream];
    let life = LoadRun::start(site, &[(0, LONG); 24], seed).await;
    life.wait_for_open(site, 22).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    life.wait_for_open(site, 22).await;
    site.kill();
    life.finish(site).await;
}

/// A site of which a call is known that came to its end.
async fn start_deployment() -> Deployment {
    let mut site = Deployment::new(&TENANTS).await;
    let first = make_call(
        single_call(0, CallPlan::Whole),
        &site.limited_tenants[0].tenant,
        &CallerState::default(),
    )
    .await;
    assert!(first.ended, "{first:?}");
    site.client_views.push(first);
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_each_point_recovers_as_its_row_states() {
    let mut site = start_deployment().await;
    // Those with many calls come last: all that came before is looked at again each time.
    let (many, few): (Vec<_>, Vec<_>) =
        CRASH_CASES.iter().partition(|row| row.trigger == Trigger::ManyCalls);
    for row in few.into_iter().chain(many) {
        let armed = format!("{}:1", row.point);
        if row.trigger == Trigger::Start {
            let first = site.next_marker();
            leave_streams_open(&mut site, 1).await;
            site.start_and_crash(&armed).await;
            site.start(None).await;
            let accounts = Reconciliation::load(&site).await;
            accounts.reconcile().await;
            check_orphans(row, &accounts, first);
            continue;
        }
        let times = if row.trigger == Trigger::AnyPayment { 2 } else { 1 };
        for time in 0..times {
            site.kill();
            site.start(Some(&armed)).await;
            let before = Reconciliation::load(&site).await.usage(0).requests;
            let first = site.next_marker();
            let victim = match row.trigger {
                Trigger::ManyCalls => run_under_load(&mut site, 1).await,
                Trigger::AnyPayment if time == 1 => run_single(&mut site, Trigger::Refund).await,
                by => run_single(&mut site, by).await,
            };
            site.start(None).await;
            let accounts = Reconciliation::load(&site).await;
            accounts.reconcile().await;
            compare_with_row(row, &victim, &accounts, accounts.usage(0).requests - before);
            check_any_matches(row, &site, &accounts, first);
            site.retry_payments().await;
            Reconciliation::load(&site).await.reconcile().await;
        }
    }
    site.kill();
}

/// Every call from `first` on that a death left open has ended: for nothing, or by its progress.
fn check_orphans(row: &CrashCase, accounts: &Reconciliation<'_>, first: u32) {
    let orphans = accounts.ledger.logs.iter().filter(|log| log.is_orphan() && first <= log.marker);
    let states: Vec<CallState> = orphans.map(|orphan| accounts.state(orphan.marker)).collect();
    assert!(20 <= states.len(), "{}: {} orphans", row.point, states.len());
    let is_told = |state: &CallState| [CallState::Void, CallState::Estimate].contains(state);
    assert!(states.iter().all(is_told), "{}: {states:?}", row.point);
}

/// Of the calls from `first` on that did not end, somebody is as the row says.
fn check_any_matches(
    row: &CrashCase,
    site: &Deployment,
    accounts: &Reconciliation<'_>,
    first: u32,
) {
    let LedgerState::Call(states) = row.ledger else { return };
    let mut own =
        site.client_views.iter().filter(|heard| first <= heard.call.marker && !heard.ended);
    let found = own.any(|heard| states.contains(&accounts.state(heard.call.marker)));
    // Where it may have ended, nobody need be left.
    assert!(found || states.contains(&CallState::Usage), "{}: nobody is {states:?}", row.point);
}

/// Has a crowd, and somebody who pays, pass the point until the gateway dies there.
async fn run_under_load(site: &mut Deployment, seed: u64) -> InFlight {
    let life = LoadRun::start(site, &callers(MIXED), seed).await;
    site.wait_for_crash().await;
    life.finish(site).await;
    InFlight::Load
}

/// `METEOR_POINTS` says how many different passings of each point are tried under load.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_under_load_at_every_point_keep_the_ledger_exact() {
    let passings = env_number("METEOR_POINTS").unwrap_or(0);
    let lane = async |lane: usize| {
        for row in CRASH_CASES.iter().skip(lane).step_by(2) {
            check_under_load(row, passings).await;
        }
    };
    tokio::join!(lane(0), lane(1));
}

async fn check_under_load(row: &CrashCase, passings: u64) {
    let mut dice = Random::new(passings);
    let mut site = None;
    for passing in 1..=passings {
        let site = match &mut site {
            Some(site) => site,
            none => none.insert(self::start_deployment().await),
        };
        let armed = format!("{}:{}", row.point, passing.min(row.passings_max));
        println!("{armed}");
        let first = site.next_marker();
        if row.trigger == Trigger::Start {
            leave_streams_open(site, dice.below(u64::MAX)).await;
            site.start_and_crash(&armed).await;
        } else {
            site.kill();
            site.start(Some(&armed)).await;
            run_under_load(site, dice.below(u64::MAX)).await;
        }
        site.start(None).await;
        let accounts = Reconciliation::load(site).await;
        accounts.reconcile().await;
        if row.trigger == Trigger::Start {
            check_orphans(row, &accounts, first);
        }
        check_any_matches(row, site, &accounts, first);
        site.retry_payments().await;
    }
}
