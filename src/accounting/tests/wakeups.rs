//! Returned amounts wake waiting calls immediately: no time passes in these tests.

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
use crate::domain::status::Outcome;
use crate::domain::usage::Usage;

/// Counts wake-ups.
#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn call(id: u128, model: &Arc<Model>, tokens: u64) -> AdmissionRequest {
    let bound = Bound { input_tokens: 10, output_tokens: tokens - 10 };
    // A call with external content is not tokenized.
    AdmissionRequest { bound, has_external_content: true, ..request(id, model, "{}", 0) }
}

fn finish(mut permit: Permit, tokens: u64) {
    permit.trace.forwarded = true;
    permit.measured.reported = Some(Usage::from_tokens(10, tokens - 10));
    permit.measured.complete = true;
    permit.settle(Outcome::Completed);
}

/// 100 tokens or nano-units are available, of which the first call takes 60.
fn node_configs() -> [TestNodeConfig; 5] {
    let config = TestNodeConfig::default();
    let limits = |limit| Limits::default().with(limit, Some(100));
    [
        TestNodeConfig { project: limits(Limit::DailyTokens), ..config },
        TestNodeConfig { project: limits(Limit::MonthlySpend), ..config },
        TestNodeConfig { key: limits(Limit::MonthlyTokens), ..config },
        TestNodeConfig { organization: limits(Limit::TokensPerMinute), ..config },
        TestNodeConfig { balance: 100, ..config },
    ]
}

#[tokio::test]
async fn the_returned_part_of_a_hold_admits_the_next_call_immediately() {
    let model = unit_price_model();
    for config in node_configs() {
        let node = config.start();
        let worker = node.worker(0);
        let first = worker.admit(call(1, &model, 60)).await.expect("60 of 100");
        let counter = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&counter));
        let context = &mut Context::from_waker(&waker);
        let mut next = pin!(worker.admit(call(2, &model, 41)));
        assert!(next.as_mut().poll(context).is_pending(), "101 of 100");
        assert_eq!((node.live_state.waiting(), counter.0.load(Ordering::Relaxed)), (1, 0));
        finish(first, 59);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1, "the settlement wakes the call");
        let Poll::Ready(Ok(next)) = next.as_mut().poll(context) else {
            panic!("the returned token did not admit the call");
        };
        assert_eq!(node.live_state.open_holds(), (1, Nano(41)));
        finish(next, 41);
        assert_eq!((node.live_state.open_holds(), node.live_state.waiting()), ((0, Nano(0)), 0));
    }
}

#[tokio::test]
async fn the_next_call_is_refused_immediately_if_nothing_is_returned() {
    let model = unit_price_model();
    for config in node_configs() {
        let node = config.start();
        let worker = node.worker(0);
        let first = worker.admit(call(1, &model, 60)).await.expect("60 of 100");
        let counter = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&counter));
        let context = &mut Context::from_waker(&waker);
        let mut next = pin!(worker.admit(call(2, &model, 41)));
        assert!(next.as_mut().poll(context).is_pending());
        finish(first, 60);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        let Poll::Ready(Err(error)) = next.as_mut().poll(context) else {
            panic!("the call waits for amounts that cannot be returned");
        };
        assert!(
            matches!(error, AdmissionError::Limit { .. } | AdmissionError::Wallet { .. }),
            "{error:?}"
        );
        assert_eq!((node.live_state.open_holds(), node.live_state.waiting()), ((0, Nano(0)), 0));
    }
}
