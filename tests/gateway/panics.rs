//! A panic ends its own call and no other; the call is settled by the usage measured so far.

use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::bound;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::scenario_upstream::{ScenarioGateway, USAGE};
use crate::harness::serve::ConfigDir;
use crate::harness::wait::eventually;

const FUNDS: i128 = 1_000_000_000;
const MAX_TOKENS: u64 = 20;

/// The points at which the task of a call panics.
const PANIC_POINTS: [&str; 8] = [
    "hold-appended",
    "hold-written",
    "forwarding",
    "answered",
    "piece-taken",
    "usage-seen",
    "settle-appended",
    "settle-written",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_no_hold_and_affects_no_other_call() {
    for point in PANIC_POINTS {
        // The other call passes the point first and stays open meanwhile.
        let passings = if ["usage-seen", "settle-appended", "settle-written"].contains(&point) {
            1
        } else if point == "piece-taken" {
            4
        } else {
            2
        };
        let config_dir = |rows: &str| {
            ConfigDir::new(rows).with_env("METEOR_CRASH", format!("{point}:{passings}:panic"))
        };
        let mut gateway = ScenarioGateway::new(FUNDS, "{}", config_dir).await;
        gateway.server.may_panic = true;
        let tenant = &gateway.tenant;
        let mut other = tenant.open_stream(MAX_TOKENS).await;
        let request = crate::harness::client::Request::chat(
            &tenant.key,
            crate::harness::openai::chat("plain", MAX_TOKENS, true),
        );
        if let Ok(mut answer) = request.try_send(&tenant.proxy).await {
            let is_complete = answer.read_to_end().await.1;
            assert!(!is_complete, "{point}: the panicked call has no clean end");
        }
        assert!(
            gateway.server.log().contains("requested by METEOR_CRASH"),
            "{point}: the task panicked"
        );
        eventually(&format!("one hold is left: {point}"), async || {
            (tenant.holds().await.len() == 1).then_some(())
        })
        .await;
        gateway.upstream.release();
        assert!(other.read_to_end().await.1, "{point}: the other call ends");
        let response = FullResponse::read(tenant.call("plain", MAX_TOKENS).await).await;
        assert_eq!(response.status, 200, "{point}: the next call is served");
        tenant.assert_settled().await;

        let records = tenant.records().await;
        let debits = records.iter().filter(|record| record.at("type").text() == "Consume");
        let amounts: Vec<i128> = debits.map(|record| record.at("amount").nano()).collect();
        let is_forwarded = !point.starts_with("hold");
        assert_eq!(amounts.len(), 2 + usize::from(is_forwarded), "{point}: {amounts:?}");
        let max_cost = GPT_4O_MINI
            .cost(bound(&crate::harness::openai::chat("plain", MAX_TOKENS, true), MAX_TOKENS));
        assert!(
            amounts.iter().all(|amount| (1..=max_cost).contains(amount)),
            "{point}: {amounts:?}"
        );
        assert!(2 <= amounts.iter().filter(|amount| **amount == GPT_4O_MINI.cost(USAGE)).count());
        let usage = tenant.usage().await;
        let requests = usage.at("dailyUsage.requestCount").count();
        assert_eq!(requests, 2 + u64::from(is_forwarded), "{point}: {usage}");
    }
}
