//! Kills the gateway with SIGKILL at random moments under 200 callers; the ledger stays exact.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::harness::deployment::{
    Deployment, LimitedBy, Payment, recharge, refund, send_payment, single_call,
};
use crate::harness::random_callers::{
    CallPlan, CallerState, ClientView, Dialect, PlannedCall, Random, RandomCallers, make_call,
};
use crate::harness::reconcile::Reconciliation;
use crate::harness::tenant::Tenant;
use crate::harness::wait::eventually;

const CALLERS: usize = 200;
/// Minimum of responses open at the kill, as counted by the provider and by the clients.
const OPEN_RESPONSES: usize = 50;
/// Kills per data folder. A fresh folder follows, so that reconciliation stays cheap.
const KILLS_PER_FOLDER: u64 = 25;
const TENANTS: [LimitedBy; 5] = [
    LimitedBy::Nothing,
    LimitedBy::Requests,
    LimitedBy::Tokens,
    LimitedBy::Spend,
    LimitedBy::Wallet,
];

const UNLIMITED: &[CallPlan] = &[
    CallPlan::Whole,
    CallPlan::Stream,
    CallPlan::LongStream,
    CallPlan::LongStream,
    CallPlan::LongStream,
    CallPlan::Disconnect,
];
const LIMITED: &[CallPlan] =
    &[CallPlan::Whole, CallPlan::Whole, CallPlan::Stream, CallPlan::Stream, CallPlan::LongStream];

pub fn env_number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// The tenant and the call plans of each caller: 120 without a limit, 80 with limited tenants.
fn caller_assignments() -> Vec<(usize, &'static [CallPlan])> {
    let limited = [(1, LIMITED), (2, LIMITED), (3, LIMITED), (4, LIMITED)];
    let free = [(0, UNLIMITED), (5, UNLIMITED)];
    let limited = limited.iter().cycle().take(CALLERS * 2 / 5);
    limited.chain(free.iter().cycle().take(CALLERS * 3 / 5)).copied().collect()
}

/// The time from each start of the process to its first response.
#[derive(Default)]
struct StartTimes(Vec<Duration>);

impl StartTimes {
    fn summary(&mut self) -> String {
        self.0.sort();
        let (max, median) = (self.0.last(), self.0.get(self.0.len() / 2));
        format!("{} starts, ready after {median:?} at the median and {max:?} at most", self.0.len())
    }
}

/// Sends recharges and refunds until the gateway is gone.
async fn make_payments(
    deployment: (Vec<Tenant>, usize),
    ended: Vec<ClientView>,
    tally: Arc<CallerState>,
) -> Vec<Payment> {
    let mut all = Vec::new();
    let (tenants, mut next_number) = deployment;
    let mut ended = ended.into_iter().cycle();
    while !tally.stop.load(Ordering::Relaxed) {
        let mut payment = match ended.next() {
            Some(view) if next_number % 2 == 0 => refund(next_number, &view),
            _ => recharge(next_number, 4, 100_000),
        };
        next_number += 1;
        payment.status = send_payment(&tenants[payment.tenant], &payment).await;
        let is_gone = payment.status.is_none();
        all.push(payment);
        if is_gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all
}

/// Callers and payments that run until the gateway dies.
pub struct LoadRun {
    callers: RandomCallers,
    payments: JoinHandle<Vec<Payment>>,
}

impl LoadRun {
    /// Raises all limits, so that every tenant has headroom, and starts the callers.
    pub async fn start(
        deployment: &mut Deployment,
        assignments: &[(usize, &'static [CallPlan])],
        seed: u64,
    ) -> Self {
        deployment.raise_limits().await;
        let ended =
            deployment.client_views.iter().rev().filter(|view| view.ended && view.call.tenant == 0);
        let ended = ended.take(20).cloned().collect();
        let crowd = RandomCallers::start(
            &deployment.tenants(),
            assignments,
            deployment.next_marker(),
            seed,
        );
        let (payers, tally) =
            ((deployment.tenants(), deployment.payments.len()), Arc::clone(&crowd.state));
        let paying = tokio::spawn(make_payments(payers, ended, tally));
        Self { callers: crowd, payments: paying }
    }

    /// Waits until `answers` responses are open at the provider and at the clients. Returns both
    /// counts.
    pub async fn wait_for_open(&self, deployment: &Deployment, count: usize) -> (usize, usize) {
        eventually("the answers are open", async || {
            let clients = self.callers.state.open_calls.load(Ordering::SeqCst);
            (count <= deployment.open_responses().min(clients))
                .then_some((deployment.open_responses(), clients))
        })
        .await
    }

    /// Adds the results of the callers and payments to `deployment` once the gateway is gone.
    pub async fn finish(self, deployment: &mut Deployment) {
        // Another process may get the gateway's port next; it must not be called.
        self.callers.state.stop.store(true, Ordering::Relaxed);
        deployment.client_views.extend(self.callers.join().await);
        deployment.payments.extend(self.payments.await.expect("the payments end"));
    }
}

/// Calls until the limit refuses. Kills must not have moved the limit.
async fn exhaust_limit(deployment: &mut Deployment, tenant_index: usize) {
    let tenant = deployment.limited_tenants[tenant_index].tenant.clone();
    let plan = if deployment.limited_tenants[tenant_index].limited_by == LimitedBy::Requests {
        CallPlan::Whole
    } else {
        CallPlan::LongStream
    };
    for _ in 0..10_000 {
        let template = PlannedCall {
            tenant: tenant_index,
            dialect: Dialect::Anthropic,
            pace_ms: 0,
            ..single_call(0, plan)
        };
        let call = PlannedCall { marker: deployment.next_marker(), ..template };
        let view = make_call(call, &tenant, &CallerState::default()).await;
        let status = view.head.as_ref().map(|(status, _)| *status);
        deployment.client_views.push(view);
        if matches!(status, Some(429 | 402)) {
            return;
        }
        assert_eq!(status, Some(200), "served or refused");
    }
    panic!("{:?} refused no call", deployment.limited_tenants[tenant_index].limited_by);
}

/// Starts one data folder and kills the gateway `kills` times.
async fn kill_repeatedly(kills: u64, seed: u64) -> StartTimes {
    let mut random = Random::new(seed);
    let mut starts = StartTimes::default();
    let mut deployment = Deployment::new(&TENANTS).await;
    for _ in 0..kills {
        let load =
            LoadRun::start(&mut deployment, &caller_assignments(), random.below(u64::MAX)).await;
        load.wait_for_open(&deployment, OPEN_RESPONSES).await;
        tokio::time::sleep(Duration::from_micros(random.below(1_200_000))).await;
        let (provider, clients) = load.wait_for_open(&deployment, OPEN_RESPONSES).await;
        deployment.kill();
        assert!(
            OPEN_RESPONSES <= provider && OPEN_RESPONSES <= clients,
            "{provider} and {clients} answers are open"
        );
        load.finish(&mut deployment).await;
        let (_, took) = deployment.start(None).await;
        starts.0.push(took);
        Reconciliation::load(&deployment).await.reconcile().await;
        deployment.retry_payments().await;
    }
    for tenant_index in 1..5 {
        exhaust_limit(&mut deployment, tenant_index).await;
    }
    Reconciliation::load(&deployment).await.reconcile().await;
    let ended = deployment.client_views.iter().filter(|view| view.ended).count();
    println!("{kills} kills: {} calls, {ended} to their end", deployment.client_views.len());
    starts
}

/// `METEOR_KILLS` sets the number of kills, `METEOR_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_exact_after_repeated_kills_under_load() {
    let kills = env_number("METEOR_KILLS").unwrap_or(5);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let seed = env_number("METEOR_SEED").unwrap_or(now.as_secs());
    println!("METEOR_SEED={seed}");
    let folders = kills.div_ceil(KILLS_PER_FOLDER);
    let lane = async |lane: u64| {
        let mut starts = Vec::new();
        for folder in (0..folders).filter(|folder| folder % 2 == lane) {
            let folder_kills = (kills - folder * KILLS_PER_FOLDER).min(KILLS_PER_FOLDER);
            starts.extend(kill_repeatedly(folder_kills, seed ^ (folder << 32)).await.0);
        }
        starts
    };
    let (mut starts, others) = tokio::join!(lane(0), lane(1));
    starts.extend(others);
    println!("{}", StartTimes(starts).summary());
}
