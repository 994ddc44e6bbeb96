//! Limits that are lifted, lowered and raised under calls: open ones are honoured, new ones obey.

use crate::harness::client::Response;
use crate::harness::concurrent_load::wait_for_early_minute;
use crate::harness::limit_assertions::{
    FullResponse, KEY_LIMIT_FIELDS, LIMITS, Level, Limit, Measure,
};
use crate::harness::scenario_upstream::ScenarioGateway;
use crate::harness::serve::Place;
use crate::harness::tenant::Tenant;
use crate::harness::wait::eventually;

const FUNDS: i128 = 1_000_000_000;

async fn start_gateway() -> ScenarioGateway {
    ScenarioGateway::new(FUNDS, "{}", Place::new).await
}

/// Each of these limits at 0, and whether they are enforced.
fn zero_limits(limits: impl Iterator<Item = &'static Limit>, enforced: bool) -> String {
    let each = limits.map(|limit| format!(r#""{}":0,"#, limit.field));
    format!(r#"{{{}"enforceQuota":{enforced}}}"#, each.collect::<String>())
}

async fn plain_call(tenant: &Tenant) -> FullResponse {
    tenant.call_to_end("plain", 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn disabling_enforcement_lifts_project_and_key_limits_only() {
    let stage = start_gateway().await;
    let mut tenant = stage.tenant.clone();
    let limits = KEY_LIMIT_FIELDS.map(|field| format!(r#""{field}":0"#)).join(",");
    let body = format!(r#"{{"name":"blocked",{limits}}}"#);
    tenant.key = tenant.create_key(&stage.server, &body).await;
    for (enforced, status) in [(true, 429), (false, 200), (true, 429), (false, 200)] {
        tenant.set_quota(&zero_limits(LIMITS.iter(), enforced)).await;
        let told = plain_call(&tenant).await;
        assert_eq!(told.status, status, "enforced: {enforced}: {told:?}");
        for (level, limit) in
            [("project", &LIMITS[6]), ("project", &LIMITS[0]), ("key", &LIMITS[4])]
        {
            let told = tenant.limit_status(level, limit.field).await;
            assert_eq!(told.at("enforced").is_true(), enforced, "{told}");
        }
    }
    let usage = tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.requestCount").count(), 2, "it is counted: {usage}");

    for limit in &LIMITS {
        tenant.set_organization_quota(&zero_limits([limit].into_iter(), true)).await;
        let error = plain_call(&tenant).await.assert_error(429, &[limit.code]);
        assert_eq!(error.at("limit.level").text(), "organization", "{error}");
    }
    tenant.set_organization_quota(&zero_limits(LIMITS.iter(), false)).await;
    assert_eq!(
        plain_call(&tenant).await.status,
        200,
        "an organization's quota may only count as well"
    );

    let poor = tenant.create_tenant(&stage.server, 0, r#"{"enforceQuota":false}"#).await;
    plain_call(&poor).await.assert_error(402, &["insufficient_balance"]);
    poor.set_organization_quota(r#"{"enforceQuota":false}"#).await;
    plain_call(&poor).await.assert_error(402, &["insufficient_balance"]);
    tenant.assert_settled().await;
    poor.assert_settled().await;
}

async fn open_streams(tenant: &Tenant, calls: usize) -> Vec<Response> {
    let mut open = Vec::new();
    for _ in 0..calls {
        open.push(tenant.open_stream(20).await);
    }
    open
}

async fn assert_completes(answer: Option<Response>) {
    assert!(answer.expect("an open call").read_to_end().await.1, "an open call is honoured");
}

/// Sets a limit of the project or of the organization.
async fn set_quota_at(tenant: &Tenant, level: Level, quota: &str) {
    match level {
        Level::Organization => tenant.set_organization_quota(quota).await,
        _ => tenant.set_quota(quota).await,
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_concurrency_limit_applies_to_new_calls_only() {
    let stage = start_gateway().await;
    for level in [Level::Project, Level::Organization] {
        let tenant = stage.tenant.create_tenant(&stage.server, FUNDS, "{}").await;
        set_quota_at(&tenant, level, &LIMITS[6].quota_json(4)).await;
        let mut four = open_streams(&tenant, 4).await;
        set_quota_at(&tenant, level, &LIMITS[6].quota_json(2)).await;
        // Each leaves at another moment, as its client does.
        for still in [3_u64, 2] {
            plain_call(&tenant).await.assert_error(429, &[LIMITS[6].code]);
            let told = tenant.limit_status(level.name(), LIMITS[6].field).await;
            assert_eq!((told.at("held").count(), told.at("remaining").count()), (still + 1, 0));
            drop(four.pop());
            wait_for_open_calls(&tenant, still).await;
        }
        let told = plain_call(&tenant).await;
        LIMITS[6].assert_refused(level, &told, (1, 2));
        drop(four.pop());
        wait_for_open_calls(&tenant, 1).await;
        assert_eq!(plain_call(&tenant).await.status, 200, "one fits beside the last");
        stage.upstream.release();
        assert_completes(four.pop()).await;
        stage.upstream.stall_again();
        tenant.assert_settled().await;
    }
}

/// Waits until so many calls of the project are open.
async fn wait_for_open_calls(tenant: &Tenant, calls: u64) {
    eventually(&format!("{calls} calls are open"), async || {
        let usage = tenant.usage().await;
        (usage.at("dailyUsage.heldRequests").count() == calls).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_request_limit_counts_holds_then_usage() {
    let stage = start_gateway().await;
    for level in [Level::Project, Level::Organization] {
        for limit in LIMITS.iter().filter(|limit| limit.measure == Measure::Requests) {
            wait_for_early_minute().await;
            lower_limit_under_open_calls(&stage, limit, level).await;
        }
    }
}

async fn lower_limit_under_open_calls(stage: &ScenarioGateway, limit: &Limit, level: Level) {
    let tenant = stage.tenant.create_tenant(&stage.server, FUNDS, "{}").await;
    set_quota_at(&tenant, level, &limit.quota_json(9)).await;
    let mut three = open_streams(&tenant, 3).await;
    for (value, status) in [(2, 429), (3, 429), (4, 200), (4, 429), (0, 429)] {
        set_quota_at(&tenant, level, &limit.quota_json(value)).await;
        assert_eq!(plain_call(&tenant).await.status, status, "{} of {value}", limit.field);
    }
    let told = tenant.limit_status(level.name(), limit.field).await;
    assert_eq!((told.at("used").count(), told.at("held").count()), (1, 3), "{told}");
    stage.upstream.release();
    for _ in 0..3 {
        assert_completes(three.pop()).await;
    }
    stage.upstream.stall_again();
    let told = tenant.limit_status(level.name(), limit.field).await;
    assert_eq!((told.at("used").count(), told.at("held").count()), (4, 0), "{told}");
    for (value, status) in [(3, 429), (4, 429), (5, 200), (5, 429)] {
        set_quota_at(&tenant, level, &limit.quota_json(value)).await;
        assert_eq!(plain_call(&tenant).await.status, status, "{} of {value}", limit.field);
    }
    tenant.assert_settled().await;
}
