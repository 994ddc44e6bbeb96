//! The hold of an open call is visible and ends with the call, whatever an operator changes
//! meanwhile.

use crate::harness::client::{Request, Response};
use crate::harness::json::Json;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::bound;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::scenario_upstream::{ScenarioGateway, USAGE};
use crate::harness::serve::ConfigDir;
use crate::harness::tenant::Tenant;

const FUNDS: i128 = 1_000_000_000;
const MAX_TOKENS: u64 = 20;

/// An administrative change while calls are open.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ConcurrentChange {
    Nothing,
    KeyRevoked,
    LimitsLowered,
    ResetDayMoved,
    ProjectArchived,
    OrganizationInactive,
    WalletInactive,
    ModelRemoved,
}

/// Each change with the status of a new call after it.
const CHANGES: [(ConcurrentChange, u16); 8] = [
    (ConcurrentChange::Nothing, 200),
    (ConcurrentChange::KeyRevoked, 401),
    (ConcurrentChange::LimitsLowered, 429),
    (ConcurrentChange::ResetDayMoved, 200),
    (ConcurrentChange::ProjectArchived, 403),
    (ConcurrentChange::OrganizationInactive, 403),
    (ConcurrentChange::WalletInactive, 402),
    (ConcurrentChange::ModelRemoved, 404),
];

async fn assert_success(tenant: &Tenant, request: Request) {
    let answer = tenant.send(request).await;
    let status = answer.status;
    assert!((200..300).contains(&status), "{status}: {}", answer.text().await);
}

impl ConcurrentChange {
    async fn apply(self, gateway: &ScenarioGateway, tenant: &Tenant) {
        let project = format!("/api/projects/{}", tenant.project);
        match self {
            Self::Nothing => {}
            Self::KeyRevoked => {
                let path = tenant.key_path("fresh").await;
                assert_success(tenant, Request::new("DELETE", &path)).await;
            }
            Self::LimitsLowered => {
                let limits = r#"{"dailyRequestLimit":0,"dailyTokenLimit":0,"dailySpendLimit":0}"#;
                tenant.set_quota(limits).await;
            }
            Self::ResetDayMoved => {
                for day in [28, 1, 17] {
                    tenant.set_quota(&format!(r#"{{"customResetDay":{day}}}"#)).await;
                }
            }
            Self::ProjectArchived => assert_success(tenant, Request::new("DELETE", &project)).await,
            Self::OrganizationInactive => {
                let body = r#"{"status":"Inactive"}"#;
                assert_success(tenant, Request::put("/api/organization", body)).await;
            }
            Self::WalletInactive => {
                let body = r#"{"isActive":false}"#;
                assert_success(tenant, Request::put("/api/organization/wallet", body)).await;
            }
            Self::ModelRemoved => {
                let file = gateway.server.path("gateway.toml");
                let text = std::fs::read_to_string(&file).expect("gateway.toml is readable");
                let text = text.replace("\"steady\"", "\"other\"");
                std::fs::write(&file, text).expect("the folder can be written");
                gateway.tenant.post("/api/platform/reload", "").await;
            }
        }
    }
}

/// The hold of this call among all holds.
fn hold_of<'a>(holds: &'a [Json], answer: &Response) -> &'a Json {
    let matching: Vec<_> =
        holds.iter().filter(|hold| hold.at("requestLogId").text() == answer.id()).collect();
    assert_eq!(matching.len(), 1, "a call has one hold");
    matching[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_visible_and_ends_with_its_call() {
    let gateway = ScenarioGateway::new(FUNDS, "{}", ConfigDir::new).await;
    for (change, status) in CHANGES {
        let tenant = gateway.tenant.create_tenant(&gateway.server, FUNDS, "{}").await;
        let mut staying = tenant.open_stream(MAX_TOKENS).await;
        let leaving = tenant.open_stream(MAX_TOKENS).await;
        let max_cost = GPT_4O_MINI
            .cost(bound(&crate::harness::openai::chat("steady", MAX_TOKENS, true), MAX_TOKENS));
        change.apply(&gateway, &tenant).await;
        let holds = tenant.holds().await;
        assert_eq!(holds.len(), 2, "{change:?}");
        for answer in [&staying, &leaving] {
            let hold = hold_of(&holds, answer);
            assert_eq!(hold.at("amount").nano(), max_cost, "{hold}");
            assert_eq!(hold.at("projectId").text(), tenant.project, "{hold}");
            assert_eq!(hold.at("model").text(), "steady", "{hold}");
        }
        assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), 2 * max_cost, "{change:?}");
        let refusal = FullResponse::read(tenant.new_call_after(change).await).await;
        assert_eq!(refusal.status, status, "{change:?}: {refusal:?}");

        let leaving_id = leaving.id();
        drop(leaving);
        gateway.upstream.release();
        assert!(staying.read_to_end().await.1, "an open call is completed: {change:?}");
        gateway.upstream.stall_again();
        let debit = tenant.debit(&staying.id()).await;
        assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE), "{debit}");
        crate::harness::wait::eventually("no hold is left", async || {
            tenant.holds().await.is_empty().then_some(())
        })
        .await;
        assert!(0 < tenant.debit(&leaving_id).await.at("amount").nano(), "{change:?}");
        tenant.assert_settled().await;
    }
}

impl Tenant {
    /// Calls the model `steady` if it may be gone, otherwise one that answers immediately.
    async fn new_call_after(&self, change: ConcurrentChange) -> Response {
        let model = if change == ConcurrentChange::ModelRemoved { "steady" } else { "plain" };
        self.call(model, MAX_TOKENS).await
    }
}
