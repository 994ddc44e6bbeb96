//! Client disconnects: which calls are drained, and what they are charged.

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::accounting::tests::test_node::{
    BODY, TestWorker, mark_answered, request, unit_price_model,
};
use crate::clock;
use crate::domain::money::Nano;
use crate::domain::status::Outcome;
use crate::journal::entry::Entry;

async fn admit_hidden_usage(worker: &TestWorker, id: u128) -> Permit {
    let request =
        AdmissionRequest { usage_is_hidden: true, ..request(id, &unit_price_model(), BODY, 43) };
    worker.admit(request).await.expect("fits")
}

#[test]
fn a_disconnect_is_recorded_and_reported_one_time() {
    for drain_always in [true, false] {
        let tracker = DisconnectTracker::new(drain_always);
        assert_eq!((tracker.drain_always(), tracker.is_forwarded()), (drain_always, false));
        tracker.set_forwarded(true);
        assert!(tracker.is_forwarded() && !tracker.take_unreported());
        assert_eq!(tracker.disconnected_at(), None);
        let before = clock::monotonic_now();
        let at = tracker.mark_disconnected();
        assert!(before <= at);
        assert_eq!((tracker.disconnected_at(), tracker.mark_disconnected()), (Some(at), at));
        assert!(tracker.take_unreported() && !tracker.take_unreported());
    }
}

#[tokio::test]
async fn a_call_with_hidden_usage_drains_until_its_usage_is_complete() {
    let worker = TestWorker::new(1_000_000);
    let visible = worker.admit(request(1, &unit_price_model(), BODY, 43)).await.expect("fits");
    assert!(
        visible.disconnect_tracker().is_none()
            && !visible.client_disconnected()
            && !visible.drains_on_disconnect()
    );
    let mut permit = admit_hidden_usage(&worker, 2).await;
    assert!(permit.drains_on_disconnect() && !permit.client_disconnected());
    permit.set_forwarded(true);
    assert!(permit.disconnect_tracker().is_some_and(|tracker| tracker.is_forwarded()));
    permit.trace.is_free = true;
    assert!(!permit.drains_on_disconnect(), "the call is free");
    permit.trace.is_free = false;
    permit.measured.complete = true;
    assert!(!permit.drains_on_disconnect(), "the usage is complete");
}

#[tokio::test]
async fn drain_always_drains_to_the_end_although_usage_is_complete() {
    let worker = TestWorker::new(1_000_000);
    let mut permit = admit_hidden_usage(&worker, 1).await;
    permit.disconnect_tracker = Some(DisconnectTracker::new(true).into());
    mark_answered(&mut permit, 8, 2);
    assert!(permit.drains_on_disconnect());
    permit.disconnect_tracker = None;
    assert!(!permit.drains_on_disconnect());
}

#[tokio::test]
async fn an_abandoned_unfinished_response_is_charged_the_full_hold() {
    let worker = TestWorker::new(1_000_000);
    let mut permit = admit_hidden_usage(&worker, 1).await;
    permit.set_forwarded(true);
    permit.record_disconnect();
    let tracker =
        permit.disconnect_tracker().map(std::rc::Rc::clone).expect("the call may be drained");
    tracker.mark_disconnected();
    permit.record_disconnect();
    permit.record_disconnect();
    assert!(permit.client_disconnected());
    permit.settle(Outcome::Completed);
    let entries = worker.entries();
    let [Entry::Hold(_), Entry::Progress(progress), Entry::Settled(ended)] = &*entries else {
        panic!("{entries:?}")
    };
    assert_eq!((progress.charge.cost, ended.charge.cost), (Nano(100), Nano(100)));
    assert_eq!((ended.outcome, worker.settled().2), (Outcome::Cancelled, 999_900));
}
