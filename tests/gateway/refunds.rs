//! Refunds: linked to what was consumed, and never more than is left of it, however many come at
//! once.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::json::money;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

const FUNDS: i128 = 1_000_000;
/// 97 tokens out and 2 in: a cost that has no eighth.
const USAGE: Usage = Usage { prompt: 2, completion: 97, cached: 0, reasoning: 0 };
const PATH: &str = "/api/organization/wallet/refund";

async fn refund(tenant: &Tenant, call: &str, amount: i128) -> FullResponse {
    let body = format!(r#"{{"requestLogId":"{call}","amount":{}}}"#, money(amount));
    FullResponse::read(tenant.send(Request::post(PATH, body)).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refunds_never_exceed_the_consumed_amount() {
    let upstream = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let other = Tenant::new(&gateway, FUNDS, "{}").await;
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 100, true));
    let mut answer = request.send(&tenant.proxy).await;
    assert!(answer.read_to_end().await.1);
    let (call, cost) = (answer.id(), GPT_4O_MINI.cost(USAGE));
    assert_eq!(tenant.debit(&call).await.at("amount").nano(), cost);
    let usage = tenant.usage().await;

    assert_eq!(refund(&other, &call, 1).await.status, 404, "it is another's");
    assert_eq!(refund(&tenant, &call, 0).await.status, 400);
    let part = cost / 8;
    let many = (0..40).map(|_| {
        let (tenant, call) = (tenant.clone(), call.clone());
        tokio::spawn(async move { refund(&tenant, &call, part).await.status })
    });
    let mut posted = 0;
    for one in many.collect::<Vec<_>>() {
        match one.await.expect("an answer") {
            200 => posted += 1,
            409 => {}
            status => panic!("{status}"),
        }
    }
    assert_eq!(posted, 8, "{cost} holds eight times {part}");
    let rest = cost - 8 * part;
    assert_eq!(refund(&tenant, &call, rest + 1).await.status, 409, "one nano-unit too many");
    assert_eq!(refund(&tenant, &call, rest).await.status, 200);
    assert_eq!(refund(&tenant, &call, 1).await.status, 409, "nothing is left");

    let records = tenant.records().await;
    let mut refunded = 0;
    for record in records.iter().filter(|record| record.at("type").text() == "Refund") {
        assert_eq!(record.at("requestLogId").text(), call, "{record}");
        assert_eq!(record.at("projectId").text(), tenant.project, "{record}");
        refunded += record.at("amount").nano();
    }
    assert_eq!(refunded, cost);
    let shown = tenant.debit(&call).await;
    assert_eq!(shown.at("refundedAmount").nano(), cost, "{shown}");
    assert!(!shown.at("priceVersion").text().is_empty(), "{shown}");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS);
    let after = tenant.usage().await;
    for field in ["dailyUsage.requestCount", "dailyUsage.tokenCount"] {
        assert_eq!(after.at(field).count(), usage.at(field).count(), "what was used stays used");
    }
    tenant.assert_settled().await;

    // The money is there for calls at once.
    let most =
        GPT_4O_MINI.cost(crate::harness::openai::bound(&chat(GPT_4O_MINI.model, 100, false), 100));
    assert!(most < FUNDS);
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 100, false));
    assert_eq!(request.send(&tenant.proxy).await.status, 200);
}
