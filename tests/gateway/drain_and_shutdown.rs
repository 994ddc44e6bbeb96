//! Responses that are drained after a disconnect when the gateway shuts down or is killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::disconnect_every_event::{DIALECTS, Dialect, DisconnectFixture, USAGE};
use crate::drain_after_disconnect::{LONG_DRAIN, stall_before};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::upstream::{ReceivedRequest, Step};
use crate::harness::wait::with_deadline;

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_a_draining_response() {
    for sent in [0, 3] {
        let mut fixture = DisconnectFixture::new(stall_before(sent), "drain", &[LONG_DRAIN]).await;
        fixture.disconnect_after(Dialect::OpenAi, "plain", sent).await;
        fixture.served.terminate();
        let signalled = Instant::now();
        while signalled.elapsed() < Duration::from_millis(500) {
            assert!(fixture.served.is_running(), "the process waits for the response");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fixture.upstream.release();
        assert!(fixture.served.wait_exit().await.success());
        let fixture = fixture.restart().await;
        fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_timeout_charges_the_hold_of_draining_calls() {
    let short_shutdown = ("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    for sent in [0, 3] {
        let mut fixture =
            DisconnectFixture::new(stall_before(sent), "drain", &[LONG_DRAIN, short_shutdown])
                .await;
        fixture.disconnect_after(Dialect::OpenAi, "plain", sent).await;
        fixture.served.terminate();
        assert!(fixture.served.wait_exit().await.success());
        let fixture = fixture.restart().await;
        fixture.assert_hold_charged(Dialect::OpenAi, "plain").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_timeout_charges_connected_clients_the_received_output() {
    let short_shutdown = ("METEOR__PROXY__DRAIN_TIMEOUT_MS", "100");
    let mut fixture =
        DisconnectFixture::new(stall_before(3), "drain", &[LONG_DRAIN, short_shutdown]).await;
    let body = Dialect::OpenAi.body("plain");
    let answer = fixture.start_call(Dialect::OpenAi, ("plain", &body)).await;
    fixture.yield_to_worker().await;
    fixture.served.terminate();
    assert!(fixture.served.wait_exit().await.success());
    drop(answer);
    let fixture = fixture.restart().await;
    let (usage, rule) = Dialect::OpenAi.usage_after("plain", 3);
    fixture.assert_charge(usage, GPT_4O_MINI.cost(usage), rule).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_charges_the_hold_of_draining_calls() {
    for sent in [0, 1, 4] {
        let mut fixture = DisconnectFixture::new(stall_before(sent), "drain", &[LONG_DRAIN]).await;
        fixture.disconnect_after(Dialect::OpenAi, "plain", sent).await;
        let fixture = fixture.restart().await;
        fixture.assert_hold_charged(Dialect::OpenAi, "plain").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_charges_fully_reported_usage() {
    for dialect in DIALECTS {
        let reported = Arc::new(Notify::new());
        let notify = Arc::clone(&reported);
        let plan = move |seen: &ReceivedRequest| {
            let (notify, end) = (Arc::clone(&notify), dialect.usage_reported_after());
            let notify_step = Step::Notify(Arc::new(move || notify.notify_one()));
            stall_before(3)(seen)
                .insert_step(end, notify_step)
                .insert_step(end, Step::Wait(Duration::from_mins(1)))
        };
        let mut fixture = DisconnectFixture::new(plan, "drain", &[LONG_DRAIN]).await;
        fixture.disconnect_after(dialect, "plain", 3).await;
        fixture.wait_until_draining().await;
        fixture.upstream.release();
        with_deadline("the report", reported.notified()).await;
        fixture.yield_to_worker().await;
        let fixture = fixture.restart().await;
        fixture.assert_charge(USAGE, GPT_4O_MINI.cost(USAGE), "usage").await;
    }
}
