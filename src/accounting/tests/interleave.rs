//! Random thread schedules at the locks of the live state: no limit is exceeded at any instant, all
//! holds are returned, and every waiting call that fits is woken. A call that is not woken is a
//! deadlock, which the scheduler reports, because time does not advance in these tests.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::thread;
use tokio::runtime::{Builder, Runtime};

use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::accounting::tests::test_node::{TestNode, TestNodeConfig, request, unit_price_model};
use crate::domain::catalog::Model;
use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::settlement::Bound;
use crate::domain::status::Outcome;
use crate::domain::usage::Usage;

const SCHEDULES: usize = 3_000;

/// Priority changes per schedule of the scheduler that searches for rare orders.
const CHANGES: usize = 3;

/// How a call ends.
#[derive(Debug, Clone, Copy)]
enum CallEnd {
    /// Settled with this many tokens.
    Settled(u64),
    /// The permit is dropped before the call is forwarded.
    Dropped,
    /// The client disconnects while the call waits.
    Cancelled,
}

/// State shared by the threads. The limit is on daily tokens; a token costs one nano-unit.
struct SharedRun {
    node: Arc<TestNode>,
    model: Arc<Model>,
    /// May be reserved at a time. Raised before the limit itself is raised.
    limit: AtomicI64,
    /// Reserved by admitted calls.
    reserved: AtomicI64,
    used: AtomicI64,
}

impl SharedRun {
    fn new(config: &TestNodeConfig, limit: i64) -> Arc<Self> {
        let model = unit_price_model();
        let (node, limit) = (config.start(), AtomicI64::new(limit));
        let (reserved, used) = (AtomicI64::new(0), AtomicI64::new(0));
        Arc::new(Self { node, model, limit, reserved, used })
    }

    fn call(&self, id: u128, tokens: u64) -> AdmissionRequest {
        let bound = Bound { input_tokens: tokens, output_tokens: 0 };
        AdmissionRequest { bound, has_external_content: true, ..request(id, &self.model, "{}", 0) }
    }

    /// Runs the calls of one thread in sequence.
    fn calls(&self, worker: usize, calls: &[(u64, CallEnd)]) {
        let test_worker = self.node.worker(worker);
        for (&(tokens, end), number) in calls.iter().zip(0..) {
            let id = u128::try_from(worker).expect("few") * 100 + number;
            if matches!(end, CallEnd::Cancelled) {
                let mut admission = pin!(test_worker.admit(self.call(id, tokens)));
                let _ = admission.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                continue;
            }
            if let Ok(permit) = block_on(test_worker.admit(self.call(id, tokens))) {
                self.finish(permit, tokens, end);
            }
        }
    }

    fn finish(&self, mut permit: Permit, tokens: u64, end: CallEnd) {
        let held = i64::try_from(tokens).expect("few");
        let reserved = self.reserved.fetch_add(held, Ordering::SeqCst) + held;
        assert!(reserved <= self.limit.load(Ordering::SeqCst), "{reserved} reserved");
        thread::yield_now();
        let CallEnd::Settled(tokens) = end else {
            self.reserved.fetch_sub(held, Ordering::SeqCst);
            return drop(permit);
        };
        let used = i64::try_from(tokens).expect("few");
        self.used.fetch_add(used, Ordering::SeqCst);
        self.reserved.fetch_sub(held - used, Ordering::SeqCst);
        permit.trace.forwarded = true;
        permit.measured.reported = Some(Usage::from_tokens(tokens, 0));
        permit.measured.complete = true;
        permit.settle(Outcome::Completed);
    }

    /// Fails unless nothing is held, no call waits, and the usage is the sum of all calls.
    fn assert_settled(&self) {
        let used = self.used.load(Ordering::SeqCst);
        assert_eq!(self.reserved.load(Ordering::SeqCst), used);
        assert_eq!(self.node.live_state.open_holds(), (0, Nano(0)));
        assert_eq!(self.node.live_state.waiting(), 0);
        let caller = &self.node.caller;
        let usage = caller.project.usage_snapshot(crate::clock::wall_now());
        assert_eq!((usage.month.used.tokens, usage.month.held.tokens), (used, 0));
        assert_eq!(usage.open_calls, 0);
    }
}

/// Runs many schedules. The runtime only provides timers, which never fire.
fn try_schedules(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let runtime: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    shuttle::check_random(scenario.clone(), SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, CHANGES);
}

/// Runs three threads of calls and one that changes the configuration, then checks the result.
fn run_threads(
    run: &Arc<SharedRun>,
    calls: [&'static [(u64, CallEnd)]; 3],
    edit: impl FnOnce(&SharedRun) + Send + 'static,
) {
    let callers = (0..3).zip(calls).map(|(worker, calls)| {
        let run = Arc::clone(run);
        thread::spawn(move || run.calls(worker, calls))
    });
    let mut threads: Vec<_> = callers.collect();
    let editing = Arc::clone(run);
    threads.push(thread::spawn(move || edit(&editing)));
    for thread in threads {
        thread.join().expect("no panic");
    }
    run.assert_settled();
}

const CALLS: [&[(u64, CallEnd)]; 3] = [
    &[(60, CallEnd::Settled(10)), (50, CallEnd::Dropped)],
    &[(60, CallEnd::Settled(20)), (70, CallEnd::Settled(5))],
    &[(90, CallEnd::Cancelled), (45, CallEnd::Dropped), (30, CallEnd::Settled(30))],
];

fn quota(tokens: i64) -> Quota {
    let limits = Limits::default().with(Limit::DailyTokens, Some(tokens));
    Quota { limits, ..Quota::default() }
}

fn config() -> TestNodeConfig {
    TestNodeConfig { workers: 3, segment_bytes: 8_192, ..TestNodeConfig::default() }
}

#[test]
fn calls_that_fit_again_under_a_limit_are_woken() {
    try_schedules(|| {
        let run = SharedRun::new(&TestNodeConfig { project: quota(100).limits, ..config() }, 100);
        run_threads(&run, CALLS, |run| {
            // As after a change of the quota: apply it, then wake all waiting calls.
            run.limit.store(130, Ordering::SeqCst);
            run.node.caller.project.set_quota(quota(130));
            run.node.caller.project.wake_all();
        });
    });
}

#[test]
fn calls_that_fit_again_in_the_wallet_are_woken() {
    try_schedules(|| {
        let run = SharedRun::new(&TestNodeConfig { balance: 100, ..config() }, 100);
        run_threads(&run, CALLS, |run| {
            run.limit.store(125, Ordering::SeqCst);
            run.node.caller.organization.credit(Nano(25));
        });
        let wallet = run.node.caller.organization.lock().wallet;
        assert_eq!(wallet.balance(), Nano(125 - run.used.load(Ordering::SeqCst)));
    });
}

#[test]
fn calls_that_fit_again_under_a_key_or_organization_limit_are_woken() {
    try_schedules(|| {
        let (key, organization) = (quota(100).limits, quota(110).limits);
        let run = SharedRun::new(&TestNodeConfig { key, organization, ..config() }, 100);
        run_threads(&run, CALLS, |run| {
            let caller = &run.node.caller;
            assert_eq!(caller.limit_statuses(crate::clock::wall_now()).len(), 2);
            caller.organization.set_active(true);
        });
    });
}

#[test]
fn an_edit_alone_wakes_calls_that_fit_again() {
    let configs = [
        TestNodeConfig { project: quota(100).limits, ..config() },
        TestNodeConfig { balance: 100, ..config() },
    ];
    for config in configs {
        try_schedules(move || {
            let run = SharedRun::new(&config, 120);
            let test_worker = run.node.worker(0);
            // Ends only after the other call was admitted.
            let first = block_on(test_worker.admit(run.call(1, 60))).expect("60 of 100");
            let second = Arc::clone(&run);
            let second = thread::spawn(move || second.calls(1, &[(60, CallEnd::Settled(60))]));
            run.node.caller.project.set_quota(quota(120));
            run.node.caller.project.wake_all();
            run.node.caller.organization.credit(Nano(20));
            second.join().expect("no panic");
            assert_eq!(run.used.load(Ordering::SeqCst), 60, "it was admitted");
            drop(first);
            run.assert_settled();
        });
    }
}
