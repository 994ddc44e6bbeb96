//! Quotas in the admin API: replaced as a whole, for projects and organizations, under ceilings.

use crate::admin::{expect_error, start_gateway};
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::chat;
use crate::harness::tenant::Tenant;

/// Sends a PUT and returns the changed resource.
async fn put(tenant: &Tenant, path: &str, body: &str) -> Json {
    let answer = tenant.send(Request::put(path, body)).await;
    let (status, body) = (answer.status, answer.json().await);
    assert_eq!(status, 200, "PUT {path} {body}: {body}");
    body.at("data")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_replaced_entirely_and_keeps_its_usage() {
    let (_gateway, _upstream, tenant) = start_gateway(1_000_000_000).await;
    let call = Request::chat(&tenant.key, chat("gpt-4o-mini", 5, false));
    call.send(&tenant.proxy).await.text().await;
    let all = r#"{"dailyRequestLimit":10,"dailyTokenLimit":1000,"monthlyRequestLimit":20,"monthlyTokenLimit":2000,"requestsPerMinuteLimit":5,"enforceQuota":false,"customResetDay":28}"#;
    let quota = tenant.set_quota(all).await;
    assert_eq!(quota.at("projectId").text(), tenant.project);
    for (limit, value) in [("dailyRequestLimit", 10), ("monthlyTokenLimit", 2_000)] {
        assert_eq!(quota.at(limit).count(), value, "{quota}");
    }
    assert_eq!(quota.at("customResetDay").count(), 28);
    assert_eq!(quota.at("enforceQuota").to_string(), "false");
    tenant.set_quota(r#"{"dailyTokenLimit":500}"#).await;
    let quota = tenant.get(&format!("/api/projects/{}/quota", tenant.project)).await;
    for absent in
        ["dailyRequestLimit", "monthlyRequestLimit", "monthlyTokenLimit", "requestsPerMinuteLimit"]
    {
        assert!(quota.at(absent).is_null(), "{absent} was omitted: {quota}");
    }
    assert_eq!(quota.at("dailyTokenLimit").count(), 500);
    assert!(quota.at("enforceQuota").is_true());
    assert_eq!(quota.at("customResetDay").count(), 1);
    let usage = tenant.usage().await;
    assert_eq!(usage.at("period").text(), "month", "the default");
    assert_eq!(usage.at("dailyUsage.requestCount").count(), 1, "usage is kept: {usage}");
    assert_eq!(usage.at("dailyUsage.tokenCount").count(), 15);
    assert_eq!(usage.at("monthlyUsage.tokenCount").count(), 15);
    assert_eq!(usage.at("quotaLimitRemaining.dailyTokens").count(), 485);
    assert!(
        usage.at("quotaLimitRemaining.dailyRequests").is_null(),
        "without a limit nothing remains"
    );
    let day = tenant.get(&format!("/api/projects/{}/quota-usage?period=day", tenant.project)).await;
    assert_eq!(day.at("period").text(), "day");
    day.at("monthlyUsage");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_has_one_quota_for_all_its_projects() {
    let (gateway, _upstream, tenant) = start_gateway(1_000_000_000).await;
    let path = "/api/organization/quota";
    let none = tenant.get(path).await;
    assert_eq!(none.at("organizationId").text(), tenant.organization);
    assert!(none.at("dailyRequestLimit").is_null() && none.at("enforceQuota").is_true());
    let body = r#"{"dailyRequestLimit":100,"monthlySpendLimit":0.5,"customResetDay":28}"#;
    let quota = tenant.post(path, body).await;
    assert_eq!(quota.at("dailyRequestLimit").count(), 100, "{quota}");
    assert_eq!(quota.at("monthlySpendLimit").to_string(), "0.50", "{quota}");
    assert!(tenant.get(path).await.at("dailyTokenLimit").is_null());
    let project_quota = tenant.get(&format!("/api/projects/{}/quota", tenant.project)).await;
    assert!(
        project_quota.at("dailyRequestLimit").is_null(),
        "the project quota is separate: {project_quota}"
    );

    let key = tenant.create_second_project(&gateway).await.key;
    let mut spent = 0;
    for key in [&tenant.key, &tenant.key, &key] {
        let call = Request::chat(key, chat("gpt-4o-mini", 5, false)).send(&tenant.proxy).await;
        let id = call.id();
        call.text().await;
        spent += tenant.debit(&id).await.at("amount").nano();
    }
    let usage = tenant.get("/api/organization/quota-usage?period=day").await;
    assert_eq!(usage.at("organizationId").text(), tenant.organization);
    assert_eq!(usage.at("period").text(), "day");
    for part in ["dailyUsage", "monthlyUsage"] {
        let part = usage.at(part);
        assert_eq!(part.at("requestCount").count(), 3, "{part}");
        assert_eq!(part.at("tokenCount").count(), 3 * 15, "{part}");
        assert_eq!(part.at("spend").nano(), spent, "{part}");
        assert_eq!(part.at("heldRequests").count(), 0, "{part}");
    }
    assert_eq!(usage.at("quotaLimitRemaining.dailyRequests").count(), 97, "{usage}");
    let remaining = usage.at("quotaLimitRemaining.monthlySpend").nano();
    assert_eq!(remaining, 500_000_000 - spent, "{usage}");
    let error = expect_error(&tenant, Request::post(path, r#"{"dailyTokenLimit":-1}"#), 400).await;
    assert!(error.to_string().contains("dailyTokenLimit"), "{error}");
    assert_eq!(tenant.get(path).await.at("dailyRequestLimit").count(), 100, "unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_controls_whether_output_is_clamped() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    let path = "/api/organization";
    assert!(tenant.get(path).await.at("outputClamp").is_true(), "the default");
    for (body, clamps) in [
        (r#"{"outputClamp":false}"#, "false"),
        (r#"{"description":"d"}"#, "false"),
        (r#"{"outputClamp":true}"#, "true"),
    ] {
        assert_eq!(put(&tenant, path, body).await.at("outputClamp").to_string(), clamps, "{body}");
        assert_eq!(tenant.get(path).await.at("outputClamp").to_string(), clamps, "{body}");
    }
    for wrong in [r#"{"outputClamp":null}"#, r#"{"outputClamp":"no"}"#] {
        let error = expect_error(&tenant, Request::put(path, wrong), 400).await;
        assert!(error.to_string().contains("outputClamp"), "{error}");
    }
    let body = r#"{"name":"unclamped","outputClamp":false}"#;
    let made = tenant.post("/api/organizations", body).await;
    assert_eq!(made.at("outputClamp").to_string(), "false", "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_never_exceeds_its_ceiling() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    let project = format!("/api/projects/{}", tenant.project);
    let quota = format!("{project}/quota");
    tenant.set_quota(r#"{"dailyRequestLimit":9}"#).await;
    for (ceiling, field) in [
        (r#"{"ceiling":{"dailyRequestLimit":8}}"#, "/ceiling/dailyRequestLimit"),
        (r#"{"ceiling":{"dailyRequestLimit":9,"dailyTokenLimit":5}}"#, "/ceiling/dailyTokenLimit"),
    ] {
        let error = expect_error(&tenant, Request::put(&project, ceiling), 400).await;
        assert_eq!(error.at("reason").text(), "above_ceiling", "{error}");
        assert_eq!(error.at("param").text(), field, "{error}");
        assert!(tenant.get(&project).await.at("ceiling").is_null(), "unchanged");
    }
    let updated = put(&tenant, &project, r#"{"ceiling":{"dailyRequestLimit":9}}"#).await;
    assert_eq!(updated.at("ceiling.dailyRequestLimit").count(), 9, "{updated}");
    for (body, field) in [
        (r#"{"dailyRequestLimit":10}"#, "/dailyRequestLimit"),
        ("{}", "/dailyRequestLimit"),
        (r#"{"dailyRequestLimit":9,"enforceQuota":false}"#, "/enforceQuota"),
    ] {
        let error = expect_error(&tenant, Request::post(&quota, body), 400).await;
        assert_eq!(error.at("reason").text(), "above_ceiling", "{body}: {error}");
        assert_eq!(error.at("param").text(), field, "{body}: {error}");
    }
    tenant.set_quota(r#"{"dailyRequestLimit":3,"dailyTokenLimit":7}"#).await;
    let body = r#"{"name":"low","ceiling":{"monthlyTokenLimit":4}}"#;
    let low = tenant.post("/api/projects", body).await.at("id").text();
    let new_quota = tenant.get(&format!("/api/projects/{low}/quota")).await;
    assert_eq!(
        new_quota.at("monthlyTokenLimit").count(),
        4,
        "a new quota starts at its ceiling: {new_quota}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_quota_fields_are_refused_by_name() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    let path = format!("/api/projects/{}/quota", tenant.project);
    tenant.set_quota(r#"{"dailyRequestLimit":9}"#).await;
    for (field, value) in [
        ("dailyRequestLimit", "-1"),
        ("dailyTokenLimit", "1.5"),
        ("monthlyRequestLimit", "9007199254740992"),
        ("monthlyTokenLimit", "\"5\""),
        ("customResetDay", "0"),
        ("customResetDay", "29"),
        ("enforceQuota", "\"yes\""),
        ("dailyRequestLimits", "5"),
    ] {
        let body = format!(r#"{{"{field}":{value}}}"#);
        let error = expect_error(&tenant, Request::post(&path, &body), 400).await;
        assert!(error.to_string().contains(field), "{field} is named: {error}");
    }
    assert_eq!(tenant.get(&path).await.at("dailyRequestLimit").count(), 9, "unchanged");
}
