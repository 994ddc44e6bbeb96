//! Killed with -9 at random moments under 200 streams, again and again, the books stay exact.

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
/// How many answers are open when it is killed, by the count of the provider and by the clients'.
const OPEN_RESPONSES: usize = 50;
/// How often a folder is killed before another takes its place: reconciliation stays cheap.
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

/// More than half of them have no limit; the others share the limited tenants.
fn caller_assignments() -> Vec<(usize, &'static [CallPlan])> {
    let limited = [(1, LIMITED), (2, LIMITED), (3, LIMITED), (4, LIMITED)];
    let free = [(0, UNLIMITED), (5, UNLIMITED)];
    let limited = limited.iter().cycle().take(CALLERS * 2 / 5);
    limited.chain(free.iter().cycle().take(CALLERS * 3 / 5)).copied().collect()
}

/// What the time from the start to the first answer was, of every start.
#[derive(Default)]
struct StartTimes(Vec<Duration>);

impl StartTimes {
    fn summary(&mut self) -> String {
        self.0.sort();
        let (max, median) = (self.0.last(), self.0.get(self.0.len() / 2));
        format!("{} starts, ready after {median:?} at the median and {max:?} at most", self.0.len())
    }
}

/// Recharges and refunds without a pause until the gateway is gone.
async fn make_payments(
    site: (Vec<Tenant>, usize),
    ended: Vec<ClientView>,
    tally: Arc<CallerState>,
) -> Vec<Payment> {
    let mut all = Vec::new();
    let (tenants, mut first) = site;
    let mut ended = ended.into_iter().cycle();
    while !tally.stop.load(Ordering::Relaxed) {
        let mut paid = match ended.next() {
            Some(heard) if first % 2 == 0 => refund(first, &heard),
            _ => recharge(first, 4, 100_000),
        };
        first += 1;
        paid.status = send_payment(&tenants[paid.tenant], &paid).await;
        let gone = paid.status.is_none();
        all.push(paid);
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all
}

/// A gateway under load, up to its death.
pub struct LoadRun {
    callers: RandomCallers,
    payments: JoinHandle<Vec<Payment>>,
}

impl LoadRun {
    /// Everybody has room for some calls more, and makes them.
    pub async fn start(
        site: &mut Deployment,
        places: &[(usize, &'static [CallPlan])],
        seed: u64,
    ) -> Self {
        site.raise_limits().await;
        let ended =
            site.client_views.iter().rev().filter(|heard| heard.ended && heard.call.tenant == 0);
        let ended = ended.take(20).cloned().collect();
        let crowd = RandomCallers::start(&site.tenants(), places, site.next_marker(), seed);
        let (payers, tally) = ((site.tenants(), site.payments.len()), Arc::clone(&crowd.state));
        let paying = tokio::spawn(make_payments(payers, ended, tally));
        Self { callers: crowd, payments: paying }
    }

    /// Waits for so many answers that the provider has begun and clients have seen.
    pub async fn wait_for_open(&self, site: &Deployment, answers: usize) -> (usize, usize) {
        eventually("the answers are open", async || {
            let clients = self.callers.state.open_calls.load(Ordering::SeqCst);
            (answers <= site.open_responses().min(clients))
                .then_some((site.open_responses(), clients))
        })
        .await
    }

    /// The gateway is gone: what was seen of it.
    pub async fn finish(self, site: &mut Deployment) {
        // Whoever gets the gateway's port next is not to be called.
        self.callers.state.stop.store(true, Ordering::Relaxed);
        site.client_views.extend(self.callers.join().await);
        site.payments.extend(self.payments.await.expect("the payer ends"));
    }
}

/// Calls until the limit says no: it stands where it stood, however often the gateway was killed.
async fn exhaust_limit(site: &mut Deployment, place: usize) {
    let tenant = site.limited_tenants[place].tenant.clone();
    let way = if site.limited_tenants[place].limited_by == LimitedBy::Requests {
        CallPlan::Whole
    } else {
        CallPlan::LongStream
    };
    for _ in 0..10_000 {
        let own = PlannedCall {
            tenant: place,
            dialect: Dialect::Anthropic,
            pace_ms: 0,
            ..single_call(0, way)
        };
        let ask = PlannedCall { marker: site.next_marker(), ..own };
        let heard = make_call(ask, &tenant, &CallerState::default()).await;
        let status = heard.head.as_ref().map(|(status, _)| *status);
        site.client_views.push(heard);
        if matches!(status, Some(429 | 402)) {
            return;
        }
        assert_eq!(status, Some(200), "served or refused");
    }
    panic!("{:?} bites nobody", site.limited_tenants[place].limited_by);
}

/// One folder, killed so many times.
async fn kill_repeatedly(kills: u64, seed: u64) -> StartTimes {
    let mut dice = Random::new(seed);
    let mut starts = StartTimes::default();
    let mut site = Deployment::new(&TENANTS).await;
    for _ in 0..kills {
        let life = LoadRun::start(&mut site, &caller_assignments(), dice.below(u64::MAX)).await;
        life.wait_for_open(&site, OPEN_RESPONSES).await;
        tokio::time::sleep(Duration::from_micros(dice.below(1_200_000))).await;
        let (provider, clients) = life.wait_for_open(&site, OPEN_RESPONSES).await;
        site.kill();
        assert!(
            OPEN_RESPONSES <= provider && OPEN_RESPONSES <= clients,
            "{provider} and {clients} answers are open"
        );
        life.finish(&mut site).await;
        let (_, took) = site.start(None).await;
        starts.0.push(took);
        Reconciliation::load(&site).await.reconcile().await;
        site.retry_payments().await;
    }
    for place in 1..5 {
        exhaust_limit(&mut site, place).await;
    }
    Reconciliation::load(&site).await.reconcile().await;
    let ended = site.client_views.iter().filter(|heard| heard.ended).count();
    println!("{kills} kills: {} calls, {ended} to their end", site.client_views.len());
    starts
}

/// `METEOR_KILLS` says how often, `METEOR_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_exact_after_repeated_kills_under_load() {
    let kills = env_number("METEOR_KILLS").unwrap_or(5);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let seed = env_number("METEOR_SEED").unwrap_or(now.as_secs());
    println!("METEOR_SEED={seed}");
    let folders = kills.div_ceil(KILLS_PER_FOLDER);
    let lane = async |lane: u64| {
        let mut starts = Vec::new();
        for at in (0..folders).filter(|at| at % 2 == lane) {
            let own = (kills - at * KILLS_PER_FOLDER).min(KILLS_PER_FOLDER);
            starts.extend(kill_repeatedly(own, seed ^ (at << 32)).await.0);
        }
        starts
    };
    let (mut starts, others) = tokio::join!(lane(0), lane(1));
    starts.extend(others);
    println!("{}", StartTimes(starts).summary());
}
