//! Calls that do not fit now: they wait, share what comes back, or are told.

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
    // 250 words in a thousand bytes: loosely it needs more than a thousand, counted not 300.
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let scene = TestWorker::new(2_600);
    let open = scene.admit(request(1, &model, BODY, 1_900)).await.expect("fits");
    // 643 are left. A large call waits first; behind it wait two that would fit together.
    let large = scene.admit(request(2, &model, BODY, 1_700));
    let small = async |id| {
        tokio::time::sleep(HOLD_WAIT / 5).await;
        scene.admit(request(id, &model, &long, 10)).await.map_err(|denial| println!("{denial:?}"))
    };
    let (large, one, other) = tokio::join!(large, small(3), small(4));
    assert!(matches!(large, Err(AdmissionError::Wallet { .. })), "nothing came back");
    for small in [one, other] {
        assert!(small.as_ref().is_ok_and(|held| held.bound.input_tokens < 300));
    }
    drop(open);
}

#[tokio::test]
async fn a_call_is_tokenized_before_it_is_refused_for_a_full_queue() {
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let scene = TestWorker::with(2_600, HOLD_WAIT, 0);
    let _open = scene.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let held = scene.admit(request(2, &unit_price_model(), &long, 10)).await;
    assert!(held.is_ok_and(|held| held.bound.input_tokens < 300), "643 are left");
}

#[tokio::test]
async fn unbounded_outputs_get_a_fair_share_of_returned_money() {
    let scene = TestWorker::with(2_000, HOLD_WAIT * 12, 10);
    let open = scene.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let unbounded = |id| {
        let demand = AdmissionRequest {
            output_unbounded: true,
            ..request(id, &unit_price_model(), BODY, 3_000)
        };
        scene.admit(demand)
    };
    let release = async {
        scene.wait_until_waiting(2).await;
        drop(open);
    };
    let (one, other, ()) = tokio::join!(unbounded(2), unbounded(3), release);
    let [one, other] = [one, other].map(|held| held.expect("a share"));
    assert_eq!((one.held.spend, other.held.spend), (Nano(1_000), Nano(1_000)));
    assert_eq!(one.output_clamp(), Some(one.bound.output_tokens));
    assert_eq!(scene.live_state.waiting(), 0);
}

#[tokio::test]
async fn a_call_waits_at_most_fifteen_times_hold_wait_while_others_are_served() {
    let hold_wait = Duration::from_millis(20);
    let scene = TestWorker::with(2_000, hold_wait, 1);
    let open = scene.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let started = clock::monotonic_now();
    let looks = Cell::new(0);
    let still = || {
        looks.set(looks.get() + 1);
        Some(Arc::clone(&scene.caller))
    };
    let waits =
        admit(&scene.context, &scene.caller, request(2, &unit_price_model(), BODY, 1_500), still);
    let serve = async {
        scene.wait_until_waiting(1).await;
        let full = scene.admit(request(3, &unit_price_model(), BODY, 1_500)).await;
        assert_eq!(full.map(|held| held.id()), Err(AdmissionError::QueueFull), "one waits at most");
        loop {
            scene.caller.organization.credit(Nano(0));
            tokio::time::sleep(hold_wait / 4).await;
        }
    };
    let denied = tokio::select! { denied = waits => denied, () = serve => unreachable!() };
    assert!(matches!(denied, Err(AdmissionError::Wallet { .. })));
    assert!(
        hold_wait * 15 <= clock::elapsed_since(started)
            && clock::elapsed_since(started) < hold_wait * 150
    );
    assert!(looks.get() < 300, "it looks when it is woken, and once in its patience");
    drop(open);
}

#[tokio::test]
async fn a_call_whose_key_is_revoked_while_waiting_is_refused_and_leaves_the_queue() {
    let scene = TestWorker::with(2_000, HOLD_WAIT * 12, 10);
    let _open = scene.admit(request(1, &unit_price_model(), BODY, 1_900)).await.expect("fits");
    let lost =
        admit(&scene.context, &scene.caller, request(2, &unit_price_model(), BODY, 1_500), || None);
    let wake = async {
        scene.wait_until_waiting(1).await;
        scene.caller.organization.wake_all();
    };
    let woken = tokio::time::timeout(HOLD_WAIT * 11, async { tokio::join!(lost, wake).0 });
    let lost = woken.await.expect("it was woken");
    assert_eq!(lost.map(|held| held.id()), Err(AdmissionError::Revoked));
    assert_eq!(scene.live_state.waiting(), 0);
}

#[tokio::test]
async fn a_call_without_tokens_or_money_never_waits() {
    let scene = TestWorker::with(2_000, HOLD_WAIT * 12, 10);
    let limits = Limits::default().with(Limit::DailyTokens, Some(200));
    scene.caller.project.set_quota(Quota { limits, ..Quota::default() });
    let _open = scene.admit(request(1, &unit_price_model(), BODY, 90)).await.expect("147 of 200");
    let soon = |demand| tokio::time::timeout(HOLD_WAIT, scene.admit(demand));
    let free_of_charge = model(&[]);
    let others = async {
        scene.wait_until_waiting(1).await;
        let nothing = AdmissionRequest {
            bound: Bound::default(),
            ..request(3, &unit_price_model(), "{}", 0)
        };
        assert!(soon(nothing).await.is_ok_and(|held| held.is_ok()));
        let behind = soon(request(4, &free_of_charge, "{}", 5)).await;
        assert!(behind.is_err(), "it takes tokens, and somebody waits for tokens");
    };
    tokio::select! {
        _ = scene.admit(request(2, &unit_price_model(), BODY, 100)) => panic!("nothing came back"),
        () = others => {}
    }
}
