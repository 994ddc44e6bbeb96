//! Calls that do not fit now: they wait, share what comes back, or are told.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::accounting::admit::{Denial, admit};
use crate::accounting::permit::Demand;
use crate::accounting::tests::scene::{BODY, PATIENCE, Scene, demand, model, plain};
use crate::clock;
use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::settlement::Bound;

#[tokio::test]
async fn a_call_is_counted_before_its_patience_is_asked() {
    let model = plain();
    // 250 words in a thousand bytes: loosely it needs more than a thousand, counted not 300.
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let scene = Scene::new(2_600);
    let open = scene.admit(demand(1, &model, BODY, 1_900)).await.expect("fits");
    // 643 are left. A large call waits first; behind it wait two that would fit together.
    let large = scene.admit(demand(2, &model, BODY, 1_700));
    let small = async |id| {
        tokio::time::sleep(PATIENCE / 5).await;
        scene.admit(demand(id, &model, &long, 10)).await.map_err(|denial| println!("{denial:?}"))
    };
    let (large, one, other) = tokio::join!(large, small(3), small(4));
    assert!(matches!(large, Err(Denial::Wallet { .. })), "nothing came back");
    for small in [one, other] {
        assert!(small.as_ref().is_ok_and(|held| held.bound.input_tokens < 300));
    }
    drop(open);
}

#[tokio::test]
async fn a_call_is_counted_before_it_takes_a_place_in_a_line_that_is_full() {
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let scene = Scene::with(2_600, PATIENCE, 0);
    let _open = scene.admit(demand(1, &plain(), BODY, 1_900)).await.expect("fits");
    let held = scene.admit(demand(2, &plain(), &long, 10)).await;
    assert!(held.is_ok_and(|held| held.bound.input_tokens < 300), "643 are left");
}

#[tokio::test]
async fn outputs_without_a_bound_get_a_fair_share_of_what_comes_back() {
    let scene = Scene::with(2_000, PATIENCE * 12, 10);
    let open = scene.admit(demand(1, &plain(), BODY, 1_900)).await.expect("fits");
    let unbounded = |id| {
        let demand = Demand { is_unbounded: true, ..demand(id, &plain(), BODY, 3_000) };
        scene.admit(demand)
    };
    let release = async {
        scene.until_so_many_wait(2).await;
        drop(open);
    };
    let (one, other, ()) = tokio::join!(unbounded(2), unbounded(3), release);
    let [one, other] = [one, other].map(|held| held.expect("a share"));
    assert_eq!((one.need.spend, other.need.spend), (Nano(1_000), Nano(1_000)));
    assert_eq!(one.output_clamped(), Some(one.bound.output_tokens));
    assert_eq!(scene.books.waiting(), 0);
}

#[tokio::test]
async fn a_call_waits_no_longer_than_fifteen_times_its_patience_though_others_are_served() {
    let hold_wait = Duration::from_millis(20);
    let scene = Scene::with(2_000, hold_wait, 1);
    let open = scene.admit(demand(1, &plain(), BODY, 1_900)).await.expect("fits");
    let started = clock::tick();
    let looks = Cell::new(0);
    let still = || {
        looks.set(looks.get() + 1);
        Some(Arc::clone(&scene.caller))
    };
    let waits = admit(&scene.desk, &scene.caller, demand(2, &plain(), BODY, 1_500), still);
    let serve = async {
        scene.until_so_many_wait(1).await;
        let full = scene.admit(demand(3, &plain(), BODY, 1_500)).await;
        assert_eq!(full.map(|held| held.id()), Err(Denial::QueueFull), "one waits at most");
        loop {
            scene.caller.organization.fund(Nano(0));
            tokio::time::sleep(hold_wait / 4).await;
        }
    };
    let denied = tokio::select! { denied = waits => denied, () = serve => unreachable!() };
    assert!(matches!(denied, Err(Denial::Wallet { .. })));
    assert!(hold_wait * 15 <= clock::since(started) && clock::since(started) < hold_wait * 150);
    assert!(looks.get() < 300, "it looks when it is woken, and once in its patience");
    drop(open);
}

#[tokio::test]
async fn whoever_lost_its_key_while_it_waited_is_told_so_and_leaves_the_line() {
    let scene = Scene::with(2_000, PATIENCE * 12, 10);
    let _open = scene.admit(demand(1, &plain(), BODY, 1_900)).await.expect("fits");
    let lost = admit(&scene.desk, &scene.caller, demand(2, &plain(), BODY, 1_500), || None);
    let wake = async {
        scene.until_so_many_wait(1).await;
        scene.caller.organization.wake_all();
    };
    let woken = tokio::time::timeout(PATIENCE * 11, async { tokio::join!(lost, wake).0 });
    let lost = woken.await.expect("it was woken");
    assert_eq!(lost.map(|held| held.id()), Err(Denial::Revoked));
    assert_eq!(scene.books.waiting(), 0);
}

#[tokio::test]
async fn what_takes_neither_tokens_nor_money_waits_for_nobody() {
    let scene = Scene::with(2_000, PATIENCE * 12, 10);
    let limits = Limits::default().with(Limit::DailyTokens, Some(200));
    scene.caller.project.set_quota(Quota { limits, ..Quota::default() });
    let _open = scene.admit(demand(1, &plain(), BODY, 90)).await.expect("147 of 200");
    let soon = |demand| tokio::time::timeout(PATIENCE, scene.admit(demand));
    let free_of_charge = model(&[]);
    let others = async {
        scene.until_so_many_wait(1).await;
        let nothing = Demand { bound: Bound::default(), ..demand(3, &plain(), "{}", 0) };
        assert!(soon(nothing).await.is_ok_and(|held| held.is_ok()));
        let behind = soon(demand(4, &free_of_charge, "{}", 5)).await;
        assert!(behind.is_err(), "it takes tokens, and somebody waits for tokens");
    };
    tokio::select! {
        _ = scene.admit(demand(2, &plain(), BODY, 100)) => panic!("nothing came back"),
        () = others => {}
    }
}
