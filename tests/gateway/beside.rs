//! Models that a call names beside the one that it is for.

use crate::client::Request;
use crate::dialects::{reply, scene};
use crate::upstream::Upstream;

/// A second model would run at the price of the first, and past what the key may use. Those that
/// Anthropic's callers name beside theirs must be served and allowed, each at its price.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_model_in_a_call_is_not_passed_by() {
    let provider = Upstream::start(reply).await;
    let (served, tenant) = scene(&provider, "").await;
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
    let narrow = tenant.new_key(&served, r#"{"name":"narrow","allowedModels":["plain"]}"#).await;
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
    assert_eq!(provider.count(), 1);
    tenant.at_rest().await;
}
