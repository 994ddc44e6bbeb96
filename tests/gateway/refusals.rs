//! Error bodies of refusals, the order in which limits are checked, and the hold of a call in
//! flight.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::json::Json;
use crate::harness::limit_assertions::{FullResponse, LIMITS, Level, Limit, by_field};
use crate::harness::openai::{Usage, bound, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;
use crate::harness::{anthropic, gemini};

const MAX_TOKENS: u64 = 20;

fn bound_usage(stream: bool) -> Usage {
    bound(&chat(GPT_4O_MINI.model, MAX_TOKENS, stream), MAX_TOKENS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_holds_its_bound_in_money_and_tokens() {
    let upstream = Upstream::start(|seen| {
        reply(seen, bound_usage(true), Duration::ZERO).insert_step(0, Step::Stall)
    })
    .await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyTokenLimit":100000}"#).await;
    let body = chat(GPT_4O_MINI.model, MAX_TOKENS, true);
    let request = Request::chat(&tenant.key, &body);
    let proxy = tenant.proxy.clone();
    let call = tokio::spawn(async move { request.send(&proxy).await.text().await });
    upstream.wait_for_requests(1).await;
    let held = bound_usage(true);
    let holds = tenant.holds().await;
    assert_eq!(holds.len(), 1, "{holds:?}");
    let cost = GPT_4O_MINI.cost(held);
    assert_eq!(holds[0].at("amount").nano(), cost, "{holds:?}");
    assert_eq!(holds[0].at("tokens").count(), held.total(), "{holds:?}");
    assert_eq!(holds[0].at("kind").text(), "Call");
    let wallet = tenant.wallet().await;
    assert_eq!(wallet.at("frozenAmount").nano(), cost, "{wallet}");
    assert_eq!(wallet.at("availableAmount").nano(), 1_000_000_000 - cost, "{wallet}");
    let usage = tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.heldTokens").count(), held.total(), "{usage}");
    assert_eq!(usage.at("quotaLimitRemaining.dailyTokens").count(), 100_000 - held.total());
    upstream.release();
    call.await.expect("the call ends");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_exceeded_limit_in_order_is_named() {
    let upstream = Upstream::start(|_| Plan::json(500, "{}")).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut tenant = Tenant::new(&gateway, 0, "{}").await;
    let zeros = |limits: &[Limit]| {
        let each = limits.iter().map(|limit| format!(r#""{}":0"#, limit.field));
        each.collect::<Vec<_>>().join(",")
    };
    tenant.set_organization_quota(&format!("{{{}}}", zeros(&LIMITS))).await;
    let named = |limits: String| format!(r#"{{"name":"narrow",{limits}}}"#);
    let (spend_limit, minute_limit) =
        (by_field("monthlySpendLimit"), by_field("requestsPerMinuteLimit"));
    let spend = zeros(std::slice::from_ref(spend_limit));
    let minute = zeros(std::slice::from_ref(minute_limit));
    let refused = async |tenant: &Tenant, limit: &Limit, level: Level| {
        let error = send_call(tenant).await.assert_error(429, &[limit.code]);
        assert_eq!(error.at("limit.level").text(), level.name(), "{error}");
        let status = tenant.limit_status(level.name(), limit.field).await;
        assert!(status.at("enforced").is_true(), "{status}");
    };
    tenant.key = tenant.create_key(&gateway, &named(format!("{spend},{minute}"))).await;
    for (index, first) in LIMITS.iter().enumerate() {
        tenant.set_quota(&format!("{{{}}}", zeros(&LIMITS[index..]))).await;
        refused(&tenant, first, Level::Project).await;
    }
    tenant.set_quota("{}").await;
    refused(&tenant, minute_limit, Level::Key).await;
    tenant.key = tenant.create_key(&gateway, &named(spend)).await;
    refused(&tenant, spend_limit, Level::Key).await;
    tenant.key = tenant.create_key(&gateway, r#"{"name":"wide"}"#).await;
    for (index, first) in LIMITS.iter().enumerate() {
        tenant.set_organization_quota(&format!("{{{}}}", zeros(&LIMITS[index..]))).await;
        refused(&tenant, first, Level::Organization).await;
    }
    tenant.set_organization_quota("{}").await;
    let error = send_call(&tenant).await.assert_error(402, &["insufficient_balance"]);
    assert_eq!(error.at("type").text(), "insufficient_quota");
    assert_eq!(upstream.request_count(), 0, "refused calls are not forwarded");
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
}

async fn send_call(tenant: &Tenant) -> FullResponse {
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, MAX_TOKENS, false));
    FullResponse::read(request.send(&tenant.proxy).await).await
}

/// Many refusals do not flood the log, but each is counted.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_beyond_ten_per_second_share_one_log_entry() {
    let upstream = Upstream::start(|_| Plan::json(500, "{}")).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 0, r#"{"dailyRequestLimit":0}"#).await;
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let tenant = tenant.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    send_call(&tenant).await.assert_error(429, &["daily_requests_exceeded"]);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("each is refused");
    }
    let logs = eventually("every refusal is counted in the log", async || {
        let logs = tenant.logs().await;
        let counted: u64 = logs.iter().map(|log| log.at("count").count()).sum();
        (counted == 200).then_some(logs)
    })
    .await;
    assert!(logs.iter().any(|log| log.at("count").count() > 1), "{} entries", logs.len());
    for log in logs {
        assert_eq!(log.at("outcome").text(), "Refused", "{log}");
        assert_eq!(log.at("refusal").text(), "daily_requests_exceeded", "{log}");
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
    }
    tenant.assert_settled().await;
}

/// A call in each dialect, without a credential.
fn calls_in_each_dialect(model: &str) -> [Request; 3] {
    [
        Request::post("/v1/chat/completions", chat(model, MAX_TOKENS, false)),
        Request::post("/v1/messages", anthropic::message(model, Some(MAX_TOKENS), true)),
        Request::post(&gemini::target(model, true), gemini::contents(Some(MAX_TOKENS))),
    ]
}

/// Asserts the status and the error name of a refusal in each dialect: a type, a type and a status.
async fn assert_in_each_dialect(
    requests: [Request; 3],
    proxy: &str,
    status: u16,
    names: [&str; 3],
) {
    let mut codes = Vec::new();
    for ((request, name), dialect) in requests.into_iter().zip(names).zip(0..) {
        let response = FullResponse::read(request.send(proxy).await).await;
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(response.header("x-meteor-error-source"), "gateway");
        let (body, id) = (Json::new(&response.body), response.header("x-request-id"));
        let error = body.at("error");
        assert!(!error.at("message").text().is_empty(), "{error}");
        let (kind, code) = match dialect {
            0 => (error.at("type").text(), error.at("code").text()),
            1 => {
                assert_eq!(body.at("type").text(), "error", "{body}");
                assert_eq!(body.at("request_id").text(), id, "{body}");
                assert_eq!(response.header("request-id"), id);
                (error.at("type").text(), error.at("code").text())
            }
            _ => {
                assert_eq!(error.at("code").count(), u64::from(status), "{error}");
                let details = error.at("details").list();
                assert_eq!(details[0].at("domain").text(), "meteor", "{error}");
                let delay = details.get(1).map(|detail| detail.at("retryDelay").text());
                let after = response.headers.iter().find(|(name, _)| name == "retry-after");
                assert_eq!(delay, after.map(|(_, seconds)| format!("{seconds}s")), "{error}");
                (error.at("status").text(), details[0].at("reason").text().to_lowercase())
            }
        };
        assert_eq!(kind, name, "{body}");
        assert_eq!(error.find("limit.level").is_some(), status == 429 || status == 402, "{error}");
        assert_eq!(error.find("required").is_some(), status == 402, "{error}");
        codes.push(code);
    }
    assert!(
        codes.iter().all(|code| *code == codes[0]),
        "the code is the same in all dialects: {codes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_the_error_shape_of_its_dialect() {
    let gateway = Gateway::with_built_in_provider().await;
    let funded = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let unfunded = Tenant::new(&gateway, 0, "{}").await;
    let exhausted = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyRequestLimit":0}"#).await;
    let restricted =
        funded.create_key(&gateway, r#"{"name":"narrow","allowedModels":["gpt-4o"]}"#).await;
    let (proxy, model) = (&*gateway.proxy, GPT_4O_MINI.model);
    let by = |key: &str, model: &str| calls_in_each_dialect(model).map(|call| call.bearer(key));

    let names = ["authentication_error", "authentication_error", "UNAUTHENTICATED"];
    assert_in_each_dialect(calls_in_each_dialect(model), proxy, 401, names).await;
    let names = ["permission_error", "permission_error", "PERMISSION_DENIED"];
    assert_in_each_dialect(by(&restricted, model), proxy, 403, names).await;
    let names = ["invalid_request_error", "not_found_error", "NOT_FOUND"];
    assert_in_each_dialect(by(&funded.key, "nobody"), proxy, 404, names).await;
    let unknown = ["/v1/chats", "/v1/messages/batches", "/v1beta/tunedModels"];
    assert_in_each_dialect(unknown.map(Request::get), proxy, 404, names).await;
    let names = ["invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"];
    let paths = ["/v1/chat/completions", "/v1/messages", &gemini::target(model, false)];
    let broken = paths.map(|path| Request::post(path, "{").bearer(&funded.key));
    assert_in_each_dialect(broken, proxy, 400, names).await;
    let names = ["insufficient_quota", "billing_error", "FAILED_PRECONDITION"];
    assert_in_each_dialect(by(&unfunded.key, model), proxy, 402, names).await;
    let names = ["insufficient_quota", "rate_limit_error", "RESOURCE_EXHAUSTED"];
    assert_in_each_dialect(by(&exhausted.key, model), proxy, 429, names).await;

    for (tenant, refused) in [(&unfunded, 3), (&exhausted, 3)] {
        let logs = tenant.logs().await;
        let mut dialects: Vec<_> = logs.iter().map(|log| log.at("dialect").text()).collect();
        dialects.sort();
        assert_eq!(dialects, ["anthropic", "gemini", "openai"]);
        assert_eq!(logs.len(), refused, "{logs:?}");
        tenant.assert_settled().await;
    }
}
