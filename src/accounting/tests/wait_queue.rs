//! Calls that do not fit: they wait, share returned amounts, or are refused.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::accounting::admit::{AdmissionError, admit};
use crate::accounting::permit::AdmissionRequest;
use crate::accounting::tests::test_node::{
    BODY, HOLD_WAIT, TestWorker, model, request, unit_price_model,
};
use crate::clock;
use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::settlement::Bound;

#[tokio::test]
async fn a_call_is_tokenized_before_it_waits() {
    let model = unit_price_model();
    // 250 words in a thousand bytes: more than 1,000 tokens by bytes, fewer than 300 tokenized.
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let worker = TestWorker::new(2_600);
    let open = worker.admit(request(1, &model, BODY, 1_900)).await.expect("fits");
    // 643 are left. A large call waits first; behind it wait two that would fit together.
    let large = worker.admit(request(2, &model, BODY, 1_700));
    let small = async |id| {
        tokio::time::sleep(HOLD_WAIT / 5).await;
        worker.admit(request(id, &model, &long, 10)).await.map_err(|error| println!("{error:?}"))
    };
    let (large, one, other) = tokio::join!(large, small(3), small(4));
    assert!(matches!(large, Err(AdmissionError::Wallet { .. })), "nothing was returned");
    for small in [one, other] {
        assert!(small.as_ref().is_ok_and(|held| held.bound.input_tokens < 300));
    }
    drop(open);
}

#[tokio::test]
async fn a_call_is_tokenized_before_it_is_refused_for_a_full_queue() {
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let worker = TestWorker::with(2_600, HOLD_WAIT, 0);
    let _open = worker.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let held = worker.admit(request(2, &unit_price_model(), &long, 10)).await;
    assert!(held.is_ok_and(|held| held.bound.input_tokens < 300), "643 are left");
}

#[tokio::test]
async fn unbounded_outputs_get_a_fair_share_of_returned_money() {
    let worker = TestWorker::with(2_000, HOLD_WAIT * 12, 10);
    let open = worker.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let unbounded = |id| {
        let admission = AdmissionRequest {
            output_unbounded: true,
            ..request(id, &unit_price_model(), BODY, 3_000)
        };
        worker.admit(admission)
    };
    let release = async {
        worker.wait_until_waiting(2).await;
        drop(open);
    };
    let (one, other, ()) = tokio::join!(unbounded(2), unbounded(3), release);
    let [one, other] = [one, other].map(|held| held.expect("a share"));
    assert_eq!((one.held.spend, other.held.spend), (Nano(1_000), Nano(1_000)));
    assert_eq!(one.output_clamp(), Some(one.bound.output_tokens));
    assert_eq!(worker.live_state.waiting(), 0);
}

#[tokio::test]
async fn a_call_waits_no_longer_than_fifteen_times_hold_wait_while_others_are_served() {
    let hold_wait = Duration::from_millis(20);
    let worker = TestWorker::with(2_000, hold_wait, 1);
    let open = worker.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let started = clock::monotonic_now();
    let checks = Cell::new(0);
    let recheck_caller = || {
        checks.set(checks.get() + 1);
        Some(Arc::clone(&worker.caller))
    };
    let waiting = admit(
        &worker.context,
        &worker.caller,
        request(2, &unit_price_model(), BODY, 1_500),
        recheck_caller,
    );
    let serve = async {
        worker.wait_until_waiting(1).await;
        let full = worker.admit(request(3, &unit_price_model(), BODY, 1_500)).await;
        assert_eq!(
            full.map(|held| held.id()),
            Err(AdmissionError::QueueFull),
            "at most one call may wait"
        );
        loop {
            worker.caller.organization.credit(Nano(0));
            tokio::time::sleep(hold_wait / 4).await;
        }
    };
    let error = tokio::select! { error = waiting => error, () = serve => unreachable!() };
    assert!(matches!(error, Err(AdmissionError::Wallet { .. })));
    assert!(
        hold_wait * 15 <= clock::elapsed_since(started)
            && clock::elapsed_since(started) < hold_wait * 150
    );
    assert!(checks.get() < 300, "the call checks only when woken and after each hold_wait");
    drop(open);
}

#[tokio::test]
async fn a_call_with_a_key_revoked_while_waiting_is_refused_and_leaves_the_queue() {
    let worker = TestWorker::with(2_000, HOLD_WAIT * 12, 10);
    let _open = worker.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let revoked = admit(
        &worker.context,
        &worker.caller,
        request(2, &unit_price_model(), BODY, 1_500),
        || None,
    );
    let wake = async {
        worker.wait_until_waiting(1).await;
        worker.caller.organization.wake_all();
    };
    let woken = tokio::time::timeout(HOLD_WAIT * 11, async { tokio::join!(revoked, wake).0 });
    let revoked = woken.await.expect("it was woken");
    assert_eq!(revoked.map(|held| held.id()), Err(AdmissionError::Revoked));
    assert_eq!(worker.live_state.waiting(), 0);
}

#[tokio::test]
async fn a_call_without_tokens_or_money_never_waits() {
    let worker = TestWorker::with(2_000, HOLD_WAIT * 12, 10);
    let limits = Limits::default().with(Limit::DailyTokens, Some(200));
    worker.caller.project.set_quota(Quota { limits, ..Quota::default() });
    let _open = worker.admit(request(1, &unit_price_model(), BODY, 90)).await.expect("147 of 200");
    let soon = |admission| tokio::time::timeout(HOLD_WAIT, worker.admit(admission));
    let free_of_charge = model(&[]);
    let others = async {
        worker.wait_until_waiting(1).await;
        let nothing = AdmissionRequest {
            bound: Bound::default(),
            ..request(3, &unit_price_model(), "{}", 0)
        };
        assert!(soon(nothing).await.is_ok_and(|held| held.is_ok()));
        let behind = soon(request(4, &free_of_charge, "{}", 5)).await;
        assert!(behind.is_err(), "the call needs tokens, and another call waits for tokens");
    };
    tokio::select! {
        _ = worker.admit(request(2, &unit_price_model(), BODY, 100)) => panic!("nothing was returned"),
        () = others => {}
    }
}
