//! Secondary models: models that a call names in addition to its own.

use std::time::Duration;

use crate::dialect_routing::{reply, start_gateway};
use crate::harness::client::Request;
use crate::harness::serve::{ConfigDir, Server, upstream};
use crate::harness::upstream::{Plan, Upstream};

/// An unchecked second model would run at the price of the first and bypass the key's allowed
/// models. Secondary models in Anthropic requests must be served and allowed, and are billed at
/// their own price.
#[tokio::test(flavor = "multi_thread")]
async fn secondary_models_must_be_served_and_allowed() {
    let provider = Upstream::start(reply).await;
    let (server, tenant) = start_gateway(&provider, "").await;
    for (target, body) in [
        ("/v1/chat/completions", r#"{"model":"plain","messages":[],"models":["renamed"]}"#),
        ("/v1beta/models/plain:embedContent", r#"{"model":"models/renamed","content":{}}"#),
        ("/v1beta/models/plain:generateContent", r#"{"model":"renamed","contents":[]}"#),
    ] {
        let response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        let status = response.status;
        assert_eq!(status, 400, "{target}: {}", response.text().await);
    }
    let with = |secondary: &str| {
        format!(
            r#"{{"model":"plain","messages":[],"max_tokens":9,"fallbacks":[{{"model":"{secondary}"}}]}}"#
        )
    };
    let narrow_key =
        tenant.create_key(&server, r#"{"name":"narrow","allowedModels":["plain"]}"#).await;
    for (key, secondary, status) in [
        (&tenant.key, "nobody-serves-it", 404),
        (&narrow_key, "other", 403),
        // The upstream would read the public name as one of its own.
        (&tenant.key, "renamed", 404),
        (&tenant.key, "other", 200),
    ] {
        let request = Request::post("/v1/messages", with(secondary)).header("x-api-key", key);
        assert_eq!(request.send(&tenant.proxy).await.status, status, "{secondary}");
    }
    assert_eq!(provider.request_count(), 1);
    tenant.assert_settled().await;
}

/// A response to a call that a secondary model worked on: 10 input and 3 output tokens, and an
/// iteration of 7 input tokens (2 of them cached) and 2 output tokens.
fn plan_with_iteration(kind: &str, is_stream: bool) -> Plan {
    let usage = format!(
        r#"{{"input_tokens":10,"output_tokens":3,"iterations":[{{"type":"message","input_tokens":10,"output_tokens":3}},{{"type":"{kind}","model":"expensive-20260301","input_tokens":5,"cache_read_input_tokens":2,"output_tokens":2}}]}}"#
    );
    if !is_stream {
        return Plan::json(200, format!(r#"{{"type":"message","content":[],"usage":{usage}}}"#));
    }
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":9}}}"#;
    let delta = format!(r#"{{"type":"message_delta","delta":{{}},"usage":{usage}}}"#);
    let event = |data: &str| format!("data: {data}\n\n");
    let message_stop = event(r#"{"type":"message_stop"}"#);
    Plan::stream([event(start), event(&delta), message_stop], Duration::ZERO)
}

/// A model at `times` the base price. Cached input costs a tenth.
fn priced_model_toml(id: &str, times: u32) -> String {
    let price = |nano: u32| format!("'0.{:03}'", nano * times);
    format!(
        "[[models]]\nid = '{id}'\nupstream = 'all'\nmax_output_tokens = 100\nprices = {{ \
         inputTokens = {}, outputTokens = {}, cachedInputTokens = {} }}\n",
        price(10),
        price(20),
        price(1)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_model_of_a_call_is_billed_at_its_price() {
    let provider = Upstream::start(|seen| {
        let kind =
            if seen.body.contains("advisor") { "advisor_message" } else { "fallback_message" };
        plan_with_iteration(kind, seen.is_set("stream"))
    })
    .await;
    let rows = upstream("all", &provider.url)
        + "dialects = ['anthropic']\n"
        + &priced_model_toml("cheap", 1)
        + &priced_model_toml("expensive", 10);
    let server = Server::start(ConfigDir::new(&rows)).await;
    let tenant = server.tenant(1_000_000_000, "{}").await;
    let advised = r#""tools":[{"type":"advisor_20260301","name":"advisor","model":"expensive"}]"#;
    let fallback = r#""fallbacks":[{"model":"expensive"}]"#;
    // In nano-units per token: input 10, output 20, cached input 1; ten times that for the
    // expensive model.
    let cheap_cost = 10 * 10 + 3 * 20;
    let advice_cost = 5 * 100 + 2 * 10 + 2 * 200;
    for (secondary, is_stream, cost) in [
        (advised, false, cheap_cost + advice_cost),
        (advised, true, cheap_cost + advice_cost),
        (fallback, false, 10 * cheap_cost),
        (fallback, true, 10 * cheap_cost),
    ] {
        let body = format!(
            r#"{{"model":"cheap","messages":[],"max_tokens":50,"stream":{is_stream},{secondary}}}"#
        );
        let request = Request::post("/v1/messages", body).header("x-api-key", &tenant.key);
        let response = request.send(&tenant.proxy).await;
        assert_eq!(response.status, 200, "{secondary}");
        let log = tenant.log(&response.id()).await;
        assert_eq!(log.at("cost").nano(), cost, "{log}");
        let versions = log.at("priceVersion").text();
        let names: Vec<_> = versions.split('+').collect();
        assert_eq!(names.len(), 2, "{versions}");
        for name in names {
            tenant.get(&format!("/api/price-lists/{name}")).await;
        }
    }
    tenant.assert_settled().await;
}
