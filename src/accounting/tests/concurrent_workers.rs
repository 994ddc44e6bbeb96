//! Many workers at one limit: exactly the calls that fit are admitted, at every instant and in total.
//!
//! `METEOR_ADMITS` sets the number of attempts per limit; the default is about 50,000 over the limits
//! of each measure.

#![expect(
    clippy::disallowed_methods,
    reason = "the duration of this test is set by the environment"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::accounting::admit::AdmissionError;
use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::accounting::tests::test_node::{
    TestNode, TestNodeConfig, TestWorker, request, unit_price_model,
};
use crate::domain::catalog::Model;
use crate::domain::limit::{Amounts, Limit, Limits, Measure};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::status::Outcome;
use crate::domain::usage::Usage;

const WORKERS: u16 = 4;

/// Open calls per worker.
const OPEN_MAX: usize = 8;

const LIMITS: [i64; 6] = [1, 2, 7, 60, 1_000, 100_000];

/// How calls end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcomes {
    /// Each call uses its full hold.
    AllUsed,
    /// Some calls are void, and some use less than their hold.
    SomeUsed,
}

/// One limit that all workers reach, and an independent count of what is reserved.
struct LimitRun {
    node: Arc<TestNode>,
    limit: i64,
    measure: Measure,
    outcomes: Outcomes,
    /// Incremented after each admission and decremented before each settlement.
    reserved: AtomicI64,
    used: AtomicI64,
    admitted: AtomicI64,
    next_id: AtomicU64,
    attempts: u64,
}

fn attempts_per_limit() -> u64 {
    let text = std::env::var("METEOR_ADMITS").ok();
    text.map_or(8_400, |text| text.parse().expect("METEOR_ADMITS is a number"))
}

fn node_config(limit: i64, measure: Measure) -> TestNodeConfig {
    let only = |which| Limits::default().with(which, Some(limit));
    let config = TestNodeConfig {
        hold_wait: Duration::ZERO,
        workers: WORKERS + 1,
        ..TestNodeConfig::default()
    };
    match measure {
        Measure::Requests => TestNodeConfig { project: only(Limit::MonthlyRequests), ..config },
        Measure::Tokens => TestNodeConfig { organization: only(Limit::MonthlyTokens), ..config },
        Measure::Spend => TestNodeConfig { balance: limit, ..config },
    }
}

impl LimitRun {
    fn new(limit: i64, measure: Measure, outcomes: Outcomes) -> Self {
        let node = node_config(limit, measure).start();
        let (reserved, used, admitted) = (AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(0));
        let (next_id, attempts) = (AtomicU64::new(0), attempts_per_limit());
        Self { node, limit, measure, outcomes, reserved, used, admitted, next_id, attempts }
    }

    /// Amount held by a call in the limited measure: 1, or 2 for some calls that use less.
    fn tokens_held(&self, id: u64) -> u64 {
        if self.outcomes == Outcomes::SomeUsed && self.measure != Measure::Requests {
            1 + id % 2
        } else {
            1
        }
    }

    fn amount(&self, tokens: u64) -> i64 {
        let is_counted = self.measure == Measure::Requests;
        if is_counted { 1 } else { i64::try_from(tokens).expect("a few") }
    }

    /// Runs calls until all attempts are used.
    fn work(&self, worker: u16, model: &Arc<Model>) {
        let test_worker = self.node.worker(worker.into());
        let mut open = Vec::new();
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if self.attempts <= id {
                break;
            }
            if let Some(permit) = self.try_admit(&test_worker, model, id) {
                open.push((id, permit));
            }
            if OPEN_MAX <= open.len() || id.is_multiple_of(3) && !open.is_empty() {
                let at = usize::try_from(id).unwrap_or_default() % open.len();
                let (id, permit) = open.swap_remove(at);
                self.end(id, permit);
            }
            if id.is_multiple_of(16) {
                test_worker.context.writer.commit();
            }
        }
        for (id, permit) in open {
            self.end(id, permit);
        }
        test_worker.context.writer.commit();
    }

    fn try_admit(&self, test_worker: &TestWorker, model: &Arc<Model>, id: u64) -> Option<Permit> {
        let tokens = self.tokens_held(id);
        loop {
            match poll_ready(test_worker.admit(call(id.into(), model, tokens))) {
                Ok(permit) => {
                    let reserved = self.reserved.fetch_add(self.amount(tokens), Ordering::SeqCst);
                    let reserved = reserved + self.amount(tokens);
                    assert!(reserved <= self.limit, "{reserved} of {} are reserved", self.limit);
                    self.admitted.fetch_add(1, Ordering::Relaxed);
                    return Some(permit);
                }
                Err(AdmissionError::JournalFull) => {
                    test_worker.context.writer.commit();
                    self.node.make_segments();
                }
                Err(AdmissionError::Limit { .. } | AdmissionError::Wallet { .. }) => return None,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn end(&self, id: u64, mut permit: Permit) {
        let held = self.tokens_held(id);
        let is_void = self.outcomes == Outcomes::SomeUsed && id % 8 == 5;
        // One request, one token, one nano-unit.
        let used = i64::from(!is_void);
        self.used.fetch_add(used, Ordering::Relaxed);
        self.reserved.fetch_sub(self.amount(held) - used, Ordering::SeqCst);
        if is_void {
            return drop(permit);
        }
        permit.trace.forwarded = true;
        permit.measured.reported = Some(Usage::from_tokens(used.unsigned_abs(), 0));
        permit.measured.complete = true;
        permit.settle(Outcome::Completed);
    }

    /// Fails unless nothing is held and the usage is the sum of all calls.
    fn assert_settled(&self) {
        let used = self.used.load(Ordering::Relaxed);
        assert_eq!(self.reserved.load(Ordering::Relaxed), used, "only what was used is reserved");
        assert_eq!(self.node.live_state.open_holds(), (0, Nano(0)));
        let caller = &self.node.caller;
        let now = crate::clock::wall_now();
        for usage in [caller.project.usage_snapshot(now), caller.organization.usage_snapshot(now)] {
            assert_eq!((usage.open_calls, usage.month.held), (0, Amounts::default()));
            let amount = usage.month.used.get(self.measure);
            assert_eq!(amount, used, "{:?} at {}", self.measure, self.limit);
        }
        if self.measure == Measure::Spend {
            let balance = caller.organization.lock().wallet.balance();
            assert_eq!(balance, Nano(self.limit - used));
        }
    }
}

fn call(id: u128, model: &Arc<Model>, tokens: u64) -> AdmissionRequest {
    let bound = Bound { input_tokens: tokens, output_tokens: 0 };
    AdmissionRequest { bound, has_external_content: true, ..request(id, model, "{}", 0) }
}

/// Returns the result of a future that must not wait.
fn poll_ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("no call may wait"),
    }
}

fn at_every_limit(outcomes: Outcomes, check: impl Fn(&LimitRun, &Arc<Model>)) {
    let model = unit_price_model();
    for measure in [Measure::Requests, Measure::Tokens, Measure::Spend] {
        for limit in LIMITS {
            let run = LimitRun::new(limit, measure, outcomes);
            thread::scope(|scope| {
                for worker in 0..WORKERS {
                    scope.spawn({
                        let (run, model) = (&run, &model);
                        move || run.work(worker, model)
                    });
                }
            });
            run.assert_settled();
            check(&run, &model);
        }
    }
}

#[test]
fn exactly_the_calls_that_fit_are_admitted() {
    at_every_limit(Outcomes::AllUsed, |run, _| {
        let attempts = i64::try_from(run.attempts).expect("a number");
        let admitted = run.admitted.load(Ordering::Relaxed);
        assert_eq!(admitted, attempts.min(run.limit), "{:?}", run.measure);
    });
}

#[test]
fn returned_amounts_are_admitted_again_up_to_the_limit() {
    at_every_limit(Outcomes::SomeUsed, |run, model| {
        let left = run.limit - run.used.load(Ordering::Relaxed);
        assert!(0 <= left, "{left} of {} are left", run.limit);
        // Calls that were refused while others held more than they used fit now.
        let test_worker = run.node.worker(WORKERS.into());
        let by_count = run.measure == Measure::Requests;
        let calls = if by_count { left.min(1_000) } else { left.min(1) };
        let tokens = if by_count { 1 } else { left.unsigned_abs() };
        let last: Vec<Permit> = (0..u128::from(calls.unsigned_abs()))
            .map(|id| poll_ready(test_worker.admit(call(u128::MAX - id, model, tokens))))
            .collect::<Result<_, _>>()
            .expect("it fits");
        if i64::try_from(last.len()) == Ok(left) || !by_count {
            let more = poll_ready(test_worker.admit(call(0, model, 1)));
            assert!(more.is_err(), "one too many at {}", run.limit);
        }
    });
}
