//! Calls at once: never more than the limit, and no place is ever lost, however a call ends.

use crate::harness::concurrent_load::{LoadGateway, LoadSpec, Pace, Tenants};
use crate::harness::limit_assertions::{LIMITS, Level, Limit};

const CONCURRENT_CALLS: &Limit = &LIMITS[6];

/// As many as fit wait at the provider while all others are refused; then as many fit again.
async fn expect_concurrency(scene: &LoadGateway, level: Level, fit: usize) {
    let room = fit as i128;
    let cast = Tenants::with_limit(CONCURRENT_CALLS, level, room, &scene.gateway).await;
    let all = 400;
    let held = Pace::UntilOpen(fit);
    for (stream, pace) in [(true, Pace::Ms(5)), (false, held), (false, Pace::Ms(5)), (true, held)] {
        let storm = LoadSpec { pace, ..LoadSpec::at_max_usage(all, stream, 0) };
        let outcome = scene.run(storm, &cast.limited).await;
        let what = format!("{fit} of the {}, {storm:?}", level.name());
        let refused = outcome.refused.len();
        assert!(outcome.open_max <= fit, "{} at once: {what}", outcome.open_max);
        assert_eq!(outcome.reached, outcome.served, "{what}");
        if let Pace::UntilOpen(_) = pace {
            assert_eq!((outcome.served, refused), (fit, all - fit), "{what}");
        }
        assert!(outcome.served >= fit, "{what}");
        for refusal in &outcome.refused {
            CONCURRENT_CALLS.assert_refused(level, refusal, (1, room));
        }
        for caller in &cast.limited {
            let told = caller.limit_status(level.name(), CONCURRENT_CALLS.field).await;
            let number = |name: &str| CONCURRENT_CALLS.parse_amount(&told.at(name));
            let numbers = ["limit", "used", "held", "remaining"].map(number);
            assert_eq!(numbers, [room, 0, 0, room], "{told}");
            assert!(told.at("resetAt").is_null(), "it has no window: {told}");
        }
        cast.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_reaches_but_never_exceeds_its_concurrency_limit() {
    let scene = LoadGateway::new().await;
    for fit in [1, 7, 32] {
        expect_concurrency(&scene, Level::Project, fit).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_reaches_but_never_exceeds_its_concurrency_limit() {
    let scene = LoadGateway::new().await;
    for fit in [1, 7, 32] {
        expect_concurrency(&scene, Level::Organization, fit).await;
    }
}
