//! What a call takes, and what it gives back.

use std::sync::Arc;
use std::time::Duration;

use crate::accounting::admit::Denial;
use crate::accounting::directory::Caller;
use crate::accounting::permit::{Demand, Permit};
use crate::accounting::tests::scene::{BODY, Scene, account, answered, demand, model, plain};
use crate::clock;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::meter::Reading;
use crate::domain::ids::{ApiKeyId, RequestLogId};
use crate::domain::limit::{Level, Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::pieces::Pieces;
use crate::domain::quota::Quota;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::Costs;
use crate::domain::tariffs::{Share, Tariffs};
use crate::domain::time::UnixMs;
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::{Entry, Outcome};

#[tokio::test]
async fn a_text_is_not_refused_for_the_price_of_speech() {
    let scene = Scene::new(5_000);
    let prices = [(Unit::InputTokens, 1), (Unit::OutputTokens, 2), (Unit::OutputAudioTokens, 80)];
    let call = demand(1, &model(&prices), BODY, 1_000);
    let priority = ServiceTier::new("priority").expect("short");
    let costs = Costs::new(vec![Arc::clone(call.costs.first())], priority);
    let held = scene.admit(Demand { costs, ..call }).await.expect("2,057 of 5,000");
    assert_eq!((held.need.spend, held.measured.asked_tier), (Nano(2_057), priority));
    assert!(held.body.is_some(), "what the provider counts is to be learned");
}

#[tokio::test]
async fn what_was_learned_at_one_endpoint_is_not_believed_at_another() {
    let model = plain();
    let words = "word ".repeat(2_000);
    let body = format!(r#"{{"model":"m","system":"{words}","messages":[]}}"#);
    let scene = Scene::new(6_000);
    let mut first = scene.admit(demand(1, &model, &body, 10)).await.expect("fits once counted");
    (first.course.forwarded, first.measured.complete) = (true, true);
    first.measured.reported = Some(Usage::tokens_of(8, 1));
    first.settle(Outcome::Completed);
    let messages = Demand { endpoint: Endpoint::Messages, ..demand(2, &model, &body, 10) };
    let second = scene.admit(messages).await.expect("fits once counted");
    assert!(2_000 <= second.bound.input_tokens, "{:?}", second.bound);
    drop(second);
    let again = scene.admit(demand(3, &model, &body, 10)).await.expect("known");
    assert_eq!(again.bound.input_tokens, 8, "the provider's own count of the same call");
    drop(again);
    let _other = scene.admit(demand(4, &model, BODY, 5_000)).await.expect("most of it");
    let fits = scene.admit(demand(5, &model, &body, 10)).await;
    assert_eq!(fits.map(|held| held.bound.input_tokens), Ok(8), "our own count would not fit");
}

#[tokio::test]
async fn what_other_models_did_is_paid_by_the_prices_of_the_place_that_answered() {
    let scene = Scene::new(1_000_000);
    let tariff =
        |nano| Arc::clone(model(&[(Unit::InputTokens, nano)]).targets[0].schedule.at(UnixMs(0)));
    let mut there = Tariffs::of("m".into(), tariff(3));
    there.add("other".into(), tariff(7));
    let mut permit = scene.admit(demand(1, &plain(), BODY, 43)).await.expect("fits");
    permit.set_tariffs(&there);
    permit.set_forwarded(true);
    let shares = vec![Share { model: "other".into(), usage: Usage::tokens_of(4, 0) }];
    let reported = Some(Usage::tokens_of(10, 0));
    permit.learn(&Reading { reported, shares, ..Reading::default() });
    permit.measured.complete = true;
    permit.settle(Outcome::Completed);
    let Some(Entry::Settle(ended)) = scene.entries().pop() else { panic!("it was settled") };
    assert_eq!((ended.charge.cost, &*ended.price_version), (Nano(6 * 3 + 4 * 7), "v+v"));
}

#[tokio::test]
async fn what_a_call_holds_is_seen_while_it_is_open_and_exchanged_for_what_it_used() {
    let scene = Scene::new(1_000_000);
    let came = clock::tick().checked_sub(Duration::from_millis(7)).expect("the machine is up");
    let demand = Demand { arrived: came, ..demand(7, &plain(), BODY, 43) };
    let mut permit = scene.admit(demand).await.expect("fits");
    assert_eq!(
        (permit.id(), permit.need.tokens, permit.need.spend),
        (RequestLogId(7), 100, Nano(100))
    );
    assert_eq!(scene.books.open_holds(), (1, Nano(100)));
    assert_eq!(scene.caller.organization.frozen(), Nano(100));
    assert_eq!(scene.caller.organization.held_twice(), (Nano(100), Nano(100)));
    let organizations = scene.books.all_organizations();
    assert_eq!(organizations.len(), 1);
    assert_eq!(organizations[0].frozen(), Nano(100));
    let holds = scene.caller.organization.holds();
    assert_eq!((holds.len(), holds[0].0, holds[0].1.tokens), (1, RequestLogId(7), 100));
    let standing = scene.caller.project.standing(clock::now());
    assert_eq!((standing.day.held.tokens, standing.open_calls), (100, 1));
    assert!(7_000 <= permit.elapsed_us());
    assert_eq!(permit.measured.counted_input, 1, "what it is charged if nothing is reported");

    permit.keeps("kept");
    permit.course.upstream = Some("u".into());
    permit.progress();
    answered(&mut permit, 8, 2);
    permit.settle(Outcome::Completed);
    assert_eq!((scene.settled(), scene.books.open_holds()), ((1, 10, 999_990), (0, Nano(0))));
    assert_eq!(scene.caller.organization.frozen(), Nano(0));
    assert!(scene.caller.organization.holds().is_empty());
    let keeper = |id| scene.caller.project.keeper(id, clock::now());
    assert_eq!((keeper("kept").as_deref(), keeper("other")), (Some("u"), None));

    let entries = scene.entries();
    let [Entry::Hold(hold), Entry::Progress(progress), Entry::Settle(ended)] = &*entries else {
        panic!("{entries:?}")
    };
    assert_eq!(
        (hold.amount, hold.bound.output_tokens, progress.id),
        (Nano(100), 43, hold.asked.id)
    );
    assert_eq!((ended.id, ended.whose, ended.counted), (hold.asked.id, hold.whose(), true));
    assert_eq!((ended.charge.cost, ended.outcome), (Nano(10), Outcome::Completed));
    assert_eq!((&*ended.upstream, ended.kept_id.as_deref()), ("u", Some("kept")));
    assert!(!ended.output_clamped && 7_000 <= ended.duration_us);
}

#[tokio::test]
async fn searches_are_believed_as_they_were_asked_for() {
    let scene = Scene::new(1_000_000);
    let told = |searches| Some(Usage::tokens_of(1, 1).with(Unit::WebSearches, searches));
    for (endpoint, asked, told, charged) in [
        (Endpoint::ChatCompletions, 1, told(0), 1),
        (Endpoint::ChatCompletions, 0, told(0), 0),
        (Endpoint::GenerateContent, 10, told(3), 3),
        (Endpoint::StreamGenerateContent, 0, told(3), 0),
        (Endpoint::Messages, 0, told(3), 3),
    ] {
        let pieces = Pieces { web_searches: asked, ..Pieces::default() };
        let demand = Demand { endpoint, pieces, ..demand(1, &plain(), BODY, 43) };
        let mut permit = scene.admit(demand).await.expect("fits");
        let counted = told.map_or(0, |usage| usage.get(Unit::WebSearches));
        let counted_pieces = Pieces { web_searches: counted, ..Pieces::default() };
        permit.learn(&Reading { reported: told, counted_pieces, ..Reading::default() });
        let estimated = permit.measured.pieces.web_searches;
        assert_eq!(estimated, charged, "{endpoint:?} {asked}, where no report is whole");
        let searches = permit.measured.reported.map(|usage| usage.get(Unit::WebSearches));
        assert_eq!(searches, Some(charged), "{endpoint:?} {asked}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_charged_counts_as_a_request_only_if_it_was_forwarded() {
    let scene = Scene::new(1_000);
    let admitted = async |id| scene.admit(demand(id, &plain(), BODY, 43)).await.expect("fits");
    let released = async |permit: Permit| {
        tokio::join!(permit.release(Outcome::Failed), async { scene.desk.writer.commit() });
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
    answered(&mut free, 8, 0);
    free.course.is_free = true;
    free.settle(Outcome::Completed);
    assert_eq!(scene.settled(), (2, 0, 1_000));
    let mut left = admitted(5).await;
    left.set_forwarded(true);
    (left.measured.counted_input, left.measured.counted_output) = (9, 4);
    drop(left);
    assert_eq!(scene.settled(), (3, 13, 987), "what was counted is charged");
    let last = scene.entries().pop();
    assert!(matches!(last, Some(Entry::Settle(ended)) if ended.outcome == Outcome::Cancelled));
}

#[tokio::test]
async fn who_is_in_the_way_is_named_and_nothing_is_moved() {
    for level in [Level::Project, Level::Key, Level::Organization] {
        let scene = Scene::new(1_000);
        let Caller { project, organization, .. } = &*scene.caller;
        let limits = Limits::default().with(Limit::DailyTokens, Some(20));
        let quota = Quota { limits, ..Quota::default() };
        match level {
            Level::Project => project.set_quota(quota),
            Level::Key => drop(project.set_key(ApiKeyId(3), limits, account)),
            Level::Organization => organization.set_quota(quota),
        }
        let denied = scene.admit(demand(1, &plain(), BODY, 43)).await.expect_err("20 at most");
        let Denial::Limit { level: named, exceeded } = denied else { panic!("{denied:?}") };
        assert_eq!((named, exceeded.limit, exceeded.value), (level, Limit::DailyTokens, 20));
        assert_eq!(exceeded.requested, 57 + 43, "all that it might use, though less is too much");
        let standings: Vec<_> = scene.caller.standings(clock::now());
        assert_eq!((standings.len(), standings[0].level, standings[0].held), (1, level, 0));
        let [requests, tokens] = scene.caller.rooms(clock::now());
        assert_eq!((requests, tokens.map(|room| room.remaining)), (None, Some(20)));
    }
    let scene = Scene::new(20);
    let denied = scene.admit(demand(1, &plain(), BODY, 43)).await.expect_err("20 nano-units");
    assert!(matches!(denied, Denial::Wallet { required: Nano(44..), .. }), "{denied:?}");
    assert_eq!(scene.books.open_holds(), (0, Nano(0)));
}

#[tokio::test]
async fn a_call_is_looked_at_closely_where_less_is_left_than_a_thousand_times_its_need() {
    for (balance, limit, is_near) in [
        (100_000, None, false),
        (99_999, None, true),
        (1_000_000, Some(100_000), false),
        (1_000_000, Some(99_999), true),
    ] {
        let scene = Scene::new(balance);
        let limits = Limits::default().with(Limit::DailyTokens, limit);
        scene.caller.project.set_quota(Quota { limits, ..Quota::default() });
        let held = scene.admit(demand(1, &plain(), BODY, 43)).await.expect("fits");
        assert_eq!(held.body.is_some(), is_near, "{balance} {limit:?}");
    }
}
