//! What a call holds can be seen while it is open, and ends with it, whatever is done meanwhile.

use crate::harness::client::{Request, Response};
use crate::harness::json::Json;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::bound;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::scenario_upstream::{ScenarioGateway, USAGE};
use crate::harness::serve::Place;
use crate::harness::tenant::Tenant;

const FUNDS: i128 = 1_000_000_000;
const MAX_TOKENS: u64 = 20;

/// What is done while calls are open.
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

/// Each with what a new call is told then.
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

async fn expect_success(tenant: &Tenant, request: Request) {
    let answer = tenant.send(request).await;
    let status = answer.status;
    assert!((200..300).contains(&status), "{status}: {}", answer.text().await);
}

impl ConcurrentChange {
    async fn apply(self, stage: &ScenarioGateway, tenant: &Tenant) {
        let project = format!("/api/projects/{}", tenant.project);
        match self {
            Self::Nothing => {}
            Self::KeyRevoked => {
                let path = tenant.key_path("fresh").await;
                expect_success(tenant, Request::new("DELETE", &path)).await;
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
            Self::ProjectArchived => expect_success(tenant, Request::new("DELETE", &project)).await,
            Self::OrganizationInactive => {
                let body = r#"{"status":"Inactive"}"#;
                expect_success(tenant, Request::put("/api/organization", body)).await;
            }
            Self::WalletInactive => {
                let body = r#"{"isActive":false}"#;
                expect_success(tenant, Request::put("/api/organization/wallet", body)).await;
            }
            Self::ModelRemoved => {
                let file = stage.server.path("gateway.toml");
                let text = std::fs::read_to_string(&file).expect("the file");
                let text = text.replace("\"steady\"", "\"other\"");
                std::fs::write(&file, text).expect("the folder can be written");
                stage.tenant.post("/api/platform/reload", "").await;
            }
        }
    }
}

/// What is shown of the hold of this call.
fn hold_of<'a>(holds: &'a [Json], answer: &Response) -> &'a Json {
    let own: Vec<_> =
        holds.iter().filter(|hold| hold.at("requestLogId").text() == answer.id()).collect();
    assert_eq!(own.len(), 1, "a call has one hold");
    own[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_visible_and_ends_with_its_call() {
    let stage = ScenarioGateway::new(FUNDS, "{}", Place::new).await;
    for (meanwhile, status) in CHANGES {
        let tenant = stage.tenant.create_tenant(&stage.server, FUNDS, "{}").await;
        let mut stays = tenant.open_stream(MAX_TOKENS).await;
        let leaves = tenant.open_stream(MAX_TOKENS).await;
        let most = GPT_4O_MINI
            .cost(bound(&crate::harness::openai::chat("steady", MAX_TOKENS, true), MAX_TOKENS));
        meanwhile.apply(&stage, &tenant).await;
        let holds = tenant.holds().await;
        assert_eq!(holds.len(), 2, "{meanwhile:?}");
        for answer in [&stays, &leaves] {
            let hold = hold_of(&holds, answer);
            assert_eq!(hold.at("amount").nano(), most, "{hold}");
            assert_eq!(hold.at("projectId").text(), tenant.project, "{hold}");
            assert_eq!(hold.at("model").text(), "steady", "{hold}");
        }
        assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), 2 * most, "{meanwhile:?}");
        let new = FullResponse::read(tenant.new_call_after(meanwhile).await).await;
        assert_eq!(new.status, status, "{meanwhile:?}: {new:?}");

        let left = leaves.id();
        drop(leaves);
        stage.upstream.release();
        assert!(stays.read_to_end().await.1, "an open call is honoured: {meanwhile:?}");
        stage.upstream.stall_again();
        let debit = tenant.debit(&stays.id()).await;
        assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE), "{debit}");
        crate::harness::wait::eventually("no hold is left", async || {
            tenant.holds().await.is_empty().then_some(())
        })
        .await;
        assert!(0 < tenant.debit(&left).await.at("amount").nano(), "{meanwhile:?}");
        tenant.assert_settled().await;
    }
}

impl Tenant {
    /// A new call: of the model that is open, where it may be gone; else of one that ends at once.
    async fn new_call_after(&self, meanwhile: ConcurrentChange) -> Response {
        let model = if meanwhile == ConcurrentChange::ModelRemoved { "steady" } else { "plain" };
        self.call(model, MAX_TOKENS).await
    }
}
