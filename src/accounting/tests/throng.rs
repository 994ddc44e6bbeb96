//! Many workers at one limit: exactly what fits is admitted, at every instant and in the end.
//!
//! `METEOR_ADMITS=1000000` asks so many times at each limit; otherwise it is some 50,000 over the
//! limits of each measure.

#![expect(clippy::disallowed_methods, reason = "how long a test takes is its environment's word")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::accounting::admit::Denial;
use crate::accounting::permit::{Demand, Permit};
use crate::accounting::tests::scene::{House, Opened, Scene, demand, plain};
use crate::domain::catalog::Model;
use crate::domain::limit::{Amounts, Limit, Limits, Measure};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::usage::Usage;
use crate::journal::entry::Outcome;

const WORKERS: u16 = 4;

/// How many calls a worker has open at once.
const OPEN_MAX: usize = 8;

const LIMITS: [i64; 6] = [1, 2, 7, 60, 1_000, 100_000];

/// How calls end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Each uses all that it held.
    Full,
    /// Some are void, and some use less than they held.
    Less,
}

/// One limit that everybody runs into, and our own count of what is taken of it.
struct Throng {
    opened: Arc<Opened>,
    limit: i64,
    measure: Measure,
    ends: Ends,
    /// Taken for certain: counted after it was admitted, and given back before it is settled.
    taken: AtomicI64,
    used: AtomicI64,
    admitted: AtomicI64,
    next_id: AtomicU64,
    asks: u64,
}

fn admits() -> u64 {
    let text = std::env::var("METEOR_ADMITS").ok();
    text.map_or(8_400, |text| text.parse().expect("METEOR_ADMITS is a number"))
}

fn house(limit: i64, measure: Measure) -> House {
    let only = |which| Limits::default().with(which, Some(limit));
    let house = House { patience: Duration::ZERO, workers: WORKERS + 1, ..House::default() };
    match measure {
        Measure::Requests => House { project: only(Limit::MonthlyRequests), ..house },
        Measure::Tokens => House { organization: only(Limit::MonthlyTokens), ..house },
        Measure::Spend => House { balance: limit, ..house },
    }
}

impl Throng {
    fn new(limit: i64, measure: Measure, ends: Ends) -> Self {
        let opened = house(limit, measure).open();
        let (taken, used, admitted) = (AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(0));
        let (next_id, asks) = (AtomicU64::new(0), admits());
        Self { opened, limit, measure, ends, taken, used, admitted, next_id, asks }
    }

    /// What a call takes, in the measure that is short: one, or where less is used two as well.
    fn tokens(&self, id: u64) -> u64 {
        if self.ends == Ends::Less && self.measure != Measure::Requests { 1 + id % 2 } else { 1 }
    }

    fn of(&self, tokens: u64) -> i64 {
        let is_counted = self.measure == Measure::Requests;
        if is_counted { 1 } else { i64::try_from(tokens).expect("a few") }
    }

    /// Asks until nobody has anything left to ask.
    fn work(&self, worker: u16, model: &Arc<Model>) {
        let scene = self.opened.scene(worker.into());
        let mut open = Vec::new();
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if self.asks <= id {
                break;
            }
            if let Some(permit) = self.ask(&scene, model, id) {
                open.push((id, permit));
            }
            if OPEN_MAX <= open.len() || id.is_multiple_of(3) && !open.is_empty() {
                let at = usize::try_from(id).unwrap_or_default() % open.len();
                let (id, permit) = open.swap_remove(at);
                self.end(id, permit);
            }
            if id.is_multiple_of(16) {
                scene.desk.writer.commit();
            }
        }
        for (id, permit) in open {
            self.end(id, permit);
        }
        scene.desk.writer.commit();
    }

    fn ask(&self, scene: &Scene, model: &Arc<Model>, id: u64) -> Option<Permit> {
        let tokens = self.tokens(id);
        loop {
            match at_once(scene.admit(call(id.into(), model, tokens))) {
                Ok(permit) => {
                    let taken = self.taken.fetch_add(self.of(tokens), Ordering::SeqCst);
                    let taken = taken + self.of(tokens);
                    assert!(taken <= self.limit, "{taken} of {} are taken", self.limit);
                    self.admitted.fetch_add(1, Ordering::Relaxed);
                    return Some(permit);
                }
                Err(Denial::JournalFull) => {
                    scene.desk.writer.commit();
                    self.opened.keep();
                }
                Err(Denial::Limit { .. } | Denial::Wallet { .. }) => return None,
                Err(denial) => panic!("{denial:?}"),
            }
        }
    }

    fn end(&self, id: u64, mut permit: Permit) {
        let held = self.tokens(id);
        let is_void = self.ends == Ends::Less && id % 8 == 5;
        // One request, one token, one nano-unit.
        let used = i64::from(!is_void);
        self.used.fetch_add(used, Ordering::Relaxed);
        self.taken.fetch_sub(self.of(held) - used, Ordering::SeqCst);
        if is_void {
            return drop(permit);
        }
        permit.course.forwarded = true;
        permit.measured.reported = Some(Usage::tokens_of(used.unsigned_abs(), 0));
        permit.measured.complete = true;
        permit.settle(Outcome::Completed);
    }

    /// Nothing is held, and what is used is what calls used.
    fn is_at_rest(&self) {
        let used = self.used.load(Ordering::Relaxed);
        assert_eq!(self.taken.load(Ordering::Relaxed), used, "only what was used is taken");
        assert_eq!(self.opened.books.open_holds(), (0, Nano(0)));
        let caller = &self.opened.caller;
        let now = crate::clock::now();
        for standing in [caller.project.standing(now), caller.organization.standing(now)] {
            assert_eq!((standing.open_calls, standing.month.held), (0, Amounts::default()));
            let amount = standing.month.used.of(self.measure);
            assert_eq!(amount, used, "{:?} at {}", self.measure, self.limit);
        }
        if self.measure == Measure::Spend {
            let balance = caller.organization.lock().wallet.balance();
            assert_eq!(balance, Nano(self.limit - used));
        }
    }
}

fn call(id: u128, model: &Arc<Model>, tokens: u64) -> Demand {
    let bound = Bound { input_tokens: tokens, output_tokens: 0 };
    Demand { bound, refers: true, ..demand(id, model, "{}", 0) }
}

/// The answer of who waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("nobody has patience here"),
    }
}

fn at_every_limit(ends: Ends, check: impl Fn(&Throng, &Arc<Model>)) {
    let model = plain();
    for measure in [Measure::Requests, Measure::Tokens, Measure::Spend] {
        for limit in LIMITS {
            let throng = Throng::new(limit, measure, ends);
            thread::scope(|scope| {
                for worker in 0..WORKERS {
                    scope.spawn({
                        let (throng, model) = (&throng, &model);
                        move || throng.work(worker, model)
                    });
                }
            });
            throng.is_at_rest();
            check(&throng, &model);
        }
    }
}

#[test]
fn exactly_what_fits_is_admitted_whoever_asks() {
    at_every_limit(Ends::Full, |throng, _| {
        let demand = i64::try_from(throng.asks).expect("a number");
        let admitted = throng.admitted.load(Ordering::Relaxed);
        assert_eq!(admitted, demand.min(throng.limit), "{:?}", throng.measure);
    });
}

#[test]
fn what_came_back_is_admitted_again_to_the_last() {
    at_every_limit(Ends::Less, |throng, model| {
        let left = throng.limit - throng.used.load(Ordering::Relaxed);
        assert!(0 <= left, "{left} of {} are left", throng.limit);
        // Whoever was refused while others held what they did not use may ask again now.
        let scene = throng.opened.scene(WORKERS.into());
        let by_count = throng.measure == Measure::Requests;
        let calls = if by_count { left.min(1_000) } else { left.min(1) };
        let tokens = if by_count { 1 } else { left.unsigned_abs() };
        let last: Vec<Permit> = (0..u128::from(calls.unsigned_abs()))
            .map(|id| at_once(scene.admit(call(u128::MAX - id, model, tokens))))
            .collect::<Result<_, _>>()
            .expect("it fits");
        if i64::try_from(last.len()) == Ok(left) || !by_count {
            let more = at_once(scene.admit(call(0, model, 1)));
            assert!(more.is_err(), "one too many at {}", throng.limit);
        }
    });
}
