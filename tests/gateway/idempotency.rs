//! A call with an `Idempotency-Key` is executed one time, however often it is sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::dialect_routing::{reply, start_gateway};
use crate::harness::client::{Request, Response};
use crate::harness::demo::Gateway;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, completion, events};
use crate::harness::tenant::{Tenant, is_debit_of};
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};
use crate::harness::wait::eventually;
use crate::harness::{anthropic, gemini};

const MODEL: &str = "gpt-4o-mini";
const USAGE: Usage = Usage { prompt: 12, completion: 9, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

/// A call of the OpenAI dialect. Its output bound selects the behavior of the provider below.
fn call(tenant: &Tenant, bound: u64, key: &str) -> Request {
    let stream = bound == SLOW_STREAM_BOUND;
    Request::chat(&tenant.key, chat(MODEL, bound, stream)).header("Idempotency-Key", key)
}

const KEYS: usize = 32;
const IMMEDIATE_BOUND: u64 = 40;
/// The provider answers when the test releases it.
const STALLED_BOUND: u64 = 41;
/// The provider streams for half a minute.
const SLOW_STREAM_BOUND: u64 = 42;
/// The provider fails with a 500, then by closing the connection; then it answers.
const THIRD_ATTEMPT_BOUND: u64 = 43;

async fn provider() -> Upstream {
    let attempts = AtomicUsize::new(0);
    Upstream::start(move |seen: &ReceivedRequest| {
        let answer = Plan::json(200, completion(USAGE));
        let Some(bound) = seen.json().find("max_tokens") else { return reply(seen) };
        match bound.count() {
            STALLED_BOUND => answer.insert_step(0, Step::Stall),
            SLOW_STREAM_BOUND => {
                Plan::stream(events(&["word"; 600], None), Duration::from_millis(50))
            }
            THIRD_ATTEMPT_BOUND => match attempts.fetch_add(1, Ordering::Relaxed) {
                0 => Plan::json(500, crate::harness::openai::error()),
                1 => Plan { steps: vec![Step::Cut], ..answer },
                _ => answer,
            },
            _ => answer,
        }
    })
    .await
}

async fn complete(request: &Request, tenant: &Tenant) -> String {
    let answer = request.send(&tenant.proxy).await;
    let (status, id) = (answer.status, answer.id());
    assert_eq!(status, 200, "{}", answer.text().await);
    answer.text().await;
    id
}

/// Asserts the status, code and named call of the error for a call that must not be executed.
async fn assert_error(answer: Response, status: u16, code: &str, id: &str) -> Json {
    let (actual_status, refusal_id, retry) =
        (answer.status, answer.id(), answer.header("x-should-retry").map(str::to_owned));
    let body = answer.json().await;
    assert_eq!(actual_status, status, "{body}");
    let error = body.at("error");
    let reason = error.find("details").map_or_else(
        || error.at("code").text(),
        |details| details.list()[0].at("reason").text().to_lowercase(),
    );
    assert_eq!(reason, code, "{error}");
    assert_eq!(error.at("requestLogId").text(), id, "{error}");
    assert_ne!(refusal_id, id, "the refusal has a different id");
    assert_eq!(retry.as_deref(), Some("false"), "a retry cannot succeed");
    error
}

async fn assert_refusal(
    request: &Request,
    tenant: &Tenant,
    expected: (u16, &str),
    id: &str,
) -> Json {
    assert_error(request.send(&tenant.proxy).await, expected.0, expected.1, id).await
}

const IN_FLIGHT: (u16, &str) = (409, "idempotency_key_in_flight");
const EXECUTED: (u16, &str) = (409, "already_executed");
const MISMATCH: (u16, &str) = (422, "idempotency_mismatch");

/// Asserts that the error describes the executed call as the request log does.
async fn assert_as_logged(error: &Json, tenant: &Tenant, id: &str) {
    let (log, call) = (tenant.log(id).await, error.at("call"));
    assert_eq!(call.at("status"), log.at("status"), "{call} {log}");
    assert_eq!(call.at("usage"), log.at("usage"), "{call} {log}");
    let cost = Json::new(&call.at("cost").text()).nano();
    assert_eq!(cost, log.at("cost").nano(), "{call} {log}");
    assert!(cost > 0, "{call}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_call_is_not_executed_again_in_any_dialect() {
    let provider = Upstream::start(reply).await;
    let (_served, tenant) = start_gateway(&provider, "").await;
    let mut executed = 0;
    for stream in [false, true] {
        for (target, body) in [
            ("/v1/chat/completions".to_owned(), chat("plain", 20, stream)),
            ("/v1/messages".to_owned(), anthropic::message("plain", Some(20), stream)),
            (gemini::target("plain", stream), gemini::contents(Some(20))),
        ] {
            // The same key identifies a different call on each path.
            let key = format!("stream-{stream}");
            let request = Request::post(&target, body).bearer(&tenant.key);
            let request = request.header("Idempotency-Key", &key);
            let id = complete(&request, &tenant).await;
            executed += 1;
            for _ in 0..2 {
                let error = assert_refusal(&request, &tenant, EXECUTED, &id).await;
                assert_as_logged(&error, &tenant, &id).await;
            }
        }
    }
    assert_eq!(provider.request_count(), executed);
    let passed =
        provider.requests().iter().filter_map(|seen| seen.header("idempotency-key")).count();
    assert_eq!(passed, 0, "the key is not forwarded");
    let usage = tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.requestCount").count(), executed as u64, "{usage}");
    let refused = |log: &Json| {
        (log.at("outcome").text() == "Refused").then(|| {
            assert_eq!(log.at("refusal").text(), EXECUTED.1, "{log}");
            log.at("count").count()
        })
    };
    eventually("each refusal is in the log", async || {
        let count: u64 = tenant.logs().await.iter().filter_map(refused).sum();
        (count == 2 * executed as u64).then_some(())
    })
    .await;
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_belongs_to_one_body_and_api_key() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let id = complete(&call(&tenant, IMMEDIATE_BOUND, "a"), &tenant).await;
    assert_refusal(&call(&tenant, IMMEDIATE_BOUND + 9, "a"), &tenant, MISMATCH, &id).await;
    assert_ne!(complete(&call(&tenant, IMMEDIATE_BOUND, "b"), &tenant).await, id);

    let other_key =
        Tenant { key: tenant.create_key(&gateway, r#"{"name":"b"}"#).await, ..tenant.clone() };
    complete(&call(&other_key, IMMEDIATE_BOUND + 9, "a"), &tenant).await;
    let rotated = Tenant { key: tenant.rotate_key("fresh", &gateway).await, ..tenant.clone() };
    assert_refusal(&call(&rotated, IMMEDIATE_BOUND, "a"), &tenant, EXECUTED, &id).await;

    // The position of the credential, in the target or a header, is not part of the request
    // identity.
    let target = gemini::target("gemini-2.5-flash", false);
    let request_to = |target: &str| {
        Request::post(target, gemini::contents(Some(20))).header("Idempotency-Key", "a")
    };
    let id = complete(&request_to(&target).bearer(&tenant.key), &tenant).await;
    let in_query = request_to(&format!("{target}?key={}", rotated.key));
    assert_refusal(&in_query, &tenant, EXECUTED, &id).await;
    assert_refusal(
        &request_to(&format!("{target}?alt=json")).bearer(&tenant.key),
        &tenant,
        MISMATCH,
        &id,
    )
    .await;
    assert_eq!(provider.request_count(), 4);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_idempotency_key_is_refused_by_header_name() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let twice = call(&tenant, IMMEDIATE_BOUND, "a").header("idempotency-key", "a");
    let wrong = ["", "a b", "é", &"a".repeat(256)].map(|key| call(&tenant, IMMEDIATE_BOUND, key));
    for request in wrong.into_iter().chain([twice]) {
        let answer = request.send(&tenant.proxy).await;
        assert_eq!(answer.status, 400);
        let error = answer.json().await.at("error");
        assert_eq!(error.at("code").text(), "invalid_request", "{error}");
        assert_eq!(error.at("param").text(), "Idempotency-Key", "{error}");
        assert!(error.at("message").text().contains("Idempotency-Key"), "{error}");
    }
    complete(&call(&tenant, IMMEDIATE_BOUND, &"~".repeat(255)), &tenant).await;
    assert_eq!(provider.request_count(), 1);
    let models = Request::get("/v1/models").bearer(&tenant.key).header("Idempotency-Key", "");
    assert_eq!(models.send(&tenant.proxy).await.status, 200, "a listing ignores the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_concurrent_calls_one_executes_and_the_others_conflict() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let request = call(&tenant, STALLED_BOUND, "a");
    let sent: Vec<_> = (0..64)
        .map(|_| {
            let (request, proxy) = (request.clone(), tenant.proxy.clone());
            tokio::spawn(async move { request.send(&proxy).await })
        })
        .collect();
    eventually("63 calls are refused", async || {
        (63 <= sent.iter().filter(|call| call.is_finished()).count()).then_some(())
    })
    .await;
    let other = call(&tenant, IMMEDIATE_BOUND, "a").send(&tenant.proxy).await;
    provider.release();
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for answer in sent {
        let answer = answer.await.expect("the call completes");
        if answer.status == 200 { done.push(answer) } else { refused.push(answer) }
    }
    assert_eq!((done.len(), provider.request_count()), (1, 1));
    let done = done.remove(0);
    let id = done.id();
    for answer in refused {
        assert_error(answer, IN_FLIGHT.0, IN_FLIGHT.1, &id).await;
    }
    assert_error(other, MISMATCH.0, MISMATCH.1, &id).await;
    done.text().await;
    assert_refusal(&request, &tenant, EXECUTED, &id).await;
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 1);
    tenant.assert_settled().await;
}

/// A completion moves from memory to the database while other calls use its key.
#[tokio::test(flavor = "multi_thread")]
async fn repeatedly_sent_calls_execute_a_single_time() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let sender = |sender_index: usize| {
        let tenant = tenant.clone();
        async move {
            let mut executed = 0;
            for round in 0..200 {
                // Each sender uses the keys several times in its own order.
                let key = (round * (2 * sender_index + 1) + sender_index) % KEYS;
                let answer =
                    call(&tenant, IMMEDIATE_BOUND, &key.to_string()).send(&tenant.proxy).await;
                let status = answer.status;
                assert!(status == 200 || status == 409, "{}", answer.text().await);
                executed += usize::from(status == 200);
            }
            executed
        }
    };
    let senders: Vec<_> = (0..6).map(|sender_index| tokio::spawn(sender(sender_index))).collect();
    let mut executed = 0;
    for sender in senders {
        executed += sender.await.expect("a sender ends");
    }
    assert_eq!((executed, provider.request_count()), (KEYS, KEYS));
    assert_eq!(tenant.records().await.len(), KEYS + 1, "one debit each, after the recharge");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_and_uncharged_calls_free_the_key() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, 0, r#"{"dailyRequestLimit":0}"#).await;
    let status = async |request: &Request| request.send(&tenant.proxy).await.status;
    let request = call(&tenant, THIRD_ATTEMPT_BOUND, "a");
    assert_eq!(status(&request).await, 429);
    tenant.set_quota("{}").await;
    assert_eq!(status(&request).await, 402);
    tenant.recharge(FUNDS).await;
    for failure in [500, 502] {
        assert_eq!(status(&request).await, failure);
    }
    let id = complete(&request, &tenant).await;
    assert_refusal(&request, &tenant, EXECUTED, &id).await;
    assert_eq!(provider.request_count(), 3);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_and_token_counts_free_the_key() {
    let provider = Upstream::start(reply).await;
    let (_served, tenant) = start_gateway(&provider, "").await;
    let call_to = |model| Request::chat(&tenant.key, chat(model, 20, false));
    for (model, status) in [("no-such-model", 404), ("plain", 200)] {
        let request = call_to(model).header("Idempotency-Key", "a");
        assert_eq!(request.send(&tenant.proxy).await.status, status);
    }
    let body = anthropic::message("plain", None, false);
    let request = Request::post("/v1/messages/count_tokens", body).bearer(&tenant.key);
    let request = request.header("Idempotency-Key", "a");
    for _ in 0..2 {
        complete(&request, &tenant).await;
    }
    assert_eq!(provider.request_count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_disconnected_client_counts_as_executed() {
    let provider = provider().await;
    let gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let request = call(&tenant, SLOW_STREAM_BOUND, "a");
    let mut answer = request.send(&tenant.proxy).await;
    answer.piece().await.expect("no cut").expect("a first event");
    let id = answer.id();
    assert_refusal(&request, &tenant, IN_FLIGHT, &id).await;
    drop(answer);
    eventually("the call is charged", async || {
        tenant.records().await.iter().any(|record| is_debit_of(record, &id)).then_some(())
    })
    .await;
    let error = assert_refusal(&request, &tenant, EXECUTED, &id).await;
    assert_as_logged(&error, &tenant, &id).await;
    assert_eq!(tenant.log(&id).await.at("outcome").text(), "Cancelled");
    assert_eq!(provider.request_count(), 1);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completed_calls_stay_executed_after_a_kill() {
    let provider = provider().await;
    let mut gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let mut ended = Vec::new();
    for key in 0..20 {
        let request = call(&tenant, IMMEDIATE_BOUND, &key.to_string());
        let id = complete(&request, &tenant).await;
        ended.push((request, id));
    }
    // The last of the calls are only in the journal.
    gateway.kill();
    let mut gateway = gateway.restart().await;
    for round in 0..2 {
        let tenant = Tenant { proxy: gateway.proxy.clone(), ..Tenant::of_demo(&gateway) };
        for (request, id) in &ended {
            let error = assert_refusal(request, &tenant, EXECUTED, id).await;
            assert_eq!(error.at("call.usage.inputTokens").count(), USAGE.prompt, "{error}");
        }
        if round == 0 {
            gateway = gateway.restart().await;
        }
    }
    assert_eq!(provider.request_count(), ended.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_killed_after_output_count_as_executed() {
    let provider = provider().await;
    let mut gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let (silent, started) =
        (call(&tenant, STALLED_BOUND, "silent"), call(&tenant, SLOW_STREAM_BOUND, "started"));
    let (request, proxy) = (silent.clone(), tenant.proxy.clone());
    let waiting = tokio::spawn(async move { request.try_send(&proxy).await.is_ok() });
    let mut answer = started.send(&tenant.proxy).await;
    // Longer than the checkpoint interval of one second.
    for _ in 0..60 {
        answer.piece().await.expect("no cut").expect("more to come");
    }
    provider.wait_for_requests(2).await;
    gateway.kill();
    assert!(!waiting.await.expect("the call ends"), "the call was not answered");
    let gateway = gateway.restart().await;
    let (admin, proxy) = (gateway.admin.clone(), gateway.proxy.clone());
    let tenant = Tenant { admin, proxy, ..tenant };
    let error = assert_refusal(&started, &tenant, EXECUTED, &answer.id()).await;
    assert_as_logged(&error, &tenant, &answer.id()).await;
    provider.release();
    let id = complete(&silent, &tenant).await;
    assert_refusal(&silent, &tenant, EXECUTED, &id).await;
    assert_eq!(provider.request_count(), 3, "only the silent call was forwarded again");
    tenant.assert_settled().await;
}
