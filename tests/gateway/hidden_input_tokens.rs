//! Input that no byte shows: a provider may put more in front of a call than the call has. It says
//! so with its first answer, and near a limit it is believed.

use std::fs;
use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::concurrent_load::send_concurrently;
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, reply};
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

const BODY: &str = r#"{"model":"text-embedding-3-small","input":["hello embedding world"]}"#;

/// Served and used of a limit for a hundred calls of this many tokens, after one that tells.
async fn run_calls_under_limit(tokens: u64) -> (usize, u64) {
    let usage = Usage::of(tokens, 0);
    let upstream = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let quota = format!(r#"{{"dailyTokenLimit":{}}}"#, 100 * tokens);
    let tenant = Tenant::new(&gateway, 1_000_000_000, &quota).await;
    let call = Request::post("/v1/embeddings", BODY).bearer(&tenant.key);
    assert_eq!(call.clone().send(&tenant.proxy).await.status, 200);
    let answers = send_concurrently(&tenant.proxy, &call, 300).await;
    tenant.assert_settled().await;
    let used = tenant.usage().await.at("dailyUsage.tokenCount").count();
    (1 + answers.iter().filter(|answer| answer.status == 200).count(), used)
}

#[tokio::test(flavor = "multi_thread")]
async fn near_a_limit_the_provider_reported_input_tokens_are_used() {
    // Fewer than the body has bytes, and many more.
    for tokens in [5, 50, 200] {
        assert_eq!(run_calls_under_limit(tokens).await, (100, 100 * tokens), "{tokens}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_counts_are_not_reused_after_the_upstream_model_changes() {
    let provider = Upstream::start(|seen| {
        let tokens = if seen.body.contains("sparing") { 1 } else { 4 };
        reply(seen, Usage::of(tokens, 0), Duration::ZERO).with_latency(Duration::from_millis(200))
    })
    .await;
    let rows = |there: &str| {
        let target = format!("targets = [{{ upstream = 'fake', model = '{there}' }}]");
        upstream("fake", &provider.url) + &model("text-embedding-3-small", &target)
    };
    let place = Place::new(&rows("sparing"));
    let served = Served::start(place.clone()).await;
    let tenant = served.tenant(1_000_000_000, r#"{"dailyTokenLimit":100}"#).await;
    let call = Request::post("/v1/embeddings", BODY).bearer(&tenant.key);
    assert_eq!(call.clone().send(&tenant.proxy).await.status, 200);
    let text = fs::read_to_string(place.path("gateway.toml")).expect("the file");
    place.write("gateway.toml", &text.replace("sparing", "wasteful"));
    tenant.post("/api/platform/reload", "").await;
    send_concurrently(&tenant.proxy, &call, 300).await;
    tenant.assert_settled().await;
    let used = tenant.usage().await.at("dailyUsage.tokenCount").count();
    assert!((97..=100).contains(&used), "{used}");
}
