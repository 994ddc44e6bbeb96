//! Prices set by the admin API apply with the response, survive a restart and a reload, and end
//! when they are deleted.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::openai;
use crate::harness::openai::{Usage, chat};
use crate::harness::price::{GPT_4O_MINI, Price};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

const FUNDS: i128 = 100_000_000_000;
const USAGE: Usage = Usage { prompt: 1_001, completion: 37, cached: 400, reasoning: 0 };
const PRICES_PATH: &str = "/api/platform/prices";

/// The cost of a call and the version of its prices.
async fn call_cost(tenant: &Tenant, proxy: &str) -> (i128, String) {
    let answer = Request::chat(&tenant.key, chat("m", 50, false)).send(proxy).await;
    assert_eq!(answer.status, 200);
    let log = tenant.log(&answer.id()).await;
    (log.at("cost").nano(), log.at("priceVersion").text())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_price_applies_from_the_next_call_until_deletion() {
    let provider = Upstream::start(|seen| openai::reply(seen, USAGE, Duration::ZERO)).await;
    let server = Server::start(ConfigDir::new(
        &(upstream("all", &provider.url) + &model("m", "upstream = \"all\"")),
    ))
    .await;
    let tenant = server.tenant(FUNDS, "{}").await;
    let (cost, file_version) = call_cost(&tenant, &server.proxy).await;
    assert_eq!(cost, GPT_4O_MINI.cost(USAGE));

    let body = r#"{"model":"m","prices":{"inputTokens":"1.234567891","outputTokens":7.7,
        "cachedInputTokens":"0.1"}}"#;
    let posted = tenant.post(PRICES_PATH, body).await;
    let future_price = r#"{"model":"m","prices":{"inputTokens":9,"outputTokens":9},
        "effectiveFrom":"2100-01-01"}"#;
    tenant.post(PRICES_PATH, future_price).await;
    let (cost, version) = call_cost(&tenant, &server.proxy).await;
    let list = tenant.get(&format!("/api/price-lists/{version}")).await;
    assert_eq!(list.at("rows").list()[0].at("prices.outputTokens").text(), "7.70");
    assert_eq!(cost, 601 * 1_234_567_891 / 1_000_000 + 1 + 400 * 100 + 37 * 7_700);
    assert_eq!(cost, Price::from_list(&list).cost(USAGE), "the cost matches the price list");
    assert_eq!(posted.at("priceVersion").text(), version);
    assert!(version.starts_with("api-") && file_version.starts_with("file-"));

    tenant.post("/api/platform/reload", "").await;
    assert_eq!(
        call_cost(&tenant, &server.proxy).await,
        (cost, version.clone()),
        "a reload keeps the price"
    );
    let server = server.restart().await;
    let tenant =
        Tenant { proxy: server.proxy.clone(), admin: server.admin.clone(), ..tenant.clone() };
    assert_eq!(
        call_cost(&tenant, &server.proxy).await,
        (cost, version),
        "a restart keeps the price"
    );

    let path = format!("{PRICES_PATH}/{}", posted.at("id").text());
    assert_eq!(tenant.send(Request::new("DELETE", &path)).await.status, 200);
    assert_eq!(call_cost(&tenant, &server.proxy).await, (GPT_4O_MINI.cost(USAGE), file_version));
    let listed = tenant.get(&format!("{PRICES_PATH}?model=m")).await;
    let sources: Vec<_> =
        listed.at("data").list().iter().map(|entry| entry.at("source").text()).collect();
    assert_eq!(sources, ["Api", "Api", "File"]);
    tenant.assert_settled().await;
}
