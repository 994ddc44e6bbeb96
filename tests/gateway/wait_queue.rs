//! Calls that wait for what open ones hold: they hold nothing, and give their turn up with the call.

use std::time::Instant;

use crate::harness::client::Request;
use crate::harness::demo::assert_within;
use crate::harness::json::money;
use crate::harness::scenario_upstream::{
    SOON, ScenarioGateway, USAGE, assert_queue_full, first_of,
};
use crate::harness::serve::Place;
use crate::harness::tenant::Tenant;
use crate::harness::wait::eventually;

const FUNDS: i128 = 1_000_000_000;
/// What a call of `MOST` leaves room of for one of `SMALL` beside it, and not for one of `LARGE`.
const TOKEN_LIMIT: u64 = 1_000;
const SPEND_LIMIT: i128 = 600_000;
const OPEN_CALL_OUTPUT: u64 = 700;
const LARGE_OUTPUT: u64 = 400;
const SMALL_OUTPUT: u64 = 5;

/// What is scarce.
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

    async fn tenant(self, stage: &ScenarioGateway) -> Tenant {
        let funds = if matches!(self, Self::Wallet) { SPEND_LIMIT } else { FUNDS };
        let mut tenant = stage.tenant.create_tenant(&stage.server, funds, "{}").await;
        if matches!(self, Self::KeySpend) {
            tenant.key = tenant.create_key(&stage.server, r#"{"name":"narrow"}"#).await;
        }
        self.set(&tenant, 1, true).await;
        tenant
    }

    /// Sets what is scarce to so many times what it was, or adds that to the wallet.
    async fn set(self, tenant: &Tenant, times: u64, enforced: bool) {
        let tokens = TOKEN_LIMIT * times;
        let spend = money(SPEND_LIMIT * i128::from(times));
        let five = format!(r#""concurrentCallsLimit":5,"enforceQuota":{enforced}"#);
        let tokens = format!(r#"{{"dailyTokenLimit":{tokens},{five}}}"#);
        let spending = format!(r#"{{"monthlySpendLimit":{spend},{five}}}"#);
        let five = format!("{{{five}}}");
        match self {
            Self::ProjectTokens => drop(tenant.set_quota(&tokens).await),
            Self::ProjectSpend => drop(tenant.set_quota(&spending).await),
            _ => drop(tenant.set_quota(&five).await),
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

/// Patience beyond any test, and one place to wait in.
async fn fixture_with_long_wait() -> ScenarioGateway {
    fixture_with_hold_wait(60_000).await
}

async fn fixture_with_hold_wait(hold_wait_ms: u64) -> ScenarioGateway {
    let rows = format!("[admission]\nhold_wait_ms = {hold_wait_ms}\nwaiting_max = 1\n");
    ScenarioGateway::new(FUNDS, "{}", |models| Place::new(&format!("{rows}{models}"))).await
}

/// What is held for open calls, and nothing else.
async fn expect_holds(tenant: &Tenant, open: u64) {
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
    let stage = fixture_with_long_wait().await;
    for scarce in ScarceResource::ALL {
        disconnects_while_waiting(&stage, &scarce.tenant(&stage).await, &format!("{scarce:?}"))
            .await;
    }
}

async fn disconnects_while_waiting(stage: &ScenarioGateway, tenant: &Tenant, what: &str) {
    let upstream = &stage.upstream;
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let (held, reached) = (tenant.holds().await, upstream.request_count());
    for round in 0..3 {
        let waits = tenant.spawn_queued_call(LARGE_OUTPUT).await;
        expect_holds(tenant, 1).await;
        assert_eq!(tenant.holds().await, held, "a call that waits holds nothing: {what}");
        // There is room for it; but somebody is ahead.
        assert_queue_full(&tenant.call_to_end("plain", SMALL_OUTPUT).await);
        assert_eq!(upstream.request_count(), reached + round, "nobody passes: {what}");

        waits.abort();
        let left = Instant::now();
        eventually("whoever comes next is served", async || {
            let told = tenant.call_to_end("plain", SMALL_OUTPUT).await;
            if told.status != 200 {
                assert_queue_full(&told);
            }
            (told.status == 200).then_some(())
        })
        .await;
        assert_within(SOON, left, Instant::now(), "giving a place up");
        assert_eq!(
            upstream.request_count(),
            reached + round + 1,
            "who has left is not served: {what}"
        );
    }
    expect_holds(tenant, 1).await;

    let waits = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    upstream.release();
    assert!(open.read_to_end().await.1);
    let ended = Instant::now();
    assert_eq!(waits.await.expect("an answer").status, 200, "{what}");
    assert_within(SOON, ended, Instant::now(), "serving who waits");
    upstream.stall_again();
    tenant.assert_settled().await;
    let usage = tenant.usage().await.at("dailyUsage");
    assert_eq!(usage.at("requestCount").count(), 5, "{what}: {usage}");
    assert_eq!(usage.at("tokenCount").count(), 5 * USAGE.total(), "{what}: {usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_a_limit_or_recharging_serves_waiting_calls_immediately() {
    let stage = fixture_with_long_wait().await;
    for scarce in ScarceResource::ALL {
        for enforced in [true, false] {
            // A wallet is always enforced, and what counts only has no need to be raised.
            let times = if enforced || matches!(scarce, ScarceResource::Wallet) { 2 } else { 1 };
            let tenant = scarce.tenant(&stage).await;
            let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
            let waits = tenant.spawn_queued_call(LARGE_OUTPUT).await;
            scarce.set(&tenant, times, enforced).await;
            let raised = Instant::now();
            let what = format!("{scarce:?}, enforced: {enforced}");
            assert_eq!(waits.await.expect("an answer").status, 200, "{what}");
            assert_within(SOON, raised, Instant::now(), &what);
            expect_holds(&tenant, 1).await;
            stage.upstream.release();
            assert!(open.read_to_end().await.1, "{what}");
            stage.upstream.stall_again();
            tenant.assert_settled().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_key_refuses_its_waiting_call_immediately() {
    let stage = fixture_with_long_wait().await;
    let tenant = ScarceResource::ProjectTokens.tenant(&stage).await;
    let key = tenant.create_key(&stage.server, r#"{"name":"leaving"}"#).await;
    let leaving = Tenant { key, ..tenant.clone() };
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waits = leaving.spawn_queued_call(LARGE_OUTPUT).await;
    let path = tenant.key_path("leaving").await;
    assert_eq!(tenant.send(Request::new("DELETE", &path)).await.status, 200);
    let revoked = Instant::now();
    waits.await.expect("an answer").assert_error(401, &["invalid_api_key"]);
    assert_within(SOON, revoked, Instant::now(), "telling who waits");
    assert_eq!(
        tenant.call_to_end("plain", SMALL_OUTPUT).await.status,
        200,
        "nobody is ahead any more"
    );
    stage.upstream.release();
    assert!(open.read_to_end().await.1);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_timeout_advises_a_retry_after_one_second() {
    let stage = fixture_with_hold_wait(100).await;
    for scarce in ScarceResource::ALL {
        let tenant = scarce.tenant(&stage).await;
        let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
        let reached = stage.upstream.request_count();
        let told = tenant.spawn_call(LARGE_OUTPUT).await.expect("an answer");
        let code = match scarce {
            ScarceResource::ProjectTokens | ScarceResource::OrganizationTokens => {
                "daily_tokens_exceeded"
            }
            ScarceResource::Wallet => "balance_on_hold",
            _ => "monthly_spend_exceeded",
        };
        let error = told.assert_error(
            if matches!(scarce, ScarceResource::Wallet) { 402 } else { 429 },
            &[code],
        );
        assert!(error.at("limit.transient").is_true(), "{error}");
        assert_eq!((told.retry_after(), told.header("x-should-retry")), (1, "true"), "{told:?}");
        assert_eq!(stage.upstream.request_count(), reached, "{scarce:?}");
        expect_holds(&tenant, 1).await;
        stage.upstream.release();
        assert!(open.read_to_end().await.1);
        stage.upstream.stall_again();
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
    let stage = fixture_with_long_wait().await;
    let tenant = ScarceResource::Wallet.tenant(&stage).await;
    ScarceResource::ProjectTokens.set(&tenant, 1, true).await;
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waits = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    let second = tenant.create_second_project(&stage.server).await;
    // Another project is not in this line, and joins the one for money.
    let other = second.spawn_call(LARGE_OUTPUT);
    ScarceResource::ProjectTokens.set(&tenant, 2, true).await;
    // One of the two found the line for money full.
    let (told, last) = first_of(waits, other).await;
    assert_queue_full(&told);
    tenant.recharge(SPEND_LIMIT).await;
    assert_eq!(last.await.expect("an answer").status, 200);
    stage.upstream.release();
    assert!(open.read_to_end().await.1);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_discards_waiting_calls() {
    let mut stage = fixture_with_long_wait().await;
    let tenant = ScarceResource::ProjectTokens.tenant(&stage).await;
    let open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waits = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    stage.server.kill();
    drop((open, waits));
    let stage = stage.restart().await;
    let tenant = stage.server.rebind(tenant);
    expect_holds(&tenant, 0).await;
    let requests = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 1, "who waited is not counted");
    assert_eq!(tenant.call_to_end("plain", SMALL_OUTPUT).await.status, 200);
    tenant.assert_settled().await;
}

/// The line of one project is no concern of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_waiting_for_its_limit_blocks_no_other_project() {
    let stage = fixture_with_long_wait().await;
    let tenant = ScarceResource::ProjectTokens.tenant(&stage).await;
    let second = tenant.create_second_project(&stage.server).await;
    let mut open = tenant.open_stream(OPEN_CALL_OUTPUT).await;
    let waits = tenant.spawn_queued_call(LARGE_OUTPUT).await;
    let told = second.call_to_end("plain", LARGE_OUTPUT).await;
    assert_eq!(told.status, 200, "{told:?}");
    stage.upstream.release();
    assert!(open.read_to_end().await.1);
    assert_eq!(waits.await.expect("an answer").status, 200);
    tenant.assert_settled().await;
}

/// Its own limit is no concern of the project's other keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_waiting_for_its_limit_blocks_no_other_key() {
    let stage = fixture_with_long_wait().await;
    let narrow = ScarceResource::KeySpend.tenant(&stage).await;
    let wide = narrow.create_key(&stage.server, r#"{"name":"wide"}"#).await;
    let wide = Tenant { key: wide, ..narrow.clone() };
    let mut open = narrow.open_stream(OPEN_CALL_OUTPUT).await;
    let waits = narrow.spawn_queued_call(LARGE_OUTPUT).await;
    let told = wide.call_to_end("plain", LARGE_OUTPUT).await;
    assert_eq!(told.status, 200, "{told:?}");
    stage.upstream.release();
    assert!(open.read_to_end().await.1);
    assert_eq!(waits.await.expect("an answer").status, 200);
    narrow.assert_settled().await;
}
