//! State stored at a provider: only the project that received its id may refer to it, and the call
//! is sent to the upstream that created it.

use std::time::Duration;

use crate::harness::anthropic::{complete_message, events, message};
use crate::harness::client::Request;
use crate::harness::openai::{Usage, WORDS};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
const ANTHROPIC_DIALECT: &str = "dialects = [\"anthropic\"]\n";

/// A provider that reports a container with each response.
async fn provider(name: &'static str) -> Upstream {
    Upstream::start(move |seen| reply(seen, name)).await
}

fn reply(seen: &ReceivedRequest, name: &str) -> Plan {
    let stream = seen.is_set("stream");
    let kind = if stream { "streamed" } else { "whole" };
    let container = format!(
        r#""container":{{"expires_at":"2027-01-01T00:00:00Z","id":"container_{name}_{kind}"}}"#
    );
    if stream {
        // Reported only at the end, as when the model starts to use it during its response.
        let delta = format!(r#""delta":{{{container},"#);
        let mut events = events(WORDS, USAGE);
        let end = events.len() - 2;
        events[end] = events[end].replacen(r#""delta":{"#, &delta, 1);
        Plan::stream(events, Duration::ZERO)
    } else {
        Plan::json(200, complete_message(USAGE).replacen('{', &format!("{{{container},"), 1))
    }
}

/// A body with an additional field.
fn body_with(field: &str, stream: bool) -> String {
    message("both", Some(20), stream).replacen('{', &format!("{{{field},"), 1)
}

fn body_with_container(id: &str) -> String {
    body_with(&format!(r#""container":"{id}""#), false)
}

/// Two upstreams with a model each, and the model `both` with the first and the second as targets.
fn rows([first, second]: [&Upstream; 2], more: &str) -> String {
    let alone = |name: &str| model(name, &format!("upstream = \"{name}\""));
    upstream("first", &first.url)
        + ANTHROPIC_DIALECT
        + &upstream("second", &second.url)
        + ANTHROPIC_DIALECT
        + more
        + &model(
            "both",
            r#"targets = [{ upstream = "first" }, { upstream = "second", priority = 1 }]"#,
        )
        + &alone("first")
        + &alone("second")
}

async fn call(tenant: &Tenant, body: &str) -> (u16, String) {
    let request = Request::post("/v1/messages", body).header("x-api-key", &tenant.key);
    let answer = request.send(&tenant.proxy).await;
    (answer.status, answer.text().await)
}

async fn assert_served(tenant: &Tenant, body: &str) {
    let (status, text) = call(tenant, body).await;
    assert_eq!(status, 200, "{body}: {text}");
}

async fn assert_refused(tenant: &Tenant, body: &str, field: &str) {
    let (status, text) = call(tenant, body).await;
    assert_eq!(status, 400, "{body}: {text}");
    assert!(text.contains(&format!("`{field}` refers to state at the provider")), "{text}");
}

const FIRST_IDS: [&str; 2] = ["container_first_whole", "container_first_streamed"];
const SECOND_IDS: [&str; 2] = ["container_second_whole", "container_second_streamed"];

/// Asserts that `tenant` may use the state it received, at its upstream, and `other` may not.
async fn check_access(tenant: &Tenant, other: &Tenant, upstreams: [&Upstream; 2]) {
    let before = upstreams.map(Upstream::request_count);
    let forwarded = || [0, 1].map(|at| upstreams[at].request_count() - before[at]);
    for id in FIRST_IDS {
        assert_served(tenant, &body_with_container(id)).await;
    }
    let object = format!(r#""container":{{"id":"{}","skills":[]}}"#, FIRST_IDS[0]);
    assert_served(tenant, &body_with(&object, true)).await;
    assert_eq!(forwarded(), [3, 0]);
    for id in SECOND_IDS {
        assert_served(tenant, &body_with_container(id)).await;
    }
    assert_eq!(forwarded(), [3, 2], "not to the first, although it has priority");

    for id in FIRST_IDS.into_iter().chain(SECOND_IDS) {
        assert_refused(other, &body_with_container(id), "container").await;
    }
    assert_refused(tenant, &body_with_container("container_unknown"), "container").await;
    let at_second = body_with_container(SECOND_IDS[0]).replace("both", "first");
    assert_refused(tenant, &at_second, "container").await;
    let file = r#"{"type":"document","source":{"type":"file","file_id":"container_first_whole"}}"#;
    let file_call = |more: &str| {
        format!(
            r#"{{"model":"both","max_tokens":20,{more}"messages":[{{"role":"user","content":[{file}]}}]}}"#
        )
    };
    assert_refused(tenant, &file_call(""), "file_id").await;
    assert_refused(tenant, &file_call(&format!(r#""container":"{}","#, FIRST_IDS[0])), "container")
        .await;
    assert_eq!(forwarded(), [3, 2], "refused calls are not forwarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_state_belongs_to_its_project_and_survives_a_kill() {
    let upstreams = [&provider("first").await, &provider("second").await];
    let mut served = Server::start(ConfigDir::new(&rows(upstreams, ""))).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    let other = tenant.create_tenant(&served, FUNDS, "{}").await;
    for (model, stream) in [("first", false), ("first", true), ("second", false), ("second", true)]
    {
        assert_served(&tenant, &message(model, Some(20), stream)).await;
    }
    served.kill();
    let served = served.restart().await;
    let (tenant, other) = (served.rebind(tenant), served.rebind(other));
    check_access(&tenant, &other, upstreams).await;
    // A project may refer to the state as soon as it has seen the end of the response.
    for model in ["first", "second"] {
        assert_served(&other, &message(model, Some(20), false)).await;
        assert_served(&other, &message(model, Some(20), true)).await;
    }
    let third = other.create_tenant(&served, FUNDS, "{}").await;
    check_access(&other, &third, upstreams).await;
    other.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_upstream_accepts_unknown_state_ids() {
    let upstreams = [&provider("first").await, &provider("second").await];
    let served = Server::start(ConfigDir::new(&rows(upstreams, "dedicated = true\n"))).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    assert_served(&tenant, &body_with_container("container_unknown")).await;
    assert_eq!(upstreams.map(Upstream::request_count), [0, 1]);
    assert_served(&tenant, &message("first", Some(20), false)).await;
    assert_served(&tenant, &body_with_container(FIRST_IDS[0])).await;
    assert_eq!(upstreams.map(Upstream::request_count), [2, 1], "at the upstream that created it");
    tenant.assert_settled().await;
}
