//! Models that a call names beside the one that it is for.

use std::time::Duration;

use crate::dialect_routing::{reply, start_gateway};
use crate::harness::client::Request;
use crate::harness::serve::{Place, Served, upstream};
use crate::harness::upstream::{Plan, Upstream};

/// A second model would run at the price of the first, and past what the key may use. Those that
/// Anthropic's callers name beside theirs must be served and allowed, each at its price.
#[tokio::test(flavor = "multi_thread")]
async fn secondary_models_must_be_served_and_allowed() {
    let provider = Upstream::start(reply).await;
    let (served, tenant) = start_gateway(&provider, "").await;
    for (target, body) in [
        ("/v1/chat/completions", r#"{"model":"plain","messages":[],"models":["renamed"]}"#),
        ("/v1beta/models/plain:embedContent", r#"{"model":"models/renamed","content":{}}"#),
        ("/v1beta/models/plain:generateContent", r#"{"model":"renamed","contents":[]}"#),
    ] {
        let answer = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        let status = answer.status;
        assert_eq!(status, 400, "{target}: {}", answer.text().await);
    }
    let with = |other: &str| {
        format!(
            r#"{{"model":"plain","messages":[],"max_tokens":9,"fallbacks":[{{"model":"{other}"}}]}}"#
        )
    };
    let narrow = tenant.create_key(&served, r#"{"name":"narrow","allowedModels":["plain"]}"#).await;
    for (key, other, status) in [
        (&tenant.key, "nobody-serves-it", 404),
        (&narrow, "other", 403),
        // The provider would take the public name for one of its own.
        (&tenant.key, "renamed", 404),
        (&tenant.key, "other", 200),
    ] {
        let request = Request::post("/v1/messages", with(other)).header("x-api-key", key);
        assert_eq!(request.send(&tenant.proxy).await.status, status, "{other}");
    }
    assert_eq!(provider.request_count(), 1);
    tenant.assert_settled().await;
}

/// What the provider says of a call that another model worked on: 10 + 3 tokens of the totals, and
/// an iteration of 7, of which 2 cached, + 2.
fn plan_with_iteration(kind: &str, is_stream: bool) -> Plan {
    let usage = format!(
        r#"{{"input_tokens":10,"output_tokens":3,"iterations":[{{"type":"message","input_tokens":10,"output_tokens":3}},{{"type":"{kind}","model":"dear-20260301","input_tokens":5,"cache_read_input_tokens":2,"output_tokens":2}}]}}"#
    );
    if !is_stream {
        return Plan::json(200, format!(r#"{{"type":"message","content":[],"usage":{usage}}}"#));
    }
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":9}}}"#;
    let delta = format!(r#"{{"type":"message_delta","delta":{{}},"usage":{usage}}}"#);
    let event = |data: &str| format!("data: {data}\n\n");
    let stop = event(r#"{"type":"message_stop"}"#);
    Plan::stream([event(start), event(&delta), stop], Duration::ZERO)
}

/// The dear one costs ten times as much; what comes from a cache, a tenth.
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
        + &priced_model_toml("dear", 10);
    let served = Served::start(Place::new(&rows)).await;
    let tenant = served.tenant(1_000_000_000, "{}").await;
    let advised = r#""tools":[{"type":"advisor_20260301","name":"advisor","model":"dear"}]"#;
    let instead = r#""fallbacks":[{"model":"dear"}]"#;
    // In nano-units a token: 10 and 20, cached 1; of the dear one ten times those.
    let cheap = 10 * 10 + 3 * 20;
    let advice = 5 * 100 + 2 * 10 + 2 * 200;
    for (beside, is_stream, cost) in [
        (advised, false, cheap + advice),
        (advised, true, cheap + advice),
        (instead, false, 10 * cheap),
        (instead, true, 10 * cheap),
    ] {
        let body = format!(
            r#"{{"model":"cheap","messages":[],"max_tokens":50,"stream":{is_stream},{beside}}}"#
        );
        let request = Request::post("/v1/messages", body).header("x-api-key", &tenant.key);
        let answer = request.send(&tenant.proxy).await;
        assert_eq!(answer.status, 200, "{beside}");
        let log = tenant.log(&answer.id()).await;
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
