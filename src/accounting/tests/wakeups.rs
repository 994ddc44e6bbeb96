//! What comes back wakes whoever waits for it, at once: no time passes in these tests.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::accounting::admit::AdmissionError;
use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::accounting::tests::test_node::{TestNodeConfig, request, unit_price_model};
use crate::domain::catalog::Model;
use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::usage::Usage;
use crate::journal::entry::Outcome;

/// Counts how often it was woken.
#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn call(id: u128, model: &Arc<Model>, tokens: u64) -> AdmissionRequest {
    let bound = Bound { input_tokens: 10, output_tokens: tokens - 10 };
    // Content that stands elsewhere is not counted more closely.
    AdmissionRequest { bound, has_external_content: true, ..request(id, model, "{}", 0) }
}

fn finish(mut permit: Permit, tokens: u64) {
    permit.trace.forwarded = true;
    permit.measured.reported = Some(Usage::from_tokens(10, tokens - 10));
    permit.measured.complete = true;
    permit.settle(Outcome::Completed);
}

/// A hundred of it are there, and a call takes 60 of them. One that needs a token too many waits.
fn node_configs() -> [TestNodeConfig; 5] {
    let house = TestNodeConfig::default();
    let limits = |limit| Limits::default().with(limit, Some(100));
    [
        TestNodeConfig { project: limits(Limit::DailyTokens), ..house },
        TestNodeConfig { project: limits(Limit::MonthlySpend), ..house },
        TestNodeConfig { key: limits(Limit::MonthlyTokens), ..house },
        TestNodeConfig { organization: limits(Limit::TokensPerMinute), ..house },
        TestNodeConfig { balance: 100, ..house },
    ]
}

#[tokio::test]
async fn the_returned_part_of_a_hold_admits_the_next_call_immediately() {
    let model = unit_price_model();
    for house in node_configs() {
        let opened = house.start();
        let scene = opened.worker(0);
        let first = scene.admit(call(1, &model, 60)).await.expect("60 of 100");
        let bell = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&bell));
        let context = &mut Context::from_waker(&waker);
        let mut next = pin!(scene.admit(call(2, &model, 41)));
        assert!(next.as_mut().poll(context).is_pending(), "101 of 100");
        assert_eq!((opened.live_state.waiting(), bell.0.load(Ordering::Relaxed)), (1, 0));
        finish(first, 59);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1, "the settlement itself rings");
        let Poll::Ready(Ok(next)) = next.as_mut().poll(context) else {
            panic!("it was not admitted by the one token that came back");
        };
        assert_eq!(opened.live_state.open_holds(), (1, Nano(41)));
        finish(next, 41);
        assert_eq!(
            (opened.live_state.open_holds(), opened.live_state.waiting()),
            ((0, Nano(0)), 0)
        );
    }
}

#[tokio::test]
async fn the_next_call_is_refused_immediately_if_nothing_is_returned() {
    let model = unit_price_model();
    for house in node_configs() {
        let opened = house.start();
        let scene = opened.worker(0);
        let first = scene.admit(call(1, &model, 60)).await.expect("60 of 100");
        let bell = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&bell));
        let context = &mut Context::from_waker(&waker);
        let mut next = pin!(scene.admit(call(2, &model, 41)));
        assert!(next.as_mut().poll(context).is_pending());
        finish(first, 60);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        let Poll::Ready(Err(denial)) = next.as_mut().poll(context) else {
            panic!("it goes on waiting for what cannot come");
        };
        assert!(
            matches!(denial, AdmissionError::Limit { .. } | AdmissionError::Wallet { .. }),
            "{denial:?}"
        );
        assert_eq!(
            (opened.live_state.open_holds(), opened.live_state.waiting()),
            ((0, Nano(0)), 0)
        );
    }
}
