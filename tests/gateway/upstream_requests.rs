//! Which upstream serves a call, what the gateway sends to it, and on which connection.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, WORDS, bound, chat, completion, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream, closed_port};
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

async fn answering_upstream() -> Upstream {
    Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await
}

/// A provider that answers every request with this status.
async fn failing_upstream(status: u16) -> Upstream {
    let body = format!(r#"{{"error":{{"message":"failed by plan","code":{status}}}}}"#);
    Upstream::start(move |_| Plan::json(status, body.clone())).await
}

async fn setup(rows: &str) -> (Server, Tenant) {
    let served = Server::start(ConfigDir::new(rows)).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    (served, tenant)
}

/// Completes a call. Returns its log entry.
async fn complete(tenant: &Tenant, body: &str) -> Json {
    let answer = Request::chat(&tenant.key, body).send(&tenant.proxy).await;
    assert_eq!(answer.status, 200);
    let id = answer.id();
    let stream = body.contains(r#""stream":true"#);
    let expected = if stream { events(WORDS, None).concat() } else { completion(USAGE) };
    assert_eq!(answer.text().await, expected, "the response is relayed unchanged");
    let debit = tenant.debit(&id).await;
    assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE), "{debit}");
    tenant.log(&id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_model_replaces_only_the_model_in_the_body() {
    let provider = answering_upstream().await;
    let odd = r#"vendor/"große" \ 7b"#;
    let rows = upstream("fake", &provider.url)
        + &model("assistant", &format!("upstream = \"fake\"\nupstream_model = '{odd}'"))
        + &model("plain", "upstream = \"fake\"");
    let (_served, tenant) = setup(&rows).await;
    let upstream_name = r#""vendor/\"große\" \\ 7b""#;
    for body in [
        r#"{"model":@,"messages":[],"max_tokens":9}"#,
        r#"{ "messages" : [{"role":"user","content":"\"model\":\"assistant\""}] , "max_tokens":9,"model" : @ }"#,
        r#"{"metadata":{"model":"assistant"},"model":@,"messages":[],"max_tokens":9}"#,
    ] {
        // The same name in another JSON spelling.
        for name in [r#""assistant""#, r#""assist\u0061nt""#] {
            let log = complete(&tenant, &body.replace('@', name)).await;
            assert_eq!(log.at("model").text(), "assistant", "{log}");
            assert_eq!(log.at("upstreamModel").text(), odd, "{log}");
            let seen = provider.requests().pop().expect("the call");
            let expected = body.replace('@', upstream_name);
            assert_eq!(seen.body, expected);
            assert_eq!(seen.header("content-length"), Some(&*expected.len().to_string()));
        }
    }
    let log = complete(&tenant, &chat("plain", 9, false)).await;
    assert!(log.at("upstreamModel").is_null(), "the upstream model has the same name: {log}");
    assert_eq!(provider.requests().pop().expect("the call").body, chat("plain", 9, false));

    let listed = Request::get("/v1/models").bearer(&tenant.key).send(&tenant.proxy).await;
    let listed = listed.text().await;
    assert!(listed.contains("assistant") && !listed.contains("vendor"), "{listed}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gets_the_upstream_model_and_the_usage_option() {
    let provider = answering_upstream().await;
    let rows = upstream("fake", &provider.url)
        + &model("assistant", "upstream = \"fake\"\nupstream_model = \"vendor-7b\"");
    let (_served, tenant) = setup(&rows).await;
    for sent in [
        r#"{"model":"assistant","stream":true,"messages":[],"max_tokens":9}"#,
        r#"{"stream":true,"max_tokens":9,"messages":[],"model":"assistant"}"#,
        r#"{"stream":true,"stream_options":{},"messages":[],"max_tokens":9,"model":"assistant"}"#,
        r#"{"model":"assistant","stream":true,"stream_options":{"include_usage":false},"messages":[],"max_tokens":9}"#,
    ] {
        let log = complete(&tenant, sent).await;
        assert_eq!(log.at("upstreamModel").text(), "vendor-7b", "{log}");
        let seen = provider.requests().pop().expect("the call");
        assert_eq!(seen.json().at("model").text(), "vendor-7b", "{}", seen.body);
        assert!(seen.is_set("stream_options.include_usage"), "{}", seen.body);
        for expected_part in [r#""stream":true"#, r#""messages":[]"#, r#""max_tokens":9"#] {
            assert!(seen.body.contains(expected_part), "{}", seen.body);
        }
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_target_serves_when_the_first_fails() {
    let second = answering_upstream().await;
    let (_closed, closed_url) = closed_port();
    let cutting = Upstream::start(|_| Plan::json(200, "").insert_step(0, Step::Cut)).await;
    let silent = Upstream::start(|_| Plan::json(200, "{}").insert_step(0, Step::Stall)).await;
    let mut firsts =
        vec![("closed", closed_url, None), ("cut", cutting.url.clone(), Some(cutting))];
    firsts.push(("silent", silent.url.clone(), Some(silent)));
    for (name, status) in
        [("s429", 429), ("s500", 500), ("s503", 503), ("s401", 401), ("s402", 402), ("s403", 403)]
    {
        let first = failing_upstream(status).await;
        firsts.push((name, first.url.clone(), Some(first)));
    }
    let mut rows = upstream("second", &second.url);
    for (name, url, _) in &firsts {
        rows += &upstream(name, url);
        rows += if *name == "silent" { "first_byte_timeout_ms = 200\n" } else { "" };
        // The priority decides, not the order in the file.
        let targets = format!(
            r#"targets = [{{ upstream = "second", priority = 2 }}, {{ upstream = "{name}", model = "only-there", priority = 1 }}]"#
        );
        rows += &model(&format!("via-{name}"), &targets);
    }
    let (_served, tenant) = setup(&rows).await;
    for (index, (name, _, first)) in firsts.iter().enumerate() {
        let body = chat(&format!("via-{name}"), 40, index % 2 == 0);
        let log = complete(&tenant, &body).await;
        assert_eq!(log.at("upstream").text(), "second", "{name}: {log}");
        assert!(log.at("upstreamModel").is_null(), "{name}: {log}");
        assert_eq!(log.at("attempts").count(), 2, "{name}: {log}");
        assert_eq!(log.at("settledBy").text(), "usage", "{name}: {log}");
        assert_eq!(second.request_count(), index + 1, "{name}: one request");
        if let Some(first) = first {
            let seen = first.requests();
            assert_eq!(seen.len(), 1, "{name}: one request");
            assert_eq!(seen[0].json().at("model").text(), "only-there");
        }
    }
    let calls = firsts.len() as u64;
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), calls);
    assert_eq!(
        tenant.records().await.len() as u64,
        calls + 1,
        "one debit per call, and the recharge"
    );
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_over_has_one_hold() {
    let first = failing_upstream(500).await;
    let second = Upstream::start(|seen| {
        let mut plan = reply(seen, USAGE, Duration::ZERO);
        plan.steps.insert(0, Step::Stall);
        plan
    })
    .await;
    let targets = r#"targets = [{ upstream = "first" }, { upstream = "second", priority = 1 }]"#;
    let rows =
        upstream("first", &first.url) + &upstream("second", &second.url) + &model("both", targets);
    let (_served, tenant) = setup(&rows).await;
    let body = chat("both", 40, false);
    let (request, proxy) = (Request::chat(&tenant.key, &body), tenant.proxy.clone());
    let call = tokio::spawn(async move { request.send(&proxy).await.text().await });
    second.wait_for_requests(1).await;
    let holds = tenant.holds().await;
    assert_eq!(holds.len(), 1, "{holds:?}");
    let max_cost = GPT_4O_MINI.cost(bound(&body, 40));
    assert_eq!(holds[0].at("amount").nano(), max_cost, "{holds:?}");
    assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), max_cost);
    second.release();
    assert_eq!(call.await.expect("the call"), completion(USAGE));
    assert_eq!((first.request_count(), second.request_count()), (1, 1));
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_error_is_not_retried_on_the_second_target() {
    let (first, second) = (failing_upstream(400).await, answering_upstream().await);
    let targets = r#"targets = [{ upstream = "first" }, { upstream = "second", priority = 1 }]"#;
    let rows =
        upstream("first", &first.url) + &upstream("second", &second.url) + &model("both", targets);
    let (_served, tenant) = setup(&rows).await;
    let answer = Request::chat(&tenant.key, chat("both", 40, false)).send(&tenant.proxy).await;
    assert_eq!(answer.status, 400);
    let id = answer.id();
    assert!(answer.text().await.contains("failed by plan"));
    let log = tenant.log(&id).await;
    assert_eq!(log.at("attempts").count(), 1, "{log}");
    assert_eq!((first.request_count(), second.request_count()), (1, 0));
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_target_fails_the_last_error_is_returned_free() {
    let (busy, broken, unauthorized) =
        (failing_upstream(429).await, failing_upstream(500).await, failing_upstream(401).await);
    let both = |a: &str, b: &str| {
        format!(r#"targets = [{{ upstream = "{a}" }}, {{ upstream = "{b}", priority = 1 }}]"#)
    };
    let rows = upstream("busy", &busy.url)
        + &upstream("broken", &broken.url)
        + &upstream("shut", &unauthorized.url)
        + &model("busy-broken", &both("busy", "broken"))
        + &model("broken-shut", &both("broken", "shut"));
    let (_served, tenant) = setup(&rows).await;
    for (requests, name, status, source) in
        [(1, "busy-broken", 500, "upstream"), (2, "broken-shut", 502, "gateway")]
    {
        let answer = Request::chat(&tenant.key, chat(name, 40, false)).send(&tenant.proxy).await;
        assert_eq!(answer.status, status, "{name}");
        assert_eq!(answer.header("x-meteor-error-source"), Some(source), "{name}");
        let id = answer.id();
        let body = answer.text().await;
        assert_eq!(body.contains("failed by plan"), source == "upstream", "{body}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("attempts").count(), 2, "{log}");
        assert_eq!(log.at("outcome").text(), "Failed", "{log}");
        assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), requests);
    }
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_reused_until_the_upstream_closes_it() {
    let provider = answering_upstream().await;
    let rows = upstream("fake", &provider.url) + &model("plain", "upstream = \"fake\"");
    let (_served, tenant) = setup(&rows).await;
    for round in 0..10 {
        for stream in [false, true] {
            let log = complete(&tenant, &chat("plain", 40, stream)).await;
            assert_eq!(log.at("attempts").count(), 1, "a single attempt: {log}");
            let seen = provider.requests().pop().expect("the call");
            assert_eq!(seen.connection, round, "the connection is reused until it is closed");
        }
        // The next call may come before the gateway has noticed; it is then sent on a new
        // connection.
        provider.close_idle_connections().await;
    }
    assert_eq!(provider.request_count(), 20, "no call was sent twice");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_upstream_times_out() {
    let provider = Upstream::start(|seen| {
        let sent = if seen.is_set("stream") { 3 } else { 0 };
        reply(seen, USAGE, Duration::ZERO).insert_step(sent, Step::Stall)
    })
    .await;
    let timeouts = "first_byte_timeout_ms = 300\nidle_timeout_ms = 300\n";
    let rows = upstream("fake", &provider.url) + timeouts + &model("plain", "upstream = \"fake\"");
    let (_served, tenant) = setup(&rows).await;
    let answer = Request::chat(&tenant.key, chat("plain", 40, false)).send(&tenant.proxy).await;
    assert_eq!(answer.status, 504);
    let log = tenant.log(&answer.id()).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    assert_eq!(answer.json().await.at("error.type").text(), "upstream_error");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS);
    provider.wait_for_disconnect(0).await;

    let request = Request::chat(&tenant.key, chat("plain", 40, true));
    let mut answer = request.send(&tenant.proxy).await;
    assert_eq!(answer.status, 200, "the response had started");
    let (rest, whole) = answer.read_to_end().await;
    assert!(!whole, "a broken response has no clean end: {rest:?}");
    provider.wait_for_disconnect(1).await;
    let id = answer.id();
    let logged = eventually("the end is logged", async || {
        let logs = tenant.logs().await;
        logs.into_iter().find(|log| log.at("requestLogId").text() == id)
    })
    .await;
    assert_eq!(logged.at("settledBy").text(), "estimate", "{logged}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_receives_its_credential_but_not_the_clients() {
    let secret = "s3cret-of-the-upstream";
    let provider = answering_upstream().await;
    let row = |name: &str, more: &str| upstream(name, &provider.url) + more;
    let secret_source = r#"secret = { env = "FAKE_SECRET" }"#;
    let rows = row(
        "bearer",
        &format!("auth = {{ {secret_source} }}\nheaders = {{ X-Team = \"blue\" }}\n"),
    ) + &row(
        "header",
        &format!("auth = {{ kind = \"header\", header = \"api-key\", {secret_source} }}\n"),
    ) + &row(
        "query",
        &format!("auth = {{ kind = \"query\", parameter = \"code\", {secret_source} }}\n"),
    ) + &upstream("deeper", &format!("{}/tenant/a", provider.url))
        + &["bearer", "header", "query", "deeper"]
            .map(|name| model(name, &format!("upstream = \"{name}\"")))
            .concat();
    let served = Server::start(ConfigDir::new(&rows).with_env("FAKE_SECRET", secret)).await;
    served.forbid_in_log(secret);
    let tenant = served.tenant(FUNDS, "{}").await;
    let bearer = format!("Bearer {secret}");
    for (name, credential, target) in [
        ("bearer", Some(("authorization", &*bearer)), "/v1/chat/completions".to_owned()),
        ("header", Some(("api-key", secret)), "/v1/chat/completions".to_owned()),
        ("query", None, format!("/v1/chat/completions?code={secret}")),
        ("deeper", None, "/tenant/a/v1/chat/completions".to_owned()),
    ] {
        let path = format!("/v1/chat/completions?key={}", tenant.key);
        for by_query in [false, true] {
            let body = chat(name, 40, false);
            let request = if by_query {
                Request::post(&path, body)
            } else {
                Request::chat(&tenant.key, body)
            };
            let answer = request.header("x-team", "red").send(&tenant.proxy).await;
            assert_eq!(answer.status, 200, "{name}");
            assert!(!format!("{:?}", answer.headers).contains(secret), "{name}");
            answer.text().await;
            let seen = provider.requests().pop().expect("the call");
            assert_eq!(seen.target, target, "{name}");
            assert!(!seen.head.contains(&tenant.key), "{name}: {}", seen.head);
            for header in ["authorization", "api-key"] {
                let value = credential
                    .filter(|(credential, _)| *credential == header)
                    .map(|(_, value)| value);
                assert_eq!(seen.header(header), value, "{name}: {}", seen.head);
            }
            let team = if name == "bearer" { "blue" } else { "red" };
            assert_eq!(seen.header("x-team"), Some(team), "{name}: {}", seen.head);
        }
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_another_dialect_is_unknown() {
    let provider = answering_upstream().await;
    let rows = upstream("elsewhere", &provider.url)
        + "dialects = [\"anthropic\"]\n"
        + &upstream("here", &provider.url)
        + &model("claude", "upstream = \"elsewhere\"")
        + &model("gpt", "upstream = \"here\"");
    let (_served, tenant) = setup(&rows).await;
    let call = Request::chat(&tenant.key, r#"{"model":"claude","messages":[],"max_tokens":9}"#);
    let answer = call.send(&tenant.proxy).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json().await.at("error").at("code").text(), "model_not_found");
    assert_eq!(provider.request_count(), 0);
    let listed = Request::get("/v1/models").bearer(&tenant.key).send(&tenant.proxy).await;
    let listed = listed.json().await.at("data").list();
    assert_eq!(listed.iter().map(|model| model.at("id").text()).collect::<Vec<_>>(), ["gpt"]);
}
