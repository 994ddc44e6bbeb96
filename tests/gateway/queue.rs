//! Calls that wait for what open ones hold: they hold nothing, and give their turn up with the call.

use std::time::Instant;

use crate::client::Request;
use crate::gateway::within;
use crate::json::money;
use crate::served::Place;
use crate::stage::{SOON, Stage, USAGE, either, is_full};
use crate::tenant::Tenant;
use crate::wait::eventually;

const FUNDS: i128 = 1_000_000_000;
/// What a call of `MOST` leaves room of for one of `SMALL` beside it, and not for one of `LARGE`.
const TOKENS: u64 = 1_000;
const MONEY: i128 = 600_000;
const MOST: u64 = 700;
const LARGE: u64 = 400;
const SMALL: u64 = 5;

/// What is scarce.
#[derive(Clone, Copy, Debug)]
enum Scarce {
    TokensOfProject,
    SpendOfProject,
    SpendOfKey,
    TokensOfOrganization,
    SpendOfOrganization,
    Wallet,
}

impl Scarce {
    const ALL: [Self; 6] = [
        Self::TokensOfProject,
        Self::SpendOfProject,
        Self::SpendOfKey,
        Self::TokensOfOrganization,
        Self::SpendOfOrganization,
        Self::Wallet,
    ];

    async fn tenant(self, stage: &Stage) -> Tenant {
        let funds = if matches!(self, Self::Wallet) { MONEY } else { FUNDS };
        let mut tenant = stage.tenant.found(&stage.served, funds, "{}").await;
        if matches!(self, Self::SpendOfKey) {
            tenant.key = tenant.new_key(&stage.served, r#"{"name":"narrow"}"#).await;
        }
        self.set(&tenant, 1, true).await;
        tenant
    }

    /// Sets what is scarce to so many times what it was, or adds that to the wallet.
    async fn set(self, tenant: &Tenant, times: u64, enforced: bool) {
        let tokens = TOKENS * times;
        let spend = money(MONEY * i128::from(times));
        let five = format!(r#""concurrentCallsLimit":5,"enforceQuota":{enforced}"#);
        let tokens = format!(r#"{{"dailyTokenLimit":{tokens},{five}}}"#);
        let spending = format!(r#"{{"monthlySpendLimit":{spend},{five}}}"#);
        let five = format!("{{{five}}}");
        match self {
            Self::TokensOfProject => drop(tenant.quota(&tokens).await),
            Self::SpendOfProject => drop(tenant.quota(&spending).await),
            _ => drop(tenant.quota(&five).await),
        }
        match self {
            Self::TokensOfOrganization => drop(tenant.organization_quota(&tokens).await),
            Self::SpendOfOrganization => drop(tenant.organization_quota(&spending).await),
            Self::SpendOfKey => {
                let path = tenant.key_path("narrow").await;
                let body = format!(r#"{{"monthlySpendLimit":{spend}}}"#);
                assert_eq!(tenant.ask(Request::put(&path, body)).await.status, 200);
            }
            Self::Wallet if times > 1 => drop(tenant.recharge(MONEY).await),
            Self::TokensOfProject | Self::SpendOfProject | Self::Wallet => {}
        }
    }
}

/// Patience beyond any test, and one place to wait in.
async fn stage() -> Stage {
    patient_for(60_000).await
}

async fn patient_for(hold_wait_ms: u64) -> Stage {
    let rows = format!("[admission]\nhold_wait_ms = {hold_wait_ms}\nwaiting_max = 1\n");
    Stage::new(FUNDS, "{}", |models| Place::new(&format!("{rows}{models}"))).await
}

/// What is held for open calls, and nothing else.
async fn holds(tenant: &Tenant, open: u64) {
    let (usage, holds) = (tenant.usage().await, tenant.holds().await);
    assert_eq!(holds.len() as u64, open, "{holds:?}");
    let tokens: u64 = holds.iter().map(|hold| hold.at("tokens").count()).sum();
    let frozen: i128 = holds.iter().map(|hold| hold.at("amount").nano()).sum();
    assert_eq!(usage.at("dailyUsage.heldRequests").count(), open, "{usage}");
    assert_eq!(usage.at("dailyUsage.heldTokens").count(), tokens, "{usage}");
    assert_eq!(usage.at("dailyUsage.heldSpend").nano(), frozen, "{usage}");
    assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), frozen);
    assert_eq!(tenant.places().await, 5 - open, "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_call_waits_gives_its_place_up_at_once() {
    let stage = stage().await;
    for scarce in Scarce::ALL {
        leaves_the_line(&stage, &scarce.tenant(&stage).await, &format!("{scarce:?}")).await;
    }
}

async fn leaves_the_line(stage: &Stage, tenant: &Tenant, what: &str) {
    let upstream = &stage.upstream;
    let mut open = tenant.begun(MOST).await;
    let (held, reached) = (tenant.holds().await, upstream.count());
    for round in 0..3 {
        let waits = tenant.waiting(LARGE).await;
        holds(tenant, 1).await;
        assert_eq!(tenant.holds().await, held, "a call that waits holds nothing: {what}");
        // There is room for it; but somebody is ahead.
        is_full(&tenant.told("plain", SMALL).await);
        assert_eq!(upstream.count(), reached + round, "nobody passes: {what}");

        waits.abort();
        let left = Instant::now();
        eventually("whoever comes next is served", async || {
            let told = tenant.told("plain", SMALL).await;
            if told.status != 200 {
                is_full(&told);
            }
            (told.status == 200).then_some(())
        })
        .await;
        within(SOON, left, Instant::now(), "giving a place up");
        assert_eq!(upstream.count(), reached + round + 1, "who has left is not served: {what}");
    }
    holds(tenant, 1).await;

    let waits = tenant.waiting(LARGE).await;
    upstream.release();
    assert!(open.rest().await.1);
    let ended = Instant::now();
    assert_eq!(waits.await.expect("an answer").status, 200, "{what}");
    within(SOON, ended, Instant::now(), "serving who waits");
    upstream.hold();
    tenant.at_rest().await;
    let usage = tenant.usage().await.at("dailyUsage");
    assert_eq!(usage.at("requestCount").count(), 5, "{what}: {usage}");
    assert_eq!(usage.at("tokenCount").count(), 5 * USAGE.total(), "{what}: {usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_raised_or_a_wallet_that_is_recharged_serves_who_waits_at_once() {
    let stage = stage().await;
    for scarce in Scarce::ALL {
        for enforced in [true, false] {
            // A wallet is always enforced, and what counts only has no need to be raised.
            let times = if enforced || matches!(scarce, Scarce::Wallet) { 2 } else { 1 };
            let tenant = scarce.tenant(&stage).await;
            let mut open = tenant.begun(MOST).await;
            let waits = tenant.waiting(LARGE).await;
            scarce.set(&tenant, times, enforced).await;
            let raised = Instant::now();
            let what = format!("{scarce:?}, enforced: {enforced}");
            assert_eq!(waits.await.expect("an answer").status, 200, "{what}");
            within(SOON, raised, Instant::now(), &what);
            holds(&tenant, 1).await;
            stage.upstream.release();
            assert!(open.rest().await.1, "{what}");
            stage.upstream.hold();
            tenant.at_rest().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_while_its_call_waits_is_told_so_at_once() {
    let stage = stage().await;
    let tenant = Scarce::TokensOfProject.tenant(&stage).await;
    let key = tenant.new_key(&stage.served, r#"{"name":"leaving"}"#).await;
    let leaving = Tenant { key, ..tenant.clone() };
    let mut open = tenant.begun(MOST).await;
    let waits = leaving.waiting(LARGE).await;
    let path = tenant.key_path("leaving").await;
    assert_eq!(tenant.ask(Request::new("DELETE", &path)).await.status, 200);
    let revoked = Instant::now();
    waits.await.expect("an answer").is(401, &["invalid_api_key"]);
    within(SOON, revoked, Instant::now(), "telling who waits");
    assert_eq!(tenant.told("plain", SMALL).await.status, 200, "nobody is ahead any more");
    stage.upstream.release();
    assert!(open.rest().await.1);
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_is_told_to_come_again_soon() {
    let stage = patient_for(100).await;
    for scarce in Scarce::ALL {
        let tenant = scarce.tenant(&stage).await;
        let mut open = tenant.begun(MOST).await;
        let reached = stage.upstream.count();
        let told = tenant.sent(LARGE).await.expect("an answer");
        let code = match scarce {
            Scarce::TokensOfProject | Scarce::TokensOfOrganization => "daily_tokens_exceeded",
            Scarce::Wallet => "balance_on_hold",
            _ => "monthly_spend_exceeded",
        };
        let error = told.is(if matches!(scarce, Scarce::Wallet) { 402 } else { 429 }, &[code]);
        assert!(error.at("limit.transient").is_true(), "{error}");
        assert_eq!((told.retry_after(), told.header("x-should-retry")), (1, "true"), "{told:?}");
        assert_eq!(stage.upstream.count(), reached, "{scarce:?}");
        holds(&tenant, 1).await;
        stage.upstream.release();
        assert!(open.rest().await.1);
        stage.upstream.hold();
        assert_eq!(tenant.sent(LARGE).await.expect("an answer").status, 200, "{scarce:?}");
        tenant.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_tokens_and_then_for_money_is_in_one_line_at_a_time() {
    let stage = stage().await;
    let tenant = Scarce::Wallet.tenant(&stage).await;
    Scarce::TokensOfProject.set(&tenant, 1, true).await;
    let mut open = tenant.begun(MOST).await;
    let waits = tenant.waiting(LARGE).await;
    let second = tenant.second_project(&stage.served).await;
    // Another project is not in this line, and joins the one for money.
    let other = second.sent(LARGE);
    Scarce::TokensOfProject.set(&tenant, 2, true).await;
    // One of the two found the line for money full.
    let (told, last) = either(waits, other).await;
    is_full(&told);
    tenant.recharge(MONEY).await;
    assert_eq!(last.await.expect("an answer").status, 200);
    stage.upstream.release();
    assert!(open.rest().await.1);
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_nothing_of_calls_that_wait() {
    let mut stage = stage().await;
    let tenant = Scarce::TokensOfProject.tenant(&stage).await;
    let open = tenant.begun(MOST).await;
    let waits = tenant.waiting(LARGE).await;
    stage.served.kill();
    drop((open, waits));
    let stage = stage.again().await;
    let tenant = stage.served.home(tenant);
    holds(&tenant, 0).await;
    let requests = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(requests, 1, "who waited is not counted");
    assert_eq!(tenant.told("plain", SMALL).await.status, 200);
    tenant.at_rest().await;
}

/// The line of one project is no concern of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_waits_under_its_own_limit_is_in_no_other_projects_way() {
    let stage = stage().await;
    let tenant = Scarce::TokensOfProject.tenant(&stage).await;
    let second = tenant.second_project(&stage.served).await;
    let mut open = tenant.begun(MOST).await;
    let waits = tenant.waiting(LARGE).await;
    let told = second.told("plain", LARGE).await;
    assert_eq!(told.status, 200, "{told:?}");
    stage.upstream.release();
    assert!(open.rest().await.1);
    assert_eq!(waits.await.expect("an answer").status, 200);
    tenant.at_rest().await;
}

/// Its own limit is no concern of the project's other keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_waits_under_its_own_limit_is_in_nobody_elses_way() {
    let stage = stage().await;
    let narrow = Scarce::SpendOfKey.tenant(&stage).await;
    let wide = narrow.new_key(&stage.served, r#"{"name":"wide"}"#).await;
    let wide = Tenant { key: wide, ..narrow.clone() };
    let mut open = narrow.begun(MOST).await;
    let waits = narrow.waiting(LARGE).await;
    let told = wide.told("plain", LARGE).await;
    assert_eq!(told.status, 200, "{told:?}");
    stage.upstream.release();
    assert!(open.rest().await.1);
    assert_eq!(waits.await.expect("an answer").status, 200);
    narrow.at_rest().await;
}
