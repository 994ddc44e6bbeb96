//! Crash points: the gateway aborts at each, and after the next start its state matches the row of
//! `crash_table`.

use std::time::Duration;

use crate::crash_table::{CRASH_CASES, ClientSees, CrashCase, LedgerState, Trigger, UpstreamSees};
use crate::harness::deployment::{
    Deployment, LimitedBy, Payment, recharge, refund, send_payment, single_call,
};
use crate::harness::random_callers::{CallPlan, CallerState, ClientView, Random, make_call};
use crate::harness::reconcile::{CallState, Reconciliation};
use crate::kill_9::{LoadRun, env_number};

/// What was in flight when the gateway died.
enum InFlight {
    Call(ClientView),
    Payment(Payment),
    Load,
}

/// Sends a single call or payment past the crash point.
async fn run_single(deployment: &mut Deployment, by: Trigger) -> InFlight {
    let tenant = deployment.limited_tenants[0].tenant.clone();
    let victim = match by {
        Trigger::Call(plan) => {
            let view = make_call(
                single_call(deployment.next_marker(), plan),
                &tenant,
                &CallerState::default(),
            )
            .await;
            deployment.client_views.push(view.clone());
            InFlight::Call(view)
        }
        Trigger::Recharge | Trigger::Refund | Trigger::AnyPayment => {
            let number = deployment.payments.len();
            let ended = deployment.client_views.iter().find(|view| view.ended);
            let mut payment = match ended {
                Some(view) if by == Trigger::Refund => refund(number, view),
                _ => recharge(number, 0, 7),
            };
            payment.status = send_payment(&tenant, &payment).await;
            deployment.payments.push(payment.clone());
            InFlight::Payment(payment)
        }
        Trigger::ManyCalls | Trigger::Start => InFlight::Load,
    };
    deployment.wait_for_crash().await;
    victim
}

/// Asserts that the outcome matches the row.
fn compare_with_row(
    row: &CrashCase,
    victim: &InFlight,
    accounts: &Reconciliation<'_>,
    counted: u64,
) {
    let point = row.point;
    match (victim, row.ledger) {
        (InFlight::Call(view), LedgerState::Call(states)) => {
            let marker = view.call.marker;
            let state = accounts.state(marker);
            assert!(
                states.contains(&state),
                "{point}: {state:?} is not one of {states:?}: {view:?}"
            );
            assert_eq!(counted, u64::from(state != CallState::Absent), "{point}: counted {view:?}");
            let reached = accounts.was_forwarded(marker);
            let forwarded = if reached { UpstreamSees::Reached } else { UpstreamSees::NotReached };
            let matches = row.upstream == UpstreamSees::MaybeReached || row.upstream == forwarded;
            assert!(matches, "{point}: {reached} is not {:?}", row.upstream);
            match row.client {
                ClientSees::Nothing => assert!(view.head.is_none(), "{point}: {view:?}"),
                ClientSees::NoEnd => assert!(!view.ended, "{point}: {view:?}"),
                ClientSees::MaybeEnd | ClientSees::NoResponse => {}
            }
        }
        (InFlight::Payment(payment), LedgerState::Payment(done)) => {
            assert_eq!(payment.status, None, "{point}: {payment:?}");
            let lines = accounts.records_named(&payment.name);
            assert_eq!(lines.len(), usize::from(done), "{point}: {payment:?} {lines:?}");
        }
        (InFlight::Load, _) => {}
        _ => panic!("{point}: the row does not describe this"),
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

/// 24 callers of three tenants with these plans; every fourth uses long model names.
fn callers(plans: &'static [CallPlan]) -> Vec<(usize, &'static [CallPlan])> {
    let caller = |index: usize| {
        (index % 3, if index.is_multiple_of(4) { &[CallPlan::LongModelName] } else { plans })
    };
    (0..24).map(caller).collect()
}

const TENANTS: [LimitedBy; 5] = [
    LimitedBy::Nothing,
    LimitedBy::Requests,
    LimitedBy::Nothing,
    LimitedBy::Tokens,
    LimitedBy::Wallet,
];

/// Kills the gateway while long streams are open, which the next start has to settle.
async fn leave_streams_open(deployment: &mut Deployment, seed: u64) {
    const LONG: &[CallPlan] = &[CallPlan::LongStream];
    let load = LoadRun::start(deployment, &[(0, LONG); 24], seed).await;
    load.wait_for_open(deployment, 22).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    load.wait_for_open(deployment, 22).await;
    deployment.kill();
    load.finish(deployment).await;
}

/// Starts a deployment with one completed call.
async fn start_deployment() -> Deployment {
    let mut deployment = Deployment::new(&TENANTS).await;
    let first = make_call(
        single_call(0, CallPlan::Whole),
        &deployment.limited_tenants[0].tenant,
        &CallerState::default(),
    )
    .await;
    assert!(first.ended, "{first:?}");
    deployment.client_views.push(first);
    deployment
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_each_point_recovers_as_its_row_states() {
    let mut deployment = start_deployment().await;
    // Rows with many calls come last, because each reconciliation covers all calls so far.
    let (many, few): (Vec<_>, Vec<_>) =
        CRASH_CASES.iter().partition(|row| row.trigger == Trigger::ManyCalls);
    for row in few.into_iter().chain(many) {
        let armed = format!("{}:1", row.point);
        if row.trigger == Trigger::Start {
            let first = deployment.next_marker();
            leave_streams_open(&mut deployment, 1).await;
            deployment.start_and_crash(&armed).await;
            deployment.start(None).await;
            let accounts = Reconciliation::load(&deployment).await;
            accounts.reconcile().await;
            check_orphans(row, &accounts, first);
            continue;
        }
        let times = if row.trigger == Trigger::AnyPayment { 2 } else { 1 };
        for time in 0..times {
            deployment.kill();
            deployment.start(Some(&armed)).await;
            let before = Reconciliation::load(&deployment).await.usage(0).requests;
            let first = deployment.next_marker();
            let victim = match row.trigger {
                Trigger::ManyCalls => run_under_load(&mut deployment, 1).await,
                Trigger::AnyPayment if time == 1 => {
                    run_single(&mut deployment, Trigger::Refund).await
                }
                by => run_single(&mut deployment, by).await,
            };
            deployment.start(None).await;
            let accounts = Reconciliation::load(&deployment).await;
            accounts.reconcile().await;
            compare_with_row(row, &victim, &accounts, accounts.usage(0).requests - before);
            check_any_matches(row, &deployment, &accounts, first);
            deployment.retry_payments().await;
            Reconciliation::load(&deployment).await.reconcile().await;
        }
    }
    deployment.kill();
}

/// Asserts that every open call from `first` on was voided or charged by its last checkpoint.
fn check_orphans(row: &CrashCase, accounts: &Reconciliation<'_>, first: u32) {
    let orphans = accounts.ledger.logs.iter().filter(|log| log.is_orphan() && first <= log.marker);
    let states: Vec<CallState> = orphans.map(|orphan| accounts.state(orphan.marker)).collect();
    assert!(20 <= states.len(), "{}: {} orphans", row.point, states.len());
    let is_settled = |state: &CallState| [CallState::Void, CallState::Estimate].contains(state);
    assert!(states.iter().all(is_settled), "{}: {states:?}", row.point);
}

/// Asserts that at least one incomplete call from `first` on is in a state of the row.
fn check_any_matches(
    row: &CrashCase,
    deployment: &Deployment,
    accounts: &Reconciliation<'_>,
    first: u32,
) {
    let LedgerState::Call(states) = row.ledger else { return };
    let mut incomplete =
        deployment.client_views.iter().filter(|view| first <= view.call.marker && !view.ended);
    let found = incomplete.any(|view| states.contains(&accounts.state(view.call.marker)));
    // If calls may have completed, possibly none is left.
    assert!(found || states.contains(&CallState::Usage), "{}: no call is {states:?}", row.point);
}

/// Runs callers and payments until the gateway dies at the crash point.
async fn run_under_load(deployment: &mut Deployment, seed: u64) -> InFlight {
    let load = LoadRun::start(deployment, &callers(MIXED), seed).await;
    deployment.wait_for_crash().await;
    load.finish(deployment).await;
    InFlight::Load
}

/// `METEOR_POINTS` sets how many passings of each point are tested under load.
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
    let mut random = Random::new(passings);
    let mut deployment = None;
    for passing in 1..=passings {
        let deployment = match &mut deployment {
            Some(deployment) => deployment,
            empty => empty.insert(self::start_deployment().await),
        };
        let armed = format!("{}:{}", row.point, passing.min(row.passings_max));
        println!("{armed}");
        let first = deployment.next_marker();
        if row.trigger == Trigger::Start {
            leave_streams_open(deployment, random.below(u64::MAX)).await;
            deployment.start_and_crash(&armed).await;
        } else {
            deployment.kill();
            deployment.start(Some(&armed)).await;
            run_under_load(deployment, random.below(u64::MAX)).await;
        }
        deployment.start(None).await;
        let accounts = Reconciliation::load(deployment).await;
        accounts.reconcile().await;
        if row.trigger == Trigger::Start {
            check_orphans(row, &accounts, first);
        }
        check_any_matches(row, deployment, &accounts, first);
        deployment.retry_payments().await;
    }
}
