//! What a call takes, and what it gives back.

use std::sync::Arc;
use std::time::Duration;

use crate::accounting::admit::AdmissionError;
use crate::accounting::directory::Caller;
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
use crate::domain::tariff::HoldPricing;
use crate::domain::time::UnixMs;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::{Entry, Outcome};

#[tokio::test]
async fn text_calls_are_not_held_at_audio_prices() {
    let scene = TestWorker::new(5_000);
    let prices = [(Unit::InputTokens, 1), (Unit::OutputTokens, 2), (Unit::OutputAudioTokens, 80)];
    let call = request(1, &model(&prices), BODY, 1_000);
    let priority = ServiceTier::new("priority").expect("short");
    let costs = HoldPricing::new(vec![Arc::clone(call.pricing.first())], priority);
    let held =
        scene.admit(AdmissionRequest { pricing: costs, ..call }).await.expect("2,057 of 5,000");
    assert_eq!((held.held.spend, held.measured.requested_tier), (Nano(2_057), priority));
    assert!(held.fingerprint.is_some(), "what the provider counts is to be learned");
}

#[tokio::test]
async fn cached_token_counts_are_kept_per_endpoint() {
    let model = unit_price_model();
    let words = "word ".repeat(2_000);
    let body = format!(r#"{{"model":"m","system":"{words}","messages":[]}}"#);
    let scene = TestWorker::new(6_000);
    let mut first = scene.admit(request(1, &model, &body, 10)).await.expect("fits once counted");
    (first.trace.forwarded, first.measured.complete) = (true, true);
    first.measured.reported = Some(Usage::from_tokens(8, 1));
    first.settle(Outcome::Completed);
    let messages =
        AdmissionRequest { endpoint: Endpoint::Messages, ..request(2, &model, &body, 10) };
    let second = scene.admit(messages).await.expect("fits once counted");
    assert!(2_000 <= second.bound.input_tokens, "{:?}", second.bound);
    drop(second);
    let again = scene.admit(request(3, &model, &body, 10)).await.expect("known");
    assert_eq!(again.bound.input_tokens, 8, "the provider's own count of the same call");
    drop(again);
    let _other = scene.admit(request(4, &model, BODY, 5_000)).await.expect("most of it");
    let fits = scene.admit(request(5, &model, &body, 10)).await;
    assert_eq!(fits.map(|held| held.bound.input_tokens), Ok(8), "our own count would not fit");
}

#[tokio::test]
async fn usage_of_secondary_models_is_charged_at_the_prices_of_the_answering_target() {
    let scene = TestWorker::new(1_000_000);
    let tariff = |nano| {
        Arc::clone(model(&[(Unit::InputTokens, nano)]).targets[0].schedule.effective_at(UnixMs(0)))
    };
    let mut there = CallPricing::new("m".into(), tariff(3));
    there.add_model("other".into(), tariff(7));
    let mut permit = scene.admit(request(1, &unit_price_model(), BODY, 43)).await.expect("fits");
    permit.set_pricing(&there);
    permit.set_forwarded(true);
    let shares = vec![ModelUsageShare { model: "other".into(), usage: Usage::from_tokens(4, 0) }];
    let reported = Some(Usage::from_tokens(10, 0));
    permit.record_usage(&UsageReading { reported, shares, ..UsageReading::default() });
    permit.measured.complete = true;
    permit.settle(Outcome::Completed);
    let Some(Entry::Settled(ended)) = scene.entries().pop() else { panic!("it was settled") };
    assert_eq!((ended.charge.cost, &*ended.price_version), (Nano(6 * 3 + 4 * 7), "v+v"));
}

#[tokio::test]
async fn a_hold_is_visible_while_the_call_is_open_and_replaced_by_its_usage() {
    let scene = TestWorker::new(1_000_000);
    let came =
        clock::monotonic_now().checked_sub(Duration::from_millis(7)).expect("the machine is up");
    let demand = AdmissionRequest { started_at: came, ..request(7, &unit_price_model(), BODY, 43) };
    let mut permit = scene.admit(demand).await.expect("fits");
    assert_eq!(
        (permit.id(), permit.held.tokens, permit.held.spend),
        (RequestLogId(7), 100, Nano(100))
    );
    assert_eq!(scene.live_state.open_holds(), (1, Nano(100)));
    assert_eq!(scene.caller.organization.held(), Nano(100));
    assert_eq!(scene.caller.organization.held_amounts(), (Nano(100), Nano(100)));
    let organizations = scene.live_state.all_organizations();
    assert_eq!(organizations.len(), 1);
    assert_eq!(organizations[0].held(), Nano(100));
    let holds = scene.caller.organization.holds();
    assert_eq!((holds.len(), holds[0].0, holds[0].1.tokens), (1, RequestLogId(7), 100));
    let standing = scene.caller.project.usage_snapshot(clock::wall_now());
    assert_eq!((standing.day.held.tokens, standing.open_calls), (100, 1));
    assert!(7_000 <= permit.elapsed_us());
    assert_eq!(permit.measured.counted_input, 1, "what it is charged if nothing is reported");

    permit.record_state_id("kept");
    permit.trace.upstream = Some("u".into());
    permit.record_progress();
    mark_answered(&mut permit, 8, 2);
    permit.settle(Outcome::Completed);
    assert_eq!((scene.settled(), scene.live_state.open_holds()), ((1, 10, 999_990), (0, Nano(0))));
    assert_eq!(scene.caller.organization.held(), Nano(0));
    assert!(scene.caller.organization.holds().is_empty());
    let keeper = |id| scene.caller.project.state_upstream(id, clock::wall_now());
    assert_eq!((keeper("kept").as_deref(), keeper("other")), (Some("u"), None));

    let entries = scene.entries();
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
    let scene = TestWorker::new(1_000_000);
    let told = |searches| Some(Usage::from_tokens(1, 1).with(Unit::WebSearches, searches));
    for (endpoint, asked, told, charged) in [
        (Endpoint::ChatCompletions, 1, told(0), 1),
        (Endpoint::ChatCompletions, 0, told(0), 0),
        (Endpoint::GenerateContent, 10, told(3), 3),
        (Endpoint::StreamGenerateContent, 0, told(3), 0),
        (Endpoint::Messages, 0, told(3), 3),
    ] {
        let pieces = UnitCounts::of(Unit::WebSearches, asked);
        let demand = AdmissionRequest {
            endpoint,
            item_units_max: pieces,
            ..request(1, &unit_price_model(), BODY, 43)
        };
        let mut permit = scene.admit(demand).await.expect("fits");
        let counted = told.map_or(0, |usage| usage.get(Unit::WebSearches));
        let counted_pieces = UnitCounts::of(Unit::WebSearches, counted);
        permit.record_usage(&UsageReading {
            reported: told,
            counted_item_units: counted_pieces,
            ..UsageReading::default()
        });
        let estimated = permit.measured.unit_counts.get(Unit::WebSearches);
        assert_eq!(estimated, charged, "{endpoint:?} {asked}, where no report is whole");
        let searches = permit.measured.reported.map(|usage| usage.get(Unit::WebSearches));
        assert_eq!(searches, Some(charged), "{endpoint:?} {asked}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_charged_counts_as_a_request_only_if_it_was_forwarded() {
    let scene = TestWorker::new(1_000);
    let admitted =
        async |id| scene.admit(request(id, &unit_price_model(), BODY, 43)).await.expect("fits");
    let released = async |permit: Permit| {
        tokio::join!(permit.release(Outcome::Failed), async { scene.context.writer.commit() });
    };
    released(admitted(1).await).await;
    assert_eq!(scene.settled(), (0, 0, 1_000));
    drop(admitted(2).await);
    assert_eq!(scene.settled(), (0, 0, 1_000), "the client left before");
    let mut failed = admitted(3).await;
    failed.set_forwarded(true);
    released(failed).await;
    assert_eq!(scene.settled(), (1, 0, 1_000));
    let mut free = admitted(4).await;
    mark_answered(&mut free, 8, 0);
    free.trace.is_free = true;
    free.settle(Outcome::Completed);
    assert_eq!(scene.settled(), (2, 0, 1_000));
    let mut left = admitted(5).await;
    left.set_forwarded(true);
    (left.measured.counted_input, left.measured.counted_output) = (9, 4);
    drop(left);
    assert_eq!(scene.settled(), (3, 13, 987), "what was counted is charged");
    let last = scene.entries().pop();
    assert!(matches!(last, Some(Entry::Settled(ended)) if ended.outcome == Outcome::Cancelled));
}

#[tokio::test]
async fn the_exceeded_limit_is_named_and_nothing_is_reserved() {
    for level in [Level::Project, Level::Key, Level::Organization] {
        let scene = TestWorker::new(1_000);
        let Caller { project, organization, .. } = &*scene.caller;
        let limits = Limits::default().with(Limit::DailyTokens, Some(20));
        let quota = Quota { limits, ..Quota::default() };
        match level {
            Level::Project => project.set_quota(quota),
            Level::Key => drop(project.set_key(ApiKeyId(3), limits, limit_state)),
            Level::Organization => organization.set_quota(quota),
        }
        let denied =
            scene.admit(request(1, &unit_price_model(), BODY, 43)).await.expect_err("20 at most");
        let AdmissionError::Limit { level: named, exceeded } = denied else { panic!("{denied:?}") };
        assert_eq!((named, exceeded.limit, exceeded.value), (level, Limit::DailyTokens, 20));
        assert_eq!(exceeded.requested, 57 + 43, "all that it might use, though less is too much");
        let standings: Vec<_> = scene.caller.limit_statuses(clock::wall_now());
        assert_eq!((standings.len(), standings[0].level, standings[0].held), (1, level, 0));
        let [requests, tokens] = scene.caller.tightest_limits(clock::wall_now());
        assert_eq!((requests, tokens.map(|room| room.remaining)), (None, Some(20)));
    }
    let scene = TestWorker::new(20);
    let denied =
        scene.admit(request(1, &unit_price_model(), BODY, 43)).await.expect_err("20 nano-units");
    assert!(matches!(denied, AdmissionError::Wallet { required: Nano(44..), .. }), "{denied:?}");
    assert_eq!(scene.live_state.open_holds(), (0, Nano(0)));
}

#[tokio::test]
async fn a_call_is_checked_closely_below_a_thousand_times_its_amounts() {
    for (balance, limit, is_near) in [
        (100_000, None, false),
        (99_999, None, true),
        (1_000_000, Some(100_000), false),
        (1_000_000, Some(99_999), true),
    ] {
        let scene = TestWorker::new(balance);
        let limits = Limits::default().with(Limit::DailyTokens, limit);
        scene.caller.project.set_quota(Quota { limits, ..Quota::default() });
        let held = scene.admit(request(1, &unit_price_model(), BODY, 43)).await.expect("fits");
        assert_eq!(held.fingerprint.is_some(), is_near, "{balance} {limit:?}");
    }
}
