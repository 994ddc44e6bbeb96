//! Many simultaneous calls on one wallet that covers only some of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;

const MAX_TOKENS: u64 = 20;

/// The number of calls, and how many of them the wallet covers.
fn call_counts() -> (usize, usize) {
    let calls = std::env::var("METEOR_PARALLEL")
        .map_or(1_500, |calls| calls.parse().expect("a number of calls"));
    (calls, calls * 1_234 / 10_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_are_served_exactly_up_to_the_wallet_balance() {
    let (calls, funded) = call_counts();
    let body = chat(GPT_4O_MINI.model, MAX_TOKENS, false);
    let usage = Usage::of(9, MAX_TOKENS);
    let cost = GPT_4O_MINI.cost(usage);
    let upstream = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let money = cost * i128::try_from(funded).expect("few");
    // One nano-unit short of covering another call.
    let tenant = Tenant::new(&gateway, money + cost - 1, "{}").await;

    let start = Arc::new(Barrier::new(calls));
    let all: Vec<_> = (0..calls)
        .map(|_| {
            let (start, proxy) = (Arc::clone(&start), tenant.proxy.clone());
            let request = Request::chat(&tenant.key, &body);
            tokio::spawn(async move {
                start.wait().await;
                FullResponse::read(request.send(&proxy).await).await
            })
        })
        .collect();
    let mut served = 0;
    for call in all {
        let response = call.await.expect("a call ends");
        if response.status == 200 {
            served += 1;
        } else {
            response.assert_error(402, &["insufficient_balance", "balance_on_hold"]);
        }
    }
    assert_eq!((served, upstream.request_count()), (funded, funded), "of {calls}");
    assert_eq!(tenant.wallet().await.at("balance").nano(), cost - 1);
    tenant.assert_settled().await;
    println!("{served} of {calls} were served");
}
