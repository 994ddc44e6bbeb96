//! The admin API: response envelopes, recharges, and isolation between organizations.

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::json::{Json, money};
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

pub async fn start_gateway(funds: i128) -> (Gateway, Upstream, Tenant) {
    let usage = Usage::of(10, 5);
    let upstream = Upstream::start(move |seen| reply(seen, usage, std::time::Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, funds, "{}").await;
    (gateway, upstream, tenant)
}

/// Sends the request, expects this status and returns the error of the envelope.
pub async fn expect_error(tenant: &Tenant, request: Request, status: u16) -> Json {
    error_envelope(tenant.send(request).await, status).await
}

async fn error_envelope(response: crate::harness::client::Response, status: u16) -> Json {
    let actual = response.status;
    let body = response.json().await;
    assert_eq!(actual, status, "{body}");
    assert_eq!(body.at("code").count(), u64::from(status), "{body}");
    assert!(body.at("data").is_null(), "{body}");
    let error = body.at("error");
    for field in ["type", "reason", "message"] {
        assert!(!error.at(field).text().is_empty(), "{field}: {error}");
    }
    error.at("param");
    error.at("errors");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_starts_funded_with_a_key_that_works() {
    let (gateway, _upstream, _) = start_gateway(0).await;
    let demo = Tenant::of_demo(&gateway);
    let wallet = demo.wallet().await;
    assert_eq!(wallet.at("balance").to_string(), "1000.00", "{wallet}");
    assert_eq!(wallet.at("currency").text(), "USD");
    assert!(wallet.at("isActive").is_true());
    assert_eq!(wallet.at("organizationId").text(), gateway.organization);
    let quota = demo.get(&format!("/api/projects/{}/quota", gateway.project)).await;
    for (limit, value) in [
        ("dailyRequestLimit", 10_000),
        ("monthlyRequestLimit", 100_000),
        ("dailyTokenLimit", 1_000_000),
        ("monthlyTokenLimit", 10_000_000),
        ("requestsPerMinuteLimit", 100),
    ] {
        assert_eq!(quota.at(limit).count(), value, "the Starter template: {quota}");
    }
    let request = Request::chat(&gateway.key, chat("gpt-4o-mini", 5, false));
    assert_eq!(request.send(&gateway.proxy).await.status, 200);
    demo.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recharges_are_exact_and_recorded_in_a_chain() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    let mut balance = 0;
    for (text, nano) in [
        ("100.00", 100_000_000_000),
        ("0.000000001", 1),
        ("\"0.1\"", 100_000_000),
        ("7", 7_000_000_000),
        ("123456789.123456789", 123_456_789_123_456_789),
    ] {
        let body = format!(r#"{{"amount":{text},"description":"by {nano}","reference":"r"}}"#);
        let record = tenant.post("/api/organization/wallet/recharge", &body).await;
        assert_eq!(record.at("type").text(), "Recharge");
        assert_eq!(record.at("amount").nano(), nano);
        assert_eq!(record.at("previousBalance").nano(), balance);
        balance += nano;
        assert_eq!(record.at("currentBalance").nano(), balance);
        assert_eq!(record.at("description").text(), format!("by {nano}"));
        assert!(record.at("requestLogId").is_null(), "null, not absent: {record}");
        assert_eq!(tenant.wallet().await.at("balance").nano(), balance);
    }
    let plain = tenant.recharge(1).await;
    assert_eq!(plain.at("description").text(), "User recharge");
    let request = Request::chat(&tenant.key, chat("gpt-4o-mini", 5, false));
    let call = request.send(&tenant.proxy).await;
    let id = call.id();
    call.text().await;
    let debit = tenant.debit(&id).await;
    assert_eq!(debit.at("description").text(), "API call consumption");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_amounts_are_refused() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    for amount in [
        "0",
        "-1",
        "1e3",
        "0.0000000001",
        "9000000000.01",
        "\"\"",
        "\"1e3\"",
        "\" 1\"",
        "\"+1\"",
        "\"1,5\"",
        "\"NaN\"",
        "null",
        "true",
        "[1]",
        "99999999999999999999999999",
    ] {
        let body = format!(r#"{{"amount":{amount}}}"#);
        let request = Request::post("/api/organization/wallet/recharge", &body);
        let error = expect_error(&tenant, request, 400).await;
        assert!(error.to_string().contains("amount"), "{amount}: {error}");
    }
    assert_eq!(tenant.wallet().await.at("lastSeq").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_an_idempotency_key_does_not_repeat_the_recharge() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    let recharge = |key: &str, amount: i128| {
        let body = format!(r#"{{"amount":{}}}"#, money(amount));
        Request::post("/api/organization/wallet/recharge", body).header("idempotency-key", key)
    };
    let first = tenant.send(recharge("one", 5_000_000_000)).await.text().await;
    for _ in 0..3 {
        let response = tenant.send(recharge("one", 5_000_000_000)).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.text().await, first, "the first response again");
    }
    expect_error(&tenant, recharge("one", 6_000_000_000), 422).await;
    let concurrent: Vec<_> = (0..16)
        .map(|_| {
            let (request, admin) = (tenant.authorize(recharge("two", 1)), tenant.admin.clone());
            tokio::spawn(async move { request.send(&admin).await.status })
        })
        .collect();
    for response in concurrent {
        let status = response.await.expect("a response");
        assert!([200, 409].contains(&status), "done or in progress: {status}");
    }
    assert_eq!(tenant.wallet().await.at("balance").nano(), 5_000_000_001);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_body_fields_are_refused_by_name() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    let project = &tenant.project;
    for (path, body) in [
        ("/api/organizations".to_owned(), r#"{"name":"a","colour":1}"#),
        ("/api/projects".to_owned(), r#"{"name":"a","colour":1}"#),
        ("/api/organization/wallet/recharge".to_owned(), r#"{"amount":1,"colour":1}"#),
        (format!("/api/projects/{project}/quota"), r#"{"colour":1}"#),
        (format!("/api/projects/{project}/api-keys"), r#"{"name":"a","colour":1}"#),
    ] {
        let error = expect_error(&tenant, Request::post(&path, body), 400).await;
        assert_eq!(error.at("type").text(), "invalid_request", "{path}: {error}");
        assert!(error.to_string().contains("colour"), "{path}: {error}");
        expect_error(&tenant, Request::post(&path, "{"), 400).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_missing_resources_are_404() {
    let (gateway, _upstream, tenant) = start_gateway(0).await;
    let other = Tenant::new(&gateway, 0, "{}").await;
    for id in [other.project.as_str(), "proj_00000000000000000000000000000000", "nonsense", "%00"] {
        for part in ["quota", "quota-usage", "api-keys", "request-logs"] {
            let request = Request::get(&format!("/api/projects/{id}/{part}"));
            expect_error(&tenant, request, 404).await;
        }
        let request = Request::post(&format!("/api/projects/{id}/quota"), "{}");
        expect_error(&tenant, request, 404).await;
    }
    expect_error(&tenant, Request::get("/api/nothing"), 404).await;
    let listed = tenant.get("/api/projects").await;
    assert_eq!(listed.at("total").count(), 1, "only this tenant's: {listed}");
    assert_eq!(listed.at("data").list()[0].at("id").text(), tenant.project);
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_requests_without_a_valid_token_are_401() {
    let (gateway, _upstream, tenant) = start_gateway(0).await;
    let path = "/api/organization/wallet";
    for token in ["", "at-mtr-", "nonsense", gateway.key.as_str(), tenant.key.as_str()] {
        let response = Request::get(path).bearer(token).send(&gateway.admin).await;
        let error = error_envelope(response, 401).await;
        assert_eq!(error.at("type").text(), "unauthenticated");
    }
    error_envelope(Request::get(path).send(&gateway.admin).await, 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_secrets_are_not_listed_and_allowed_models_are_enforced() {
    let (gateway, upstream, tenant) = start_gateway(1_000_000_000).await;
    let path = format!("/api/projects/{}/api-keys", tenant.project);
    let key = tenant.create_key(&gateway, r#"{"name":"narrow","allowedModels":["gpt-4o*"]}"#).await;
    let random = key.strip_prefix("sk-mtr-").expect("the prefix of keys");
    assert!(random.len() == 49 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let list = tenant.get(&path).await;
    assert_eq!(list.at("total").count(), 2, "{list}");
    assert!(!list.to_string().contains(random), "a secret is shown only at creation");
    let listed = &list.at("data").list()[0];
    assert_eq!(listed.at("last4").text(), key[key.len() - 4..]);
    for (model, status) in [("gpt-4o", 200), ("gpt-4o-mini", 200), ("o4-mini", 403)] {
        let response = Request::chat(&key, chat(model, 5, false)).send(&gateway.proxy).await;
        assert_eq!(response.status, status, "{model}");
        let body = response.json().await;
        if status == 403 {
            assert_eq!(body.at("error.type").text(), "permission_error", "{body}");
        }
    }
    assert_eq!(upstream.request_count(), 2);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paginated_and_invalid_page_parameters_are_refused() {
    let (_gateway, _upstream, tenant) = start_gateway(0).await;
    for nano in 1..=5 {
        tenant.recharge(nano).await;
    }
    let path = "/api/organization/wallet/records";
    let page = tenant.get(&format!("{path}?page=2&size=2")).await;
    assert_eq!(page.at("page").count(), 2);
    assert_eq!(page.at("size").count(), 2);
    assert_eq!(page.at("total").count(), 5);
    let amounts: Vec<_> =
        page.at("data").list().iter().map(|row| row.at("amount").nano()).collect();
    assert_eq!(amounts, [3, 2], "newest first");
    assert!(tenant.get(&format!("{path}?page=9")).await.at("data").list().is_empty());
    for parameter in ["page=0", "size=0", "size=101", "page=x", "size=-1"] {
        let error = expect_error(&tenant, Request::get(&format!("{path}?{parameter}")), 400).await;
        let (name, _) = parameter.split_once('=').expect("a pair");
        assert!(error.to_string().contains(name), "{parameter}: {error}");
    }
}
