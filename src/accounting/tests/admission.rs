//! What an admitted call holds, and what its end returns and charges.

use std::sync::Arc;
use std::time::Duration;

use crate::accounting::admit::AdmissionError;
use crate::accounting::key_directory::Caller;
use crate::accounting::permit::{AdmissionRequest, Permit};
use crate::accounting::tests::test_node::{
    BODY, TestWorker, limit_state, mark_answered, model, request, unit_price_model,
};
use crate::clock;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::stream_meter::UsageReading;
use crate::domain::call_pricing::{CallPricing, ModelUsageShare};
use crate::domain::ids::{ApiKeyId, RequestLogId};
use crate::domain::limit::{Level, Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::service_tier::ServiceTier;
use crate::domain::status::Outcome;
use crate::domain::tariff::HoldPricing;
use crate::domain::time::UnixMs;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::Entry;

#[tokio::test]
async fn text_calls_are_not_held_at_audio_prices() {
    let worker = TestWorker::new(5_000);
    let prices = [(Unit::InputTokens, 1), (Unit::OutputTokens, 2), (Unit::OutputAudioTokens, 80)];
    let call = request(1, &model(&prices), BODY, 1_000);
    let priority = ServiceTier::new("priority").expect("short");
    let pricing = HoldPricing::new(vec![Arc::clone(call.pricing.first())], priority);
    let held = worker.admit(AdmissionRequest { pricing, ..call }).await.expect("2,057 of 5,000");
    assert_eq!((held.held.spend, held.measured.requested_tier), (Nano(2_057), priority));
    assert!(held.fingerprint.is_some(), "the provider's count will be cached");
}

#[tokio::test]
async fn cached_token_counts_are_separate_per_endpoint() {
    let model = unit_price_model();
    let words = "word ".repeat(2_000);
    let body = format!(r#"{{"model":"m","system":"{words}","messages":[]}}"#);
    let worker = TestWorker::new(6_000);
    let mut first = worker.admit(request(1, &model, &body, 10)).await.expect("fits once counted");
    (first.trace.forwarded, first.measured.complete) = (true, true);
    first.measured.reported = Some(Usage::from_tokens(8, 1));
    first.settle(Outcome::Completed);
    let messages =
        AdmissionRequest { endpoint: Endpoint::Messages, ..request(2, &model, &body, 10) };
    let second = worker.admit(messages).await.expect("fits once counted");
    assert!(2_000 <= second.bound.input_tokens, "{:?}", second.bound);
    drop(second);
    let again = worker.admit(request(3, &model, &body, 10)).await.expect("cached");
    assert_eq!(
        again.bound.input_tokens, 8,
        "the count that the provider reported for the same call"
    );
    drop(again);
    let _other =
        worker.admit(request(4, &model, BODY, 5_000)).await.expect("a large part of the balance");
    let fits = worker.admit(request(5, &model, &body, 10)).await;
    assert_eq!(
        fits.map(|held| held.bound.input_tokens),
        Ok(8),
        "the count of the gateway would not fit"
    );
}

#[tokio::test]
async fn usage_of_secondary_models_is_charged_at_the_prices_of_the_answering_target() {
    let worker = TestWorker::new(1_000_000);
    let tariff = |nano| {
        Arc::clone(model(&[(Unit::InputTokens, nano)]).targets[0].schedule.effective_at(UnixMs(0)))
    };
    let mut pricing = CallPricing::new("m".into(), tariff(3));
    pricing.add_model("other".into(), tariff(7));
    let mut permit = worker.admit(request(1, &unit_price_model(), BODY, 43)).await.expect("fits");
    permit.set_pricing(&pricing);
    permit.set_forwarded(true);
    let shares = vec![ModelUsageShare { model: "other".into(), usage: Usage::from_tokens(4, 0) }];
    let reported = Some(Usage::from_tokens(10, 0));
    permit.record_usage(&UsageReading { reported, shares, ..UsageReading::default() });
    permit.measured.complete = true;
    permit.settle(Outcome::Completed);
    let Some(Entry::Settled(ended)) = worker.entries().pop() else { panic!("it was settled") };
    assert_eq!((ended.charge.cost, &*ended.price_version), (Nano(6 * 3 + 4 * 7), "v+v"));
}

#[tokio::test]
async fn a_hold_is_visible_while_the_call_is_open_and_replaced_by_its_usage() {
    let worker = TestWorker::new(1_000_000);
    let started_at =
        clock::monotonic_now().checked_sub(Duration::from_millis(7)).expect("the machine is up");
    let admission = AdmissionRequest { started_at, ..request(7, &unit_price_model(), BODY, 43) };
    let mut permit = worker.admit(admission).await.expect("fits");
    assert_eq!(
        (permit.id(), permit.held.tokens, permit.held.spend),
        (RequestLogId(7), 100, Nano(100))
    );
    assert_eq!(worker.live_state.open_holds(), (1, Nano(100)));
    assert_eq!(worker.caller.organization.held(), Nano(100));
    assert_eq!(worker.caller.organization.held_amounts(), (Nano(100), Nano(100)));
    let organizations = worker.live_state.all_organizations();
    assert_eq!(organizations.len(), 1);
    assert_eq!(organizations[0].held(), Nano(100));
    let holds = worker.caller.organization.holds();
    assert_eq!((holds.len(), holds[0].0, holds[0].1.tokens), (1, RequestLogId(7), 100));
    let usage = worker.caller.project.usage_snapshot(clock::wall_now());
    assert_eq!((usage.day.held.tokens, usage.open_calls), (100, 1));
    assert!(7_000 <= permit.elapsed_us());
    assert_eq!(permit.measured.counted_input, 1, "the charge if nothing is reported");

    permit.record_state_id("kept");
    permit.trace.upstream = Some("u".into());
    permit.record_progress();
    mark_answered(&mut permit, 8, 2);
    permit.settle(Outcome::Completed);
    assert_eq!(
        (worker.settled(), worker.live_state.open_holds()),
        ((1, 10, 999_990), (0, Nano(0)))
    );
    assert_eq!(worker.caller.organization.held(), Nano(0));
    assert!(worker.caller.organization.holds().is_empty());
    let state_upstream = |id| worker.caller.project.state_upstream(id, clock::wall_now());
    assert_eq!((state_upstream("kept").as_deref(), state_upstream("other")), (Some("u"), None));

    let entries = worker.entries();
    let [Entry::Hold(hold), Entry::Progress(progress), Entry::Settled(ended)] = &*entries else {
        panic!("{entries:?}")
    };
    assert_eq!(
        (hold.amount, hold.bound.output_tokens, progress.id),
        (Nano(100), 43, hold.header.id)
    );
    assert_eq!((ended.id, ended.owner, ended.counted), (hold.header.id, hold.owner(), true));
    assert_eq!((ended.charge.cost, ended.outcome), (Nano(10), Outcome::Completed));
    assert_eq!((&*ended.upstream, ended.state_id.as_deref()), ("u", Some("kept")));
    assert!(!ended.output_clamped && 7_000 <= ended.duration_us);
}

#[tokio::test]
async fn searches_are_billed_as_each_endpoint_reports_them() {
    let worker = TestWorker::new(1_000_000);
    let reported = |searches| Some(Usage::from_tokens(1, 1).with(Unit::WebSearches, searches));
    for (endpoint, requested, reported, charged) in [
        (Endpoint::ChatCompletions, 1, reported(0), 1),
        (Endpoint::ChatCompletions, 0, reported(0), 0),
        (Endpoint::GenerateContent, 10, reported(3), 3),
        (Endpoint::StreamGenerateContent, 0, reported(3), 0),
        (Endpoint::Messages, 0, reported(3), 3),
    ] {
        let item_units_max = UnitCounts::of(Unit::WebSearches, requested);
        let admission = AdmissionRequest {
            endpoint,
            item_units_max,
            ..request(1, &unit_price_model(), BODY, 43)
        };
        let mut permit = worker.admit(admission).await.expect("fits");
        let counted = reported.map_or(0, |usage| usage.get(Unit::WebSearches));
        let counted_item_units = UnitCounts::of(Unit::WebSearches, counted);
        permit.record_usage(&UsageReading {
            reported,
            counted_item_units,
            ..UsageReading::default()
        });
        let estimated = permit.measured.unit_counts.get(Unit::WebSearches);
        assert_eq!(estimated, charged, "{endpoint:?} {requested}, without a complete report");
        let searches = permit.measured.reported.map(|usage| usage.get(Unit::WebSearches));
        assert_eq!(searches, Some(charged), "{endpoint:?} {requested}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_charged_counts_as_a_request_only_if_it_was_forwarded() {
    let worker = TestWorker::new(1_000);
    let admitted =
        async |id| worker.admit(request(id, &unit_price_model(), BODY, 43)).await.expect("fits");
    let released = async |permit: Permit| {
        tokio::join!(permit.release(Outcome::Failed), async { worker.context.writer.commit() });
    };
    released(admitted(1).await).await;
    assert_eq!(worker.settled(), (0, 0, 1_000));
    drop(admitted(2).await);
    assert_eq!(worker.settled(), (0, 0, 1_000), "the client disconnected before");
    let mut failed = admitted(3).await;
    failed.set_forwarded(true);
    released(failed).await;
    assert_eq!(worker.settled(), (1, 0, 1_000));
    let mut free = admitted(4).await;
    mark_answered(&mut free, 8, 0);
    free.trace.is_free = true;
    free.settle(Outcome::Completed);
    assert_eq!(worker.settled(), (2, 0, 1_000));
    let mut disconnected = admitted(5).await;
    disconnected.set_forwarded(true);
    (disconnected.measured.counted_input, disconnected.measured.counted_output) = (9, 4);
    drop(disconnected);
    assert_eq!(worker.settled(), (3, 13, 987), "counted usage is charged");
    let last = worker.entries().pop();
    assert!(matches!(last, Some(Entry::Settled(ended)) if ended.outcome == Outcome::Cancelled));
}

#[tokio::test]
async fn the_exceeded_limit_is_named_and_nothing_is_reserved() {
    for level in [Level::Project, Level::Key, Level::Organization] {
        let worker = TestWorker::new(1_000);
        let Caller { project, organization, .. } = &*worker.caller;
        let limits = Limits::default().with(Limit::DailyTokens, Some(20));
        let quota = Quota { limits, ..Quota::default() };
        match level {
            Level::Project => project.set_quota(quota),
            Level::Key => drop(project.set_key(ApiKeyId(3), limits, limit_state)),
            Level::Organization => organization.set_quota(quota),
        }
        let error =
            worker.admit(request(1, &unit_price_model(), BODY, 43)).await.expect_err("20 at most");
        let AdmissionError::Limit { level: exceeded_level, exceeded } = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            (exceeded_level, exceeded.limit, exceeded.value),
            (level, Limit::DailyTokens, 20)
        );
        assert_eq!(
            exceeded.requested,
            57 + 43,
            "the maximum is reported, although less would not fit either"
        );
        let statuses: Vec<_> = worker.caller.limit_statuses(clock::wall_now());
        assert_eq!((statuses.len(), statuses[0].level, statuses[0].held), (1, level, 0));
        let [requests, tokens] = worker.caller.tightest_limits(clock::wall_now());
        assert_eq!((requests, tokens.map(|headroom| headroom.remaining)), (None, Some(20)));
    }
    let worker = TestWorker::new(20);
    let error =
        worker.admit(request(1, &unit_price_model(), BODY, 43)).await.expect_err("20 nano-units");
    assert!(matches!(error, AdmissionError::Wallet { required: Nano(44..), .. }), "{error:?}");
    assert_eq!(worker.live_state.open_holds(), (0, Nano(0)));
}

#[tokio::test]
async fn a_call_is_checked_closely_below_a_thousand_times_its_amounts() {
    for (balance, limit, is_near) in [
        (100_000, None, false),
        (99_999, None, true),
        (1_000_000, Some(100_000), false),
        (1_000_000, Some(99_999), true),
    ] {
        let worker = TestWorker::new(balance);
        let limits = Limits::default().with(Limit::DailyTokens, limit);
        worker.caller.project.set_quota(Quota { limits, ..Quota::default() });
        let held = worker.admit(request(1, &unit_price_model(), BODY, 43)).await.expect("fits");
        assert_eq!(held.fingerprint.is_some(), is_near, "{balance} {limit:?}");
    }
}
