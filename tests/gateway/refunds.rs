//! Refunds are linked to a consumed amount and never exceed it, even when they are concurrent.

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
/// 2 input and 97 output tokens: a cost that is not divisible by eight.
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

    assert_eq!(
        refund(&other, &call, 1).await.status,
        404,
        "the call belongs to another organization"
    );
    assert_eq!(refund(&tenant, &call, 0).await.status, 400);
    let part = cost / 8;
    let refunds = (0..40).map(|_| {
        let (tenant, call) = (tenant.clone(), call.clone());
        tokio::spawn(async move { refund(&tenant, &call, part).await.status })
    });
    let mut posted = 0;
    for task in refunds.collect::<Vec<_>>() {
        match task.await.expect("an answer") {
            200 => posted += 1,
            409 => {}
            status => panic!("{status}"),
        }
    }
    assert_eq!(posted, 8, "{cost} holds eight times {part}");
    let rest = cost - 8 * part;
    assert_eq!(refund(&tenant, &call, rest + 1).await.status, 409, "one nano-unit too many");
    assert_eq!(refund(&tenant, &call, rest).await.status, 200);
    assert_eq!(refund(&tenant, &call, 1).await.status, 409, "everything is refunded");

    let records = tenant.records().await;
    let mut refunded = 0;
    for record in records.iter().filter(|record| record.at("type").text() == "Refund") {
        assert_eq!(record.at("requestLogId").text(), call, "{record}");
        assert_eq!(record.at("projectId").text(), tenant.project, "{record}");
        refunded += record.at("amount").nano();
    }
    assert_eq!(refunded, cost);
    let refunded_debit = tenant.debit(&call).await;
    assert_eq!(refunded_debit.at("refundedAmount").nano(), cost, "{refunded_debit}");
    assert!(!refunded_debit.at("priceVersion").text().is_empty(), "{refunded_debit}");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS);
    let after = tenant.usage().await;
    for field in ["dailyUsage.requestCount", "dailyUsage.tokenCount"] {
        assert_eq!(after.at(field).count(), usage.at(field).count(), "usage is not refunded");
    }
    tenant.assert_settled().await;

    // The refunded money is available to calls immediately.
    let max_cost =
        GPT_4O_MINI.cost(crate::harness::openai::bound(&chat(GPT_4O_MINI.model, 100, false), 100));
    assert!(max_cost < FUNDS);
    let request = Request::chat(&tenant.key, chat(GPT_4O_MINI.model, 100, false));
    assert_eq!(request.send(&tenant.proxy).await.status, 200);
}
