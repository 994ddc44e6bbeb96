//! Threads at the locks of the books, in schedules of chance: nothing is over a limit at any
//! instant, everything comes back, and whoever could go on is woken. One who is not is a deadlock,
//! which the scheduler tells: no patience ends here.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::thread;
use tokio::runtime::{Builder, Runtime};

use crate::accounting::permit::{Demand, Permit};
use crate::accounting::tests::test_node::{House, Opened, demand, plain};
use crate::domain::catalog::Model;
use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::settlement::Bound;
use crate::domain::usage::Usage;
use crate::journal::entry::Outcome;

const SCHEDULES: usize = 3_000;

/// How many changes of priority a schedule has that looks for rare orders.
const CHANGES: usize = 3;

/// How a call goes.
#[derive(Debug, Clone, Copy)]
enum CallEnd {
    /// It uses so many tokens.
    Settled(u64),
    /// Its permit is dropped before it was forwarded.
    Dropped,
    /// Its client leaves while it waits.
    Cancelled,
}

/// What threads share. The limit is on tokens of the day; a token costs one nano-unit.
struct SharedRun {
    node: Arc<Opened>,
    model: Arc<Model>,
    /// What may be taken: raised before the books are.
    limit: AtomicI64,
    /// Taken for certain.
    reserved: AtomicI64,
    used: AtomicI64,
}

impl Stage {
    fn new(house: &House, most: i64) -> Arc<Self> {
        let model = plain();
        let (opened, most) = (house.open(), AtomicI64::new(most));
        let (taken, used) = (AtomicI64::new(0), AtomicI64::new(0));
        Arc::new(Self { opened, model, most, taken, used })
    }

    fn call(&self, id: u128, tokens: u64) -> Demand {
        let bound = Bound { input_tokens: tokens, output_tokens: 0 };
        Demand { bound, refers: true, ..demand(id, &self.model, "{}", 0) }
    }

    /// One thread's calls, one after another.
    fn calls(&self, worker: usize, calls: &[(u64, Way)]) {
        let scene = self.opened.scene(worker);
        for (&(tokens, way), number) in calls.iter().zip(0..) {
            let id = u128::try_from(worker).expect("few") * 100 + number;
            if matches!(way, Way::Left) {
                let mut asking = pin!(scene.admit(self.call(id, tokens)));
                let _ = asking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                continue;
            }
            if let Ok(permit) = block_on(scene.admit(self.call(id, tokens))) {
                self.go(permit, tokens, way);
            }
        }
    }

    fn finish(&self, mut permit: Permit, tokens: u64, way: Way) {
        let held = i64::try_from(tokens).expect("few");
        let taken = self.taken.fetch_add(held, Ordering::SeqCst) + held;
        assert!(taken <= self.most.load(Ordering::SeqCst), "{taken} are taken");
        thread::yield_now();
        let Way::Uses(tokens) = way else {
            self.taken.fetch_sub(held, Ordering::SeqCst);
            return drop(permit);
        };
        let used = i64::try_from(tokens).expect("few");
        self.used.fetch_add(used, Ordering::SeqCst);
        self.taken.fetch_sub(held - used, Ordering::SeqCst);
        permit.course.forwarded = true;
        permit.measured.reported = Some(Usage::tokens_of(tokens, 0));
        permit.measured.complete = true;
        permit.settle(Outcome::Completed);
    }

    /// Nobody holds anything, nobody waits, and what is used is what calls used.
    fn assert_settled(&self) {
        let used = self.used.load(Ordering::SeqCst);
        assert_eq!(self.taken.load(Ordering::SeqCst), used);
        assert_eq!(self.opened.books.open_holds(), (0, Nano(0)));
        assert_eq!(self.opened.books.waiting(), 0);
        let caller = &self.opened.caller;
        let standing = caller.project.standing(crate::clock::now());
        assert_eq!((standing.month.used.tokens, standing.month.held.tokens), (used, 0));
        assert_eq!(standing.open_calls, 0);
    }
}

/// Tries schedules. The runtime is there for the clock of patience, which never moves.
fn try_schedules(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let runtime: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    shuttle::check_random(scene.clone(), SCHEDULES);
    shuttle::check_pct(scene, SCHEDULES, CHANGES);
}

/// Three threads of calls, and one that edits; then all of it is at rest.
fn run(
    stage: &Arc<Stage>,
    calls: [&'static [(u64, Way)]; 3],
    edit: impl FnOnce(&Stage) + Send + 'static,
) {
    let callers = (0..3).zip(calls).map(|(worker, calls)| {
        let stage = Arc::clone(stage);
        thread::spawn(move || stage.calls(worker, calls))
    });
    let mut threads: Vec<_> = callers.collect();
    let editing = Arc::clone(stage);
    threads.push(thread::spawn(move || edit(&editing)));
    for thread in threads {
        thread.join().expect("no panic");
    }
    stage.is_at_rest();
}

const CALLS: [&[(u64, Way)]; 3] = [
    &[(60, Way::Uses(10)), (50, Way::Dropped)],
    &[(60, Way::Uses(20)), (70, Way::Uses(5))],
    &[(90, Way::Left), (45, Way::Dropped), (30, Way::Uses(30))],
];

fn quota(tokens: i64) -> Quota {
    let limits = Limits::default().with(Limit::DailyTokens, Some(tokens));
    Quota { limits, ..Quota::default() }
}

fn house() -> House {
    House { workers: 3, segment_bytes: 8_192, ..House::default() }
}

#[test]
fn calls_that_fit_again_under_a_limit_are_woken() {
    try_schedules(|| {
        let stage = Stage::new(&House { project: quota(100).limits, ..house() }, 100);
        act(&stage, CALLS, |stage| {
            // As after an edit of the quota: it is put in force, and all who wait look again.
            stage.most.store(130, Ordering::SeqCst);
            stage.opened.caller.project.set_quota(quota(130));
            stage.opened.caller.project.wake_all();
        });
    });
}

#[test]
fn calls_that_fit_again_in_the_wallet_are_woken() {
    try_schedules(|| {
        let stage = Stage::new(&House { balance: 100, ..house() }, 100);
        act(&stage, CALLS, |stage| {
            stage.most.store(125, Ordering::SeqCst);
            stage.opened.caller.organization.fund(Nano(25));
        });
        let wallet = stage.opened.caller.organization.lock().wallet;
        assert_eq!(wallet.balance(), Nano(125 - stage.used.load(Ordering::SeqCst)));
    });
}

#[test]
fn calls_that_fit_again_under_a_key_or_organization_limit_are_woken() {
    try_schedules(|| {
        let (key, organization) = (quota(100).limits, quota(110).limits);
        let stage = Stage::new(&House { key, organization, ..house() }, 100);
        act(&stage, CALLS, |stage| {
            let caller = &stage.opened.caller;
            assert_eq!(caller.standings(crate::clock::now()).len(), 2);
            caller.organization.set_active(true);
        });
    });
}

#[test]
fn an_edit_alone_wakes_calls_that_fit_again() {
    let houses =
        [House { project: quota(100).limits, ..house() }, House { balance: 100, ..house() }];
    for house in houses {
        try_schedules(move || {
            let stage = Stage::new(&house, 120);
            let scene = stage.opened.scene(0);
            // It ends only when the other has been admitted.
            let first = block_on(scene.admit(stage.call(1, 60))).expect("60 of 100");
            let second = Arc::clone(&stage);
            let second = thread::spawn(move || second.calls(1, &[(60, Way::Uses(60))]));
            stage.opened.caller.project.set_quota(quota(120));
            stage.opened.caller.project.wake_all();
            stage.opened.caller.organization.fund(Nano(20));
            second.join().expect("no panic");
            assert_eq!(stage.used.load(Ordering::SeqCst), 60, "it was admitted");
            drop(first);
            stage.is_at_rest();
        });
    }
}
