//! Concurrency limits: never more open calls than the limit, and every ended call frees its slot.

use crate::harness::concurrent_load::{LoadGateway, LoadSpec, Pace, Tenants};
use crate::harness::limit_assertions::{Level, Limit, by_field};

fn concurrent_calls() -> &'static Limit {
    by_field("concurrentCallsLimit")
}

/// Asserts that exactly `fit` calls are open while the others are refused, and that all slots are
/// free again afterwards.
async fn assert_concurrency(load: &LoadGateway, level: Level, fit: usize) {
    let limit_value = fit as i128;
    let tenants = Tenants::with_limit(concurrent_calls(), level, limit_value, &load.gateway).await;
    let all = 400;
    let until_open = Pace::UntilOpen(fit);
    for (stream, pace) in
        [(true, Pace::Ms(5)), (false, until_open), (false, Pace::Ms(5)), (true, until_open)]
    {
        let spec = LoadSpec { pace, ..LoadSpec::at_max_usage(all, stream, 0) };
        let outcome = load.run(spec, &tenants.limited).await;
        let what = format!("{fit} of the {}, {spec:?}", level.name());
        let refused = outcome.refused.len();
        assert!(outcome.open_max <= fit, "{} concurrent: {what}", outcome.open_max);
        assert_eq!(outcome.reached, outcome.served, "{what}");
        if let Pace::UntilOpen(_) = pace {
            assert_eq!((outcome.served, refused), (fit, all - fit), "{what}");
        }
        assert!(outcome.served >= fit, "{what}");
        for refusal in &outcome.refused {
            concurrent_calls().assert_refused(level, refusal, (1, limit_value));
        }
        for caller in &tenants.limited {
            let status = caller.limit_status(level.name(), concurrent_calls().field).await;
            let number = |name: &str| concurrent_calls().parse_amount(&status.at(name));
            let numbers = ["limit", "used", "held", "remaining"].map(number);
            assert_eq!(numbers, [limit_value, 0, 0, limit_value], "{status}");
            assert!(status.at("resetAt").is_null(), "a concurrency limit has no window: {status}");
        }
        tenants.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_reaches_but_never_exceeds_its_concurrency_limit() {
    let load = LoadGateway::new().await;
    for fit in [1, 7, 32] {
        assert_concurrency(&load, Level::Project, fit).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_reaches_but_never_exceeds_its_concurrency_limit() {
    let load = LoadGateway::new().await;
    for fit in [1, 7, 32] {
        assert_concurrency(&load, Level::Organization, fit).await;
    }
}
