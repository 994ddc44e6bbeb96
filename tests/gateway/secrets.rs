//! Keys and upstream secrets are never disclosed to clients, providers, logs or files.
//!
//! When a gateway ends, the harness asserts that its log contains no forbidden secret.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::process::contains_secret;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

const MODEL: &str = "gpt-4o-mini";
/// The upstream credential, which a provider may echo in an error.
const UPSTREAM_SECRET: &str = "sk-proj-Upstream0Secret1That2Nobody3May4See5";

async fn answering_upstream() -> Upstream {
    Upstream::start(|seen| reply(seen, Usage::of(9, 3), Duration::ZERO)).await
}

async fn assert_refused(request: Request, gateway: &Gateway, status: u16) -> Json {
    let answer = request.send(&gateway.proxy).await;
    assert_eq!(answer.status, status);
    assert_eq!(answer.header("x-meteor-error-source"), Some("gateway"));
    let error = answer.json().await.at("error");
    assert!(!error.at("message").text().is_empty(), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_401_and_has_no_effect() {
    let upstream = answering_upstream().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let body = chat(MODEL, 5, false);
    let mut altered = tenant.key.clone().into_bytes();
    altered[20] = if altered[20] == b'a' { b'b' } else { b'a' };
    let altered = String::from_utf8(altered).expect("a key is ASCII");
    let unknown = format!("sk-mtr-{}", "0".repeat(49));
    let long = "k".repeat(5_000);
    let token = gateway.token.as_str();
    for key in ["", "sk-", "sk-mtr-", "nonsense", &altered, &unknown, &long, token] {
        let error = assert_refused(Request::chat(key, &body), &gateway, 401).await;
        assert_eq!(error.at("type").text(), "authentication_error", "{key}: {error}");
        assert_eq!(error.at("code").text(), "invalid_api_key", "{key}: {error}");
        assert!(key.len() < 9 || !error.to_string().contains(key), "a key is not echoed: {error}");
    }
    assert_refused(Request::post("/v1/chat/completions", &body), &gateway, 401).await;
    let basic = Request::post("/v1/chat/completions", &body).header("authorization", "Basic YTpi");
    assert_refused(basic, &gateway, 401).await;
    let two = Request::chat(&tenant.key, &body).header("x-api-key", &unknown);
    assert_refused(two, &gateway, 401).await;
    // An API key is not an admin token.
    let answer = Request::get("/api/projects").bearer(&tenant.key).send(&gateway.admin).await;
    assert_eq!(answer.status, 401);
    assert_eq!(upstream.request_count(), 0);
    tenant.assert_settled().await;
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
    assert!(tenant.logs().await.is_empty(), "a call without a valid key is not logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_accepted_in_five_positions_and_never_forwarded() {
    let upstream = answering_upstream().await;
    let gateway = Gateway::with_trace_log(&upstream).await;
    let key = &gateway.key;
    // The part of the key that is the same in every spelling.
    gateway.forbid_in_log(&key[10..]);
    let escaped = key.replace('-', "%2D");
    let path = "/v1/chat/completions";
    let body = chat(MODEL, 5, false);
    for request in [
        Request::chat(key, &body),
        Request::post(path, &body).header("authorization", &format!("bearer {key}")),
        Request::post(path, &body).header("x-api-key", key),
        Request::post(path, &body).header("x-goog-api-key", key),
        Request::post(path, &body).header("api-key", key),
        Request::post(&format!("{path}?key={key}"), &body),
        Request::post(&format!("{path}?a=1&key={key}&b=2"), &body).header("cookie", "a=b"),
        Request::post(&format!("{path}?k%65y={escaped}"), &body).header("x-api-key", ""),
        Request::post(&format!("{path}?key={key}"), &body).header("x-goog-api-key", key),
    ] {
        let request = request.header("openai-organization", "org-x").header("x-mine", "kept");
        assert_eq!(request.send(&gateway.proxy).await.status, 200, "{request:?}");
    }
    let seen = upstream.requests();
    assert_eq!(seen.len(), 9);
    for seen in seen {
        let head = seen.head.to_lowercase();
        assert!(!seen.head.contains(&key[10..]) && !seen.body.contains(key), "{head}");
        for dropped in ["x-api-key:", "x-goog-api-key:", "cookie:", "openai-organization:", "key="]
        {
            assert!(!head.contains(dropped), "{dropped} is not forwarded: {head}");
        }
        assert!(head.contains("x-mine: kept"), "other headers pass: {head}");
        assert_eq!(seen.target.split('?').next(), Some(path));
    }
    // A refused key is not disclosed either, whatever its position.
    let other = format!("sk-mtr-{}", "0".repeat(49));
    gateway.forbid_in_log(&other[10..]);
    for request in [
        Request::post(&format!("{path}?key={other}"), &body),
        Request::post(&format!("{path}?key={key}&key={other}"), &body),
        Request::chat(key, &body).bearer(&other),
        Request::chat(key, &body).header("x-goog-api-key", &other),
        Request::post(&format!("/v1beta/models/m:generateContent?key={other}"), &body),
        Request::get(&format!("/v1beta/models?key={other}")),
    ] {
        assert_eq!(request.send(&gateway.proxy).await.status, 401, "{request:?}");
    }
    let unknown_path = Request::get(&format!("/v1beta/files?key={key}"));
    assert_eq!(unknown_path.send(&gateway.proxy).await.status, 404);
    assert_eq!(upstream.request_count(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_credential_error_becomes_a_502_without_its_body() {
    for status in [401, 402, 403] {
        let error_body = format!(
            r#"{{"error":{{"message":"Incorrect API key provided: {UPSTREAM_SECRET}","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}}}"#
        );
        let upstream = Upstream::start(move |_| Plan::json(status, error_body.clone())).await;
        let gateway = Gateway::with_trace_log(&upstream).await;
        gateway.forbid_in_log(UPSTREAM_SECRET);
        let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
        for stream in [false, true] {
            let request = Request::chat(&tenant.key, chat(MODEL, 5, stream));
            let answer = request.send(&gateway.proxy).await;
            let circuit_open = stream && answer.status == 503; // The circuit may have opened by now.
            assert!(answer.status == 502 || circuit_open, "{status}: {}", answer.status);
            assert_eq!(answer.header("x-meteor-error-source"), Some("gateway"));
            let heads = format!("{:?}", answer.headers);
            let body = answer.text().await;
            assert!(!body.contains("Incorrect") && !body.contains(UPSTREAM_SECRET), "{body}");
            assert!(!heads.contains(UPSTREAM_SECRET), "{heads}");
            let kind = Json::new(&body).at("error.type").text();
            assert!(kind == "upstream_error" || circuit_open, "{body}");
        }
        tenant.assert_settled().await;
        assert_eq!(
            tenant.wallet().await.at("balance").nano(),
            1_000_000_000,
            "the call costs nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_provider_errors_pass_byte_for_byte() {
    let text = "{ \"error\" : {\"message\":\"tö many\", \"odd\":[1, 2]} }\n";
    let upstream = Upstream::start(move |seen| {
        let status = seen.json().at("seed").count();
        let mut plan = Plan::json(u16::try_from(status).expect("a status"), text);
        plan.headers.push(("x-request-id", "req_theirs".to_owned()));
        plan.headers.push(("x-ratelimit-limit-requests", "31337".to_owned()));
        plan.headers.push(("set-cookie", "theirs=1".to_owned()));
        plan.headers.push(("openai-organization", "org-theirs".to_owned()));
        plan
    })
    .await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    for status in [400, 404, 409, 418, 422] {
        let body = format!(r#"{{"model":"{MODEL}","messages":[],"max_tokens":5,"seed":{status}}}"#);
        let answer = Request::chat(&tenant.key, body).send(&gateway.proxy).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-meteor-error-source"), Some("upstream"));
        assert_eq!(answer.header("x-upstream-request-id"), Some("req_theirs"));
        assert_ne!(answer.header("x-request-id"), Some("req_theirs"));
        assert_ne!(answer.header("x-ratelimit-limit-requests"), Some("31337"));
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(answer.header("openai-organization"), None);
        assert_eq!(answer.text().await, text);
    }
    tenant.assert_settled().await;
    assert_eq!(tenant.wallet().await.at("balance").nano(), 1_000_000_000, "an error costs nothing");
    assert_eq!(
        tenant.usage().await.at("dailyUsage.requestCount").count(),
        5,
        "an error counts as a request"
    );
}

/// Answers with the status in `seed` and echoes the target in headers and body.
fn echo_target(seen: &ReceivedRequest) -> Plan {
    let (status, target) = (seen.json().at("seed").count(), &seen.target);
    let mut plan = Plan::json(u16::try_from(status).expect("a status"), "");
    for name in ["location", "content-location", "x-asked"] {
        plan.headers.push((name, format!("http://127.0.0.1:9{target}")));
    }
    plan.headers.push(("refresh", format!("0; url={target}")));
    plan.headers.push(("x-mine", "kept".to_owned()));
    // The secret at the end of the target is split over two writes.
    let half = target.len().saturating_sub(UPSTREAM_SECRET.len() / 2);
    let mut pieces = vec![format!("no {}", &target[..half]), format!("{} here", &target[half..])];
    if seen.json().at("n").count() == 2 {
        pieces.push("x".repeat(64 << 10));
    }
    plan.steps = pieces.into_iter().map(|piece| Step::Send(piece.into_bytes())).collect();
    plan.chunked = status == 404;
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echoed_secret_in_the_target_is_redacted() {
    let provider = Upstream::start(echo_target).await;
    let auth = "auth = { kind = \"query\", parameter = \"code\", secret = { env = \"CODE\" } }\n";
    let with_secret = upstream("own", &provider.url) + auth;
    let without_secret = upstream("none", &provider.url);
    let models = model("m", "upstream = \"own\"") + &model("n", "upstream = \"none\"");
    let config_dir = ConfigDir::new(&(with_secret + &without_secret + &models))
        .with_env("CODE", UPSTREAM_SECRET);
    let served = Server::start(config_dir).await;
    served.forbid_in_log(UPSTREAM_SECRET);
    let tenant = served.tenant(1_000_000_000, "{}").await;
    let call = async |model: &str, status: u16, n: u8| {
        let body = format!(
            r#"{{"model":"{model}","messages":[],"max_tokens":5,"seed":{status},"n":{n}}}"#
        );
        Request::chat(&tenant.key, body).send(&tenant.proxy).await
    };
    for status in [307, 400, 404, 503] {
        let answer = call("m", status, 1).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-meteor-error-source"), Some("upstream"));
        assert_eq!(answer.header("x-mine"), Some("kept"));
        for name in ["location", "content-location", "refresh", "x-asked"] {
            assert_eq!(answer.header(name), None, "{status}");
        }
        assert_eq!(answer.text().await, "no /v1/chat/completions?code=*** here");
    }
    // An error body that is too long to be searched is replaced.
    let answer = call("m", 404, 2).await;
    let (status, id) = (answer.status, answer.id());
    let body = answer.text().await;
    assert!(status == 502 && !body.contains(UPSTREAM_SECRET), "{status}: {body}");
    assert_eq!(Json::new(&body).at("error.code").text(), "upstream_error");
    assert_eq!(tenant.log(&id).await.at("status").count(), 502);
    // Without a secret in the target, only the location headers are removed.
    let answer = call("n", 404, 2).await;
    assert_eq!((answer.status, answer.header("location")), (404, None));
    assert!(answer.header("x-asked").is_some() && answer.text().await.len() > 64 << 10);
    tenant.assert_settled().await;
    assert_eq!(tenant.wallet().await.at("balance").nano(), 1_000_000_000, "an error costs nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_stored_as_hashes_except_in_the_demo_file() {
    let upstream = answering_upstream().await;
    let mut gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    for key in [&gateway.key, &tenant.key] {
        let call = Request::chat(key, chat(MODEL, 5, true)).send(&gateway.proxy).await;
        call.text().await;
    }
    gateway.terminate();
    gateway.wait_exit().await;
    let (mut folders, mut files) = (vec![gateway.data_folder()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let meta = entry.metadata().expect("the metadata of a file");
            if meta.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "demo.json" {
                assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
            } else {
                let bytes = fs::read(entry.path()).expect("a readable file");
                let text = String::from_utf8_lossy(&bytes);
                let is_leaked = contains_secret(&text) || text.contains(&tenant.key[7..]);
                assert!(!is_leaked, "a secret is in {:?}", entry.path());
                files += 1;
            }
        }
    }
    assert!(files > 0, "the data folder is not empty");
}
