//! Limit changes during open calls: open calls finish, new calls follow the new limit.

use crate::harness::client::Response;
use crate::harness::concurrent_load::wait_for_early_minute;
use crate::harness::limit_assertions::{
    FullResponse, KEY_LIMIT_FIELDS, LIMITS, Level, Limit, Measure, by_field,
};
use crate::harness::scenario_upstream::ScenarioGateway;
use crate::harness::serve::ConfigDir;
use crate::harness::tenant::Tenant;
use crate::harness::wait::eventually;

const FUNDS: i128 = 1_000_000_000;

async fn start_gateway() -> ScenarioGateway {
    ScenarioGateway::new(FUNDS, "{}", ConfigDir::new).await
}

/// A quota with each of these limits at 0, enforced or not.
fn zero_limits(limits: impl Iterator<Item = &'static Limit>, enforced: bool) -> String {
    let each = limits.map(|limit| format!(r#""{}":0,"#, limit.field));
    format!(r#"{{{}"enforceQuota":{enforced}}}"#, each.collect::<String>())
}

async fn plain_call(tenant: &Tenant) -> FullResponse {
    tenant.call_to_end("plain", 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn disabling_enforcement_lifts_project_and_key_limits_only() {
    let gateway = start_gateway().await;
    let mut tenant = gateway.tenant.clone();
    let limits = KEY_LIMIT_FIELDS.map(|field| format!(r#""{field}":0"#)).join(",");
    let body = format!(r#"{{"name":"blocked",{limits}}}"#);
    tenant.key = tenant.create_key(&gateway.server, &body).await;
    for (enforced, status) in [(true, 429), (false, 200), (true, 429), (false, 200)] {
        tenant.set_quota(&zero_limits(LIMITS.iter(), enforced)).await;
        let response = plain_call(&tenant).await;
        assert_eq!(response.status, status, "enforced: {enforced}: {response:?}");
        for (level, field) in [
            ("project", "concurrentCallsLimit"),
            ("project", "dailyRequestLimit"),
            ("key", "requestsPerMinuteLimit"),
        ] {
            let reported = tenant.limit_status(level, field).await;
            assert_eq!(reported.at("enforced").is_true(), enforced, "{reported}");
        }
    }
    let usage = tenant.usage().await;
    assert_eq!(
        usage.at("dailyUsage.requestCount").count(),
        2,
        "unenforced usage is counted: {usage}"
    );

    for limit in &LIMITS {
        tenant.set_organization_quota(&zero_limits([limit].into_iter(), true)).await;
        let error = plain_call(&tenant).await.assert_error(429, &[limit.code]);
        assert_eq!(error.at("limit.level").text(), "organization", "{error}");
    }
    tenant.set_organization_quota(&zero_limits(LIMITS.iter(), false)).await;
    assert_eq!(
        plain_call(&tenant).await.status,
        200,
        "the organization's enforcement can be disabled, too"
    );

    let poor = tenant.create_tenant(&gateway.server, 0, r#"{"enforceQuota":false}"#).await;
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

async fn assert_completes(response: Option<Response>) {
    assert!(response.expect("an open call").read_to_end().await.1, "an open call completes");
}

/// Sets the quota of the project or of the organization.
async fn set_quota_at(tenant: &Tenant, level: Level, quota: &str) {
    match level {
        Level::Organization => tenant.set_organization_quota(quota).await,
        _ => tenant.set_quota(quota).await,
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_concurrency_limit_applies_to_new_calls_only() {
    let gateway = start_gateway().await;
    let concurrent_calls = by_field("concurrentCallsLimit");
    for level in [Level::Project, Level::Organization] {
        let tenant = gateway.tenant.create_tenant(&gateway.server, FUNDS, "{}").await;
        set_quota_at(&tenant, level, &concurrent_calls.quota_json(4)).await;
        let mut open_calls = open_streams(&tenant, 4).await;
        set_quota_at(&tenant, level, &concurrent_calls.quota_json(2)).await;
        // Close the open calls one by one.
        for open_before in [3_u64, 2] {
            plain_call(&tenant).await.assert_error(429, &[concurrent_calls.code]);
            let reported = tenant.limit_status(level.name(), concurrent_calls.field).await;
            assert_eq!(
                (reported.at("held").count(), reported.at("remaining").count()),
                (open_before + 1, 0)
            );
            drop(open_calls.pop());
            wait_for_open_calls(&tenant, open_before).await;
        }
        let refusal = plain_call(&tenant).await;
        concurrent_calls.assert_refused(level, &refusal, (1, 2));
        drop(open_calls.pop());
        wait_for_open_calls(&tenant, 1).await;
        assert_eq!(
            plain_call(&tenant).await.status,
            200,
            "one call fits next to the last open one"
        );
        gateway.upstream.release();
        assert_completes(open_calls.pop()).await;
        gateway.upstream.stall_again();
        tenant.assert_settled().await;
    }
}

/// Waits until this many calls of the project are open.
async fn wait_for_open_calls(tenant: &Tenant, calls: u64) {
    eventually(&format!("{calls} calls are open"), async || {
        let usage = tenant.usage().await;
        (usage.at("dailyUsage.heldRequests").count() == calls).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_request_limit_counts_holds_then_usage() {
    let gateway = start_gateway().await;
    for level in [Level::Project, Level::Organization] {
        for limit in LIMITS.iter().filter(|limit| limit.measure == Measure::Requests) {
            wait_for_early_minute().await;
            lower_limit_under_open_calls(&gateway, limit, level).await;
        }
    }
}

async fn lower_limit_under_open_calls(gateway: &ScenarioGateway, limit: &Limit, level: Level) {
    let tenant = gateway.tenant.create_tenant(&gateway.server, FUNDS, "{}").await;
    set_quota_at(&tenant, level, &limit.quota_json(9)).await;
    let mut open_calls = open_streams(&tenant, 3).await;
    for (value, status) in [(2, 429), (3, 429), (4, 200), (4, 429), (0, 429)] {
        set_quota_at(&tenant, level, &limit.quota_json(value)).await;
        assert_eq!(plain_call(&tenant).await.status, status, "{} of {value}", limit.field);
    }
    let reported = tenant.limit_status(level.name(), limit.field).await;
    assert_eq!((reported.at("used").count(), reported.at("held").count()), (1, 3), "{reported}");
    gateway.upstream.release();
    for _ in 0..3 {
        assert_completes(open_calls.pop()).await;
    }
    gateway.upstream.stall_again();
    let reported = tenant.limit_status(level.name(), limit.field).await;
    assert_eq!((reported.at("used").count(), reported.at("held").count()), (4, 0), "{reported}");
    for (value, status) in [(3, 429), (4, 429), (5, 200), (5, 429)] {
        set_quota_at(&tenant, level, &limit.quota_json(value)).await;
        assert_eq!(plain_call(&tenant).await.status, status, "{} of {value}", limit.field);
    }
    tenant.assert_settled().await;
}
