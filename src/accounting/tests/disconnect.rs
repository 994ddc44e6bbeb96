//! Clients that leave: what is read on without them, and what it costs.

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::accounting::tests::test_node::{
    BODY, TestWorker, mark_answered, request, unit_price_model,
};
use crate::clock;
use crate::domain::money::Nano;
use crate::journal::entry::{Entry, Outcome};

async fn admit_hidden_usage(scene: &TestWorker, id: u128) -> Permit {
    let demand =
        AdmissionRequest { usage_is_hidden: true, ..request(id, &unit_price_model(), BODY, 43) };
    scene.admit(demand).await.expect("fits")
}

#[test]
fn a_disconnect_is_recorded_and_reported_one_time() {
    for drains in [true, false] {
        let presence = DisconnectTracker::new(drains);
        assert_eq!((presence.drain_always(), presence.is_forwarded()), (drains, false));
        presence.set_forwarded(true);
        assert!(presence.is_forwarded() && !presence.take_unreported());
        assert_eq!(presence.disconnected_at(), None);
        let before = clock::monotonic_now();
        let left = presence.mark_disconnected();
        assert!(before <= left);
        assert_eq!((presence.disconnected_at(), presence.mark_disconnected()), (Some(left), left));
        assert!(presence.take_unreported() && !presence.take_unreported());
    }
}

#[tokio::test]
async fn a_call_with_hidden_usage_drains_until_its_usage_is_complete() {
    let scene = TestWorker::new(1_000_000);
    let seen = scene.admit(request(1, &unit_price_model(), BODY, 43)).await.expect("fits");
    assert!(
        seen.disconnect_tracker().is_none()
            && !seen.client_disconnected()
            && !seen.drains_on_disconnect()
    );
    let mut permit = admit_hidden_usage(&scene, 2).await;
    assert!(permit.drains_on_disconnect() && !permit.client_disconnected());
    permit.set_forwarded(true);
    assert!(permit.disconnect_tracker().is_some_and(|presence| presence.is_forwarded()));
    permit.trace.is_free = true;
    assert!(!permit.drains_on_disconnect(), "it costs nothing");
    permit.trace.is_free = false;
    permit.measured.complete = true;
    assert!(!permit.drains_on_disconnect(), "nothing more is to be learned");
}

#[tokio::test]
async fn drain_always_drains_to_the_end_although_usage_is_complete() {
    let scene = TestWorker::new(1_000_000);
    let mut permit = admit_hidden_usage(&scene, 1).await;
    permit.disconnect_tracker = Some(DisconnectTracker::new(true).into());
    mark_answered(&mut permit, 8, 2);
    assert!(permit.drains_on_disconnect());
    permit.disconnect_tracker = None;
    assert!(!permit.drains_on_disconnect());
}

#[tokio::test]
async fn an_abandoned_unfinished_response_is_charged_the_full_hold() {
    let scene = TestWorker::new(1_000_000);
    let mut permit = admit_hidden_usage(&scene, 1).await;
    permit.set_forwarded(true);
    permit.record_disconnect();
    let presence = permit.disconnect_tracker().map(std::rc::Rc::clone).expect("it is read on");
    presence.mark_disconnected();
    permit.record_disconnect();
    permit.record_disconnect();
    assert!(permit.client_disconnected());
    permit.settle(Outcome::Completed);
    let entries = scene.entries();
    let [Entry::Hold(_), Entry::Progress(noted), Entry::Settled(ended)] = &*entries else {
        panic!("{entries:?}")
    };
    assert_eq!((noted.charge.cost, ended.charge.cost), (Nano(100), Nano(100)));
    assert_eq!((ended.outcome, scene.settled().2), (Outcome::Cancelled, 999_900));
}
