//! Calls that wait for amounts held by open calls hold nothing and free their wait slot when they
//! end.

use std::time::Instant;

use crate::harness::client::Request;
use crate::harness::demo::assert_within;
use crate::harness::json::money;
use crate::harness::scenario_upstream::{
    SOON, ScenarioGateway, USAGE, assert_queue_full, first_of,
};
use crate::harness::serve::ConfigDir;
use crate::harness::tenant::Tenant;
use crate::harness::wait::eventually;

const FUNDS: i128 = 1_000_000_000;
/// Limits under which a call of `OPEN_CALL_OUTPUT` tokens leaves headroom for one of `SMALL_OUTPUT`
/// but not for one of `LARGE_OUTPUT`.
const TOKEN_LIMIT: u64 = 1_000;
const SPEND_LIMIT: i128 = 600_000;
const OPEN_CALL_OUTPUT: u64 = 700;
const LARGE_OUTPUT: u64 = 400;
const SMALL_OUTPUT: u64 = 5;

/// The limit or wallet that calls wait for.
#[derive(Clone, Copy, Debug)]
enum ScarceResource {
    ProjectTokens,
    ProjectSpend,
    KeySpend,
    OrganizationTokens,
    OrganizationSpend,
    Wallet,
}

impl ScarceResource {
    const ALL: [Self; 6] = [
        Self::ProjectTokens,
        Self::ProjectSpend,
        Self::KeySpend,
        Self::OrganizationTokens,
        Self::OrganizationSpend,
        Self::Wallet,
    ];

    async fn tenant(self, gateway: &ScenarioGateway) -> Tenant {
        let funds = if matches!(self, Self::Wallet) { SPEND_LIMIT } else { FUNDS };
        let mut tenant = gateway.tenant.create_tenant(&gateway.server, funds, "{}").await;
        if matches!(self, Self::KeySpend) {
            tenant.key = tenant.create_key(&gateway.server, r#"{"name":"narrow"}"#).await;
        }
        self.set(&tenant, 1, true).await;
        tenant
    }

    /// Multiplies the scarce limit by `times`, or recharges the wallet if `times` is greater than
    /// one.
    async fn set(self, tenant: &Tenant, times: u64, enforced: bool) {
        let tokens = TOKEN_LIMIT * times;
        let spend = money(SPEND_LIMIT * i128::from(times));
        let common = format!(r#""concurrentCallsLimit":5,"enforceQuota":{enforced}"#);
        let tokens = format!(r#"{{"dailyTokenLimit":{tokens},{common}}}"#);
        let spending = format!(r#"{{"monthlySpendLimit":{spend},{common}}}"#);
        let common = format!("{{{common}}}");
        match self {
            Self::ProjectTokens => drop(tenant.set_quota(&tokens).await),
            Self::ProjectSpend => drop(tenant.set_quota(&spending).await),
            _ => drop(tenant.set_quota(&common).await),
        }
        match self {
            Self::OrganizationTokens => drop(tenant.set_organization_quota(&tokens).await),
            Self::OrganizationSpend => drop(tenant.set_organization_quota(&spending).await),
            Self::KeySpend => {
                let path = tenant.key_path("narrow").await;
                let body = format!(r#"{{"monthlySpendLimit":{spend}}}"#);
                assert_eq!(tenant.send(Request::put(&path, body)).await.status, 200);
            }
            Self::Wallet if times > 1 => drop(tenant.recharge(SPEND_LIMIT).await),
            Self::ProjectTokens | Self::ProjectSpend | Self::Wallet => {}
        }
    }
}

/// A gateway with one wait slot and a wait timeout longer than any test.
async fn fixture_with_long_wait() -> ScenarioGateway {
    fixture_with_hold_wait(60_000).await
}

async fn fixture_with_hold_wait(hold_wait_ms: u64) -> ScenarioGateway {
    let rows = format!("[admission]\nhold_wait_ms = {hold_wait_ms}\nwaiting_max = 1\n");
    ScenarioGateway::new(FUNDS, "{}", |models| ConfigDir::new(&format!("{rows}{models}"))).await
}

/// Asserts that exactly the holds of `open` calls are counted.
async fn assert_holds(tenant: &Tenant, open: u64) {
    let (usage, holds) = (tenant.usage().await, tenant.holds().await);
    assert_eq!(holds.len() as u64, open, "{holds:?}");
    let tokens: u64 = holds.iter().map(|hold| hold.at("tokens").count()).sum();
    let frozen: i128 = holds.iter().map(|hold| hold.at("amount").nano()).sum();
    assert_eq!(usage.at("dailyUsage.heldRequests").count(), open, "{usage}");
    assert_eq!(usage.at("dailyUsage.heldTokens").count(), tokens, "{usage}");
    assert_eq!(usage.at("dailyUsage.heldSpend").nano(), frozen, "{usage}");
    assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), frozen);
    assert_eq!(tenant.concurrency_headroom().await, 5 - open, "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_while_waiting_frees_the_wait_slot_immediately() {
    let gateway = fixture_with_long_wait().await;
    for scarce in ScarceResource::ALL {
        disconnects_while_waiting(&gateway, &scarce.tenant(&gateway).await, &format!("{scarce:?}"))
            .await;
    }
}

async fn disconnects_while_waiting(gateway: &ScenarioGateway, tenant: &Tenant, what: &str) {
    let upstream = &gateway.upstream;
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let (held, forwarded) = (tenant.holds().await, upstream.request_count());
    for round in 0..3 {
        let waiting = tenant.spawn_queued_call(LARGE_OUTPUT).await;
        assert_holds(tenant, 1).await;
        assert_eq!(tenant.holds().await, held, "a waiting call holds nothing: {what}");
        // A small call would fit, but the queue is full.
        assert_queue_full(&tenant.call_to_end("plain", SMALL_OUTPUT).await);
        assert_eq!(upstream.request_count(), forwarded + round, "no call overtakes: {what}");

        waiting.abort();
        let disconnected = Instant::now();
        eventually("the next call is served", async || {
            let response = tenant.call_to_end("plain", SMALL_OUTPUT).await;
            if response.status != 200 {
                assert_queue_full(&response);
            }
            (response.status == 200).then_some(())
        })
        .await;
        assert_within(SOON, disconnected, Instant::now(), "freeing the wait slot");
        assert_eq!(
            upstream.request_count(),
            forwarded + round + 1,
            "a disconnected call is not forwarded: {what}"
        );
    }
    assert_holds(tenant, 1).await;

    let waiting = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    upstream.release();
    assert!(open.read_to_end().await.1);
    let ended = Instant::now();
    assert_eq!(waiting.await.expect("an answer").status, 200, "{what}");
    assert_within(SOON, ended, Instant::now(), "serving the waiting call");
    upstream.stall_again();
    tenant.assert_settled().await;
    let usage = tenant.usage().await.at("dailyUsage");
    assert_eq!(usage.at("requestCount").count(), 5, "{what}: {usage}");
    assert_eq!(usage.at("tokenCount").count(), 5 * USAGE.total(), "{what}: {usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_a_limit_or_recharging_serves_waiting_calls_immediately() {
    let gateway = fixture_with_long_wait().await;
    for scarce in ScarceResource::ALL {
        for enforced in [true, false] {
            // A wallet is always enforced; a limit that is not enforced need not be raised.
            let times = if enforced || matches!(scarce, ScarceResource::Wallet) { 2 } else { 1 };
            let tenant = scarce.tenant(&gateway).await;
            let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
            let waiting = tenant.spawn_queued_call(LARGE_OUTPUT).await;
            scarce.set(&tenant, times, enforced).await;
            let raised = Instant::now();
            let what = format!("{scarce:?}, enforced: {enforced}");
            assert_eq!(waiting.await.expect("an answer").status, 200, "{what}");
            assert_within(SOON, raised, Instant::now(), &what);
            assert_holds(&tenant, 1).await;
            gateway.upstream.release();
            assert!(open.read_to_end().await.1, "{what}");
            gateway.upstream.stall_again();
            tenant.assert_settled().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_key_refuses_its_waiting_call_immediately() {
    let gateway = fixture_with_long_wait().await;
    let tenant = ScarceResource::ProjectTokens.tenant(&gateway).await;
    let key = tenant.create_key(&gateway.server, r#"{"name":"leaving"}"#).await;
    let leaving = Tenant { key, ..tenant.clone() };
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waiting = leaving.spawn_queued_call(LARGE_OUTPUT).await;
    let path = tenant.key_path("leaving").await;
    assert_eq!(tenant.send(Request::new("DELETE", &path)).await.status, 200);
    let revoked = Instant::now();
    waiting.await.expect("an answer").assert_error(401, &["invalid_api_key"]);
    assert_within(SOON, revoked, Instant::now(), "refusing the waiting call");
    assert_eq!(tenant.call_to_end("plain", SMALL_OUTPUT).await.status, 200, "the queue is empty");
    gateway.upstream.release();
    assert!(open.read_to_end().await.1);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_timeout_advises_a_retry_after_one_second() {
    let gateway = fixture_with_hold_wait(100).await;
    for scarce in ScarceResource::ALL {
        let tenant = scarce.tenant(&gateway).await;
        let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
        let forwarded = gateway.upstream.request_count();
        let response = tenant.spawn_call(LARGE_OUTPUT).await.expect("an answer");
        let code = match scarce {
            ScarceResource::ProjectTokens | ScarceResource::OrganizationTokens => {
                "daily_tokens_exceeded"
            }
            ScarceResource::Wallet => "balance_on_hold",
            _ => "monthly_spend_exceeded",
        };
        let error = response.assert_error(
            if matches!(scarce, ScarceResource::Wallet) { 402 } else { 429 },
            &[code],
        );
        assert!(error.at("limit.transient").is_true(), "{error}");
        assert_eq!(
            (response.retry_after(), response.header("x-should-retry")),
            (1, "true"),
            "{response:?}"
        );
        assert_eq!(gateway.upstream.request_count(), forwarded, "{scarce:?}");
        assert_holds(&tenant, 1).await;
        gateway.upstream.release();
        assert!(open.read_to_end().await.1);
        gateway.upstream.stall_again();
        assert_eq!(
            tenant.spawn_call(LARGE_OUTPUT).await.expect("an answer").status,
            200,
            "{scarce:?}"
        );
        tenant.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_in_only_one_queue_at_a_time() {
    let gateway = fixture_with_long_wait().await;
    let tenant = ScarceResource::Wallet.tenant(&gateway).await;
    ScarceResource::ProjectTokens.set(&tenant, 1, true).await;
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waiting = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    let second = tenant.create_second_project(&gateway.server).await;
    // Another project waits only for the wallet.
    let other = second.spawn_call(LARGE_OUTPUT);
    ScarceResource::ProjectTokens.set(&tenant, 2, true).await;
    // One of the two finds the queue of the wallet full.
    let (response, last) = first_of(waiting, other).await;
    assert_queue_full(&response);
    tenant.recharge(SPEND_LIMIT).await;
    assert_eq!(last.await.expect("an answer").status, 200);
    gateway.upstream.release();
    assert!(open.read_to_end().await.1);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_discards_waiting_calls() {
    let mut gateway = fixture_with_long_wait().await;
    let tenant = ScarceResource::ProjectTokens.tenant(&gateway).await;
    let open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waiting = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    gateway.server.kill();
    drop((open, waiting));
    let gateway = gateway.restart().await;
    let tenant = gateway.server.rebind(tenant);
    assert_holds(&tenant, 0).await;
    let requests = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 1, "the waiting call is not counted");
    assert_eq!(tenant.call_to_end("plain", SMALL_OUTPUT).await.status, 200);
    tenant.assert_settled().await;
}

/// Projects wait in separate queues for their own limits.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_waiting_for_its_limit_blocks_no_other_project() {
    let gateway = fixture_with_long_wait().await;
    let tenant = ScarceResource::ProjectTokens.tenant(&gateway).await;
    let second = tenant.create_second_project(&gateway.server).await;
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waiting = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    let response = second.call_to_end("plain", LARGE_OUTPUT).await;
    assert_eq!(response.status, 200, "{response:?}");
    gateway.upstream.release();
    assert!(open.read_to_end().await.1);
    assert_eq!(waiting.await.expect("an answer").status, 200);
    tenant.assert_settled().await;
}

/// A key's own limit does not affect the project's other keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_waiting_for_its_limit_blocks_no_other_key() {
    let gateway = fixture_with_long_wait().await;
    let narrow = ScarceResource::KeySpend.tenant(&gateway).await;
    let wide = narrow.create_key(&gateway.server, r#"{"name":"wide"}"#).await;
    let wide = Tenant { key: wide, ..narrow.clone() };
    let mut open = narrow.open_stream(OPEN_CALL_OUTPUT).await;
    let waiting = narrow.spawn_queued_call(LARGE_OUTPUT).await;
    let response = wide.call_to_end("plain", LARGE_OUTPUT).await;
    assert_eq!(response.status, 200, "{response:?}");
    gateway.upstream.release();
    assert!(open.read_to_end().await.1);
    assert_eq!(waiting.await.expect("an answer").status, 200);
    narrow.assert_settled().await;
}
