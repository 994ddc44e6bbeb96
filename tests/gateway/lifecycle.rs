//! Probes, metrics, listings and shutdown of the process.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, WORDS, chat, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 11, completion: 4, cached: 0, reasoning: 0 };

async fn status(path: &str, authority: &str) -> Option<u16> {
    Request::get(path).try_send(authority).await.ok().map(|answer| answer.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_on_both_listeners() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(status(path, &gateway.admin).await, Some(200), "{path}");
    }
    let bare = status("/healthz", &gateway.proxy).await;
    assert_eq!(bare, Some(200), "an unauthenticated probe for load balancers");
    assert_eq!(status("/metrics", &gateway.proxy).await, Some(404), "metrics are not for clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_documented_and_contain_no_keys() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyRequestLimit":3}"#).await;
    for index in 0..5 {
        let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 9, index % 2 == 0));
        request.send(&gateway.proxy).await.text().await;
    }
    let answer = Request::get("/metrics").send(&gateway.admin).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let text = answer.text().await;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("meteor_"), "every metric has the meteor_ prefix: {line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(text.contains("daily_requests_exceeded"), "refusals by reason:\n{text}");
    let served: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(served, documented_metrics(), "docs/metrics.md lists exactly the served metrics");
    for hidden in [&tenant.key, &gateway.token, &tenant.project, &tenant.organization] {
        assert!(!text.contains(hidden.as_str()), "no label of unbounded cardinality");
    }
}

/// The metric names in the first column of the table in docs/metrics.md.
fn documented_metrics() -> BTreeSet<&'static str> {
    let text = include_str!("../../docs/metrics.md");
    text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_models_and_limits_requires_a_key_and_is_free() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyRequestLimit":3}"#).await;
    let models = Request::get("/v1/models").bearer(&tenant.key).send(&gateway.proxy).await;
    let models = models.json().await;
    assert_eq!(models.at("object").text(), "list");
    let ids: Vec<_> = models.at("data").list().iter().map(|model| model.at("id").text()).collect();
    for model in ["gpt-4o-mini", "gpt-4o", "gpt-5-mini", "o4-mini", "text-embedding-3-small"] {
        assert!(ids.iter().any(|id| id == model), "{model} is missing in {ids:?}");
    }
    let limits = Request::get("/v1/limits").bearer(&tenant.key).send(&gateway.proxy).await;
    assert_eq!(limits.status, 200);
    let limits = limits.text().await;
    assert!(limits.contains("remaining") && limits.contains("resetAt"), "{limits}");
    for path in ["/v1/models", "/v1/limits"] {
        assert_eq!(status(path, &gateway.proxy).await, Some(401), "{path} without a key");
    }
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
    assert_eq!(upstream.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_open_calls_finish_and_exits_with_success() {
    let upstream = Upstream::start(|seen| {
        let usage = seen.is_set("stream_options.include_usage").then_some(USAGE);
        Plan::stream(events(WORDS, usage), Duration::ZERO).insert_step(2, Step::Stall)
    })
    .await;
    let mut gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 50, true));
    let mut answer = request.send(&gateway.proxy).await;
    let id = answer.id();
    let mut text = answer.piece().await.expect("no cut").expect("a first event");

    gateway.terminate();
    eventually("readiness fails during the drain", async || {
        (status("/readyz", &gateway.admin).await != Some(200)).then_some(())
    })
    .await;
    eventually("no further call is accepted", async || {
        let further = request.try_send(&gateway.proxy).await;
        further.map_or(true, |answer| answer.status == 503).then_some(())
    })
    .await;
    assert!(gateway.is_running(), "the process waits for the open stream");
    upstream.release();
    let (rest, whole) = answer.read_to_end().await;
    text.extend(rest);
    assert!(whole, "the open stream completed");
    assert_eq!(String::from_utf8_lossy(&text), events(WORDS, None).concat());
    assert_eq!(gateway.wait_exit().await.code(), Some(0));

    let gateway = gateway.restart().await;
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    let debit = tenant.debit(&id).await;
    assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE), "{debit}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_exits_when_its_terminal_closes() {
    let mut gateway = Gateway::with_built_in_provider().await;
    gateway.hang_up();
    gateway.wait_exit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_provider_answers_streamed_and_plain_calls() {
    let gateway = Gateway::with_built_in_provider().await;
    let tenant = Tenant::of_demo(&gateway);
    for stream in [false, true] {
        let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 20, stream));
        let answer = request.send(&gateway.proxy).await;
        assert_eq!(answer.status, 200);
        let id = answer.id();
        let text = answer.text().await;
        assert!(text.contains("\"choices\""), "{text}");
        assert_eq!(tenant.log(&id).await.at("settledBy").text(), "usage");
    }
    let unknown = Request::chat(&tenant.key, chat("no-such-model", 20, false));
    let answer = unknown.send(&gateway.proxy).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json().await.at("error.code").text(), "model_not_found");
    tenant.assert_settled().await;
}
