//! Limits that are lifted, lowered and raised under calls: open ones are honoured, new ones obey.

use crate::client::Answer;
use crate::served::Place;
use crate::stage::Stage;
use crate::storm::early_in_a_minute;
use crate::tenant::Tenant;
use crate::told::{LIMITS, Level, Limit, Measure, OF_KEYS, Told};
use crate::wait::eventually;

const FUNDS: i128 = 1_000_000_000;

async fn stage() -> Stage {
    Stage::new(FUNDS, "{}", Place::new).await
}

/// Each of these limits at 0, and whether they are enforced.
fn zeros(limits: impl Iterator<Item = &'static Limit>, enforced: bool) -> String {
    let each = limits.map(|limit| format!(r#""{}":0,"#, limit.field));
    format!(r#"{{{}"enforceQuota":{enforced}}}"#, each.collect::<String>())
}

async fn one(tenant: &Tenant) -> Told {
    tenant.told("plain", 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_not_enforced_lifts_project_and_key_but_not_organization_or_wallet() {
    let stage = stage().await;
    let mut tenant = stage.tenant.clone();
    let limits = OF_KEYS.map(|field| format!(r#""{field}":0"#)).join(",");
    let body = format!(r#"{{"name":"blocked",{limits}}}"#);
    tenant.key = tenant.new_key(&stage.served, &body).await;
    for (enforced, status) in [(true, 429), (false, 200), (true, 429), (false, 200)] {
        tenant.quota(&zeros(LIMITS.iter(), enforced)).await;
        let told = one(&tenant).await;
        assert_eq!(told.status, status, "enforced: {enforced}: {told:?}");
        for (level, limit) in
            [("project", &LIMITS[6]), ("project", &LIMITS[0]), ("key", &LIMITS[4])]
        {
            let told = tenant.told_limit(level, limit.field).await;
            assert_eq!(told.at("enforced").is_true(), enforced, "{told}");
        }
    }
    let usage = tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.requestCount").count(), 2, "it is counted: {usage}");

    for limit in &LIMITS {
        tenant.organization_quota(&zeros([limit].into_iter(), true)).await;
        let error = one(&tenant).await.is(429, &[limit.code]);
        assert_eq!(error.at("limit.level").text(), "organization", "{error}");
    }
    tenant.organization_quota(&zeros(LIMITS.iter(), false)).await;
    assert_eq!(one(&tenant).await.status, 200, "an organization's quota may only count as well");

    let poor = tenant.found(&stage.served, 0, r#"{"enforceQuota":false}"#).await;
    one(&poor).await.is(402, &["insufficient_balance"]);
    poor.organization_quota(r#"{"enforceQuota":false}"#).await;
    one(&poor).await.is(402, &["insufficient_balance"]);
    tenant.at_rest().await;
    poor.at_rest().await;
}

async fn open(tenant: &Tenant, calls: usize) -> Vec<Answer> {
    let mut open = Vec::new();
    for _ in 0..calls {
        open.push(tenant.begun(20).await);
    }
    open
}

async fn ends(answer: Option<Answer>) {
    assert!(answer.expect("an open call").rest().await.1, "an open call is honoured");
}

/// Sets a limit of the project or of the organization.
async fn set(tenant: &Tenant, level: Level, quota: &str) {
    match level {
        Level::Organization => tenant.organization_quota(quota).await,
        _ => tenant.quota(quota).await,
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_limit_of_calls_at_once_lets_open_ones_end_and_none_in_before() {
    let stage = stage().await;
    for level in [Level::Project, Level::Organization] {
        let tenant = stage.tenant.found(&stage.served, FUNDS, "{}").await;
        set(&tenant, level, &LIMITS[6].quota(4)).await;
        let mut four = open(&tenant, 4).await;
        set(&tenant, level, &LIMITS[6].quota(2)).await;
        // Each leaves at another moment, as its client does.
        for still in [3_u64, 2] {
            one(&tenant).await.is(429, &[LIMITS[6].code]);
            let told = tenant.told_limit(level.name(), LIMITS[6].field).await;
            assert_eq!((told.at("held").count(), told.at("remaining").count()), (still + 1, 0));
            drop(four.pop());
            is_open(&tenant, still).await;
        }
        let told = one(&tenant).await;
        LIMITS[6].refused(level, &told, (1, 2));
        drop(four.pop());
        is_open(&tenant, 1).await;
        assert_eq!(one(&tenant).await.status, 200, "one fits beside the last");
        stage.upstream.release();
        ends(four.pop()).await;
        stage.upstream.hold();
        tenant.at_rest().await;
    }
}

/// Waits until so many calls of the project are open.
async fn is_open(tenant: &Tenant, calls: u64) {
    eventually(&format!("{calls} calls are open"), async || {
        let usage = tenant.usage().await;
        (usage.at("dailyUsage.heldRequests").count() == calls).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_lowered_under_open_calls_counts_what_they_hold_and_then_used() {
    let stage = stage().await;
    for level in [Level::Project, Level::Organization] {
        for limit in LIMITS.iter().filter(|limit| limit.measure == Measure::Requests) {
            early_in_a_minute().await;
            lowered(&stage, limit, level).await;
        }
    }
}

async fn lowered(stage: &Stage, limit: &Limit, level: Level) {
    let tenant = stage.tenant.found(&stage.served, FUNDS, "{}").await;
    set(&tenant, level, &limit.quota(9)).await;
    let mut three = open(&tenant, 3).await;
    for (value, status) in [(2, 429), (3, 429), (4, 200), (4, 429), (0, 429)] {
        set(&tenant, level, &limit.quota(value)).await;
        assert_eq!(one(&tenant).await.status, status, "{} of {value}", limit.field);
    }
    let told = tenant.told_limit(level.name(), limit.field).await;
    assert_eq!((told.at("used").count(), told.at("held").count()), (1, 3), "{told}");
    stage.upstream.release();
    for _ in 0..3 {
        ends(three.pop()).await;
    }
    stage.upstream.hold();
    let told = tenant.told_limit(level.name(), limit.field).await;
    assert_eq!((told.at("used").count(), told.at("held").count()), (4, 0), "{told}");
    for (value, status) in [(3, 429), (4, 429), (5, 200), (5, 429)] {
        set(&tenant, level, &limit.quota(value)).await;
        assert_eq!(one(&tenant).await.status, status, "{} of {value}", limit.field);
    }
    tenant.at_rest().await;
}
