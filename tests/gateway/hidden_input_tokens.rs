//! Hidden input tokens: a provider may count more input than the body contains. Near a limit the
//! gateway uses the count that the provider reported first.

use std::fs;
use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::concurrent_load::send_concurrently;
use crate::harness::demo::Gateway;
use crate::harness::openai::{Usage, reply};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

const BODY: &str = r#"{"model":"text-embedding-3-small","input":["hello embedding world"]}"#;

/// Sends one call and then 300 concurrent ones against a limit of 100 calls of `tokens` tokens.
/// Returns the number of served calls and the tokens counted.
async fn run_calls_under_limit(tokens: u64) -> (usize, u64) {
    let usage = Usage::of(tokens, 0);
    let upstream = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let quota = format!(r#"{{"dailyTokenLimit":{}}}"#, 100 * tokens);
    let tenant = Tenant::new(&gateway, 1_000_000_000, &quota).await;
    let call = Request::post("/v1/embeddings", BODY).bearer(&tenant.key);
    assert_eq!(call.clone().send(&tenant.proxy).await.status, 200);
    let responses = send_concurrently(&tenant.proxy, &call, 300).await;
    tenant.assert_settled().await;
    let used = tenant.usage().await.at("dailyUsage.tokenCount").count();
    (1 + responses.iter().filter(|answer| answer.status == 200).count(), used)
}

#[tokio::test(flavor = "multi_thread")]
async fn near_a_limit_the_provider_reported_input_tokens_are_used() {
    // Fewer tokens than the body has bytes, and many more.
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
    let config_rows = |upstream_model: &str| {
        let target = format!("targets = [{{ upstream = 'fake', model = '{upstream_model}' }}]");
        upstream("fake", &provider.url) + &model("text-embedding-3-small", &target)
    };
    let config_dir = ConfigDir::new(&config_rows("sparing"));
    let server = Server::start(config_dir.clone()).await;
    let tenant = server.tenant(1_000_000_000, r#"{"dailyTokenLimit":100}"#).await;
    let call = Request::post("/v1/embeddings", BODY).bearer(&tenant.key);
    assert_eq!(call.clone().send(&tenant.proxy).await.status, 200);
    let text =
        fs::read_to_string(config_dir.path("gateway.toml")).expect("gateway.toml is readable");
    config_dir.write("gateway.toml", &text.replace("sparing", "wasteful"));
    tenant.post("/api/platform/reload", "").await;
    send_concurrently(&tenant.proxy, &call, 300).await;
    tenant.assert_settled().await;
    let used = tenant.usage().await.at("dailyUsage.tokenCount").count();
    assert!((97..=100).contains(&used), "{used}");
}
