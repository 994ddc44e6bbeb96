//! Prices by the admin API: in force with the answer, kept over a restart and a reload, gone when
//! they are deleted.

use std::time::Duration;

use crate::client::Request;
use crate::openai::{self, Usage, chat};
use crate::price::{GPT_4O_MINI, Price};
use crate::served::{Place, Served, model, upstream};
use crate::tenant::Tenant;
use crate::upstream::Upstream;

const FUNDS: i128 = 100_000_000_000;
const USAGE: Usage = Usage { prompt: 1_001, completion: 37, cached: 400, reasoning: 0 };
const PRICES: &str = "/api/platform/prices";

/// What a call costs, and the version of its prices.
async fn call(tenant: &Tenant, proxy: &str) -> (i128, String) {
    let answer = Request::chat(&tenant.key, chat("m", 50, false)).send(proxy).await;
    assert_eq!(answer.status, 200);
    let log = tenant.log(&answer.id()).await;
    (log.at("cost").nano(), log.at("priceVersion").text())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_price_counts_from_the_next_call_until_it_is_deleted() {
    let provider = Upstream::start(|seen| openai::reply(seen, USAGE, Duration::ZERO)).await;
    let served = Served::start(Place::new(
        &(upstream("all", &provider.url) + &model("m", "upstream = \"all\"")),
    ))
    .await;
    let tenant = served.tenant(FUNDS, "{}").await;
    let (cost, filed) = call(&tenant, &served.proxy).await;
    assert_eq!(cost, GPT_4O_MINI.cost(USAGE));

    let body = r#"{"model":"m","prices":{"inputTokens":"1.234567891","outputTokens":7.7,
        "cachedInputTokens":"0.1"}}"#;
    let posted = tenant.post(PRICES, body).await;
    let later = r#"{"model":"m","prices":{"inputTokens":9,"outputTokens":9},
        "effectiveFrom":"2100-01-01"}"#;
    tenant.post(PRICES, later).await;
    let (cost, version) = call(&tenant, &served.proxy).await;
    let list = tenant.get(&format!("/api/price-lists/{version}")).await;
    assert_eq!(list.at("rows").list()[0].at("prices.outputTokens").text(), "7.70");
    assert_eq!(cost, 601 * 1_234_567_891 / 1_000_000 + 1 + 400 * 100 + 37 * 7_700);
    assert_eq!(cost, Price::of(&list).cost(USAGE), "its list says so");
    assert_eq!(posted.at("priceVersion").text(), version);
    assert!(version.starts_with("api-") && filed.starts_with("file-"));

    tenant.post("/api/platform/reload", "").await;
    assert_eq!(call(&tenant, &served.proxy).await, (cost, version.clone()), "a reload keeps it");
    let served = served.again().await;
    let tenant =
        Tenant { proxy: served.proxy.clone(), admin: served.admin.clone(), ..tenant.clone() };
    assert_eq!(call(&tenant, &served.proxy).await, (cost, version), "a restart keeps it");

    let path = format!("{PRICES}/{}", posted.at("id").text());
    assert_eq!(tenant.ask(Request::new("DELETE", &path)).await.status, 200);
    assert_eq!(call(&tenant, &served.proxy).await, (GPT_4O_MINI.cost(USAGE), filed));
    let listed = tenant.get(&format!("{PRICES}?model=m")).await;
    let sources: Vec<_> =
        listed.at("data").list().iter().map(|it| it.at("source").text()).collect();
    assert_eq!(sources, ["Api", "Api", "File"]);
    tenant.at_rest().await;
}
