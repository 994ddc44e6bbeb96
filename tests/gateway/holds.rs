//! What a call holds can be seen while it is open, and ends with it, whatever is done meanwhile.

use crate::client::{Answer, Request};
use crate::json::Json;
use crate::openai::bound;
use crate::price::GPT_4O_MINI;
use crate::served::Place;
use crate::stage::{Stage, USAGE};
use crate::tenant::Tenant;
use crate::told::Told;

const FUNDS: i128 = 1_000_000_000;
const MAX_TOKENS: u64 = 20;

/// What is done while calls are open.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Nothing,
    KeyRevoked,
    LimitsLowered,
    ResetDayMoved,
    ProjectArchived,
    OrganizationInactive,
    WalletOff,
    ModelGone,
}

/// Each with what a new call is told then.
const ALL: [(Meanwhile, u16); 8] = [
    (Meanwhile::Nothing, 200),
    (Meanwhile::KeyRevoked, 401),
    (Meanwhile::LimitsLowered, 429),
    (Meanwhile::ResetDayMoved, 200),
    (Meanwhile::ProjectArchived, 403),
    (Meanwhile::OrganizationInactive, 403),
    (Meanwhile::WalletOff, 402),
    (Meanwhile::ModelGone, 404),
];

async fn done(tenant: &Tenant, request: Request) {
    let answer = tenant.ask(request).await;
    let status = answer.status;
    assert!((200..300).contains(&status), "{status}: {}", answer.text().await);
}

impl Meanwhile {
    async fn happens(self, stage: &Stage, tenant: &Tenant) {
        let project = format!("/api/projects/{}", tenant.project);
        match self {
            Self::Nothing => {}
            Self::KeyRevoked => {
                let path = tenant.key_path("fresh").await;
                done(tenant, Request::new("DELETE", &path)).await;
            }
            Self::LimitsLowered => {
                let limits = r#"{"dailyRequestLimit":0,"dailyTokenLimit":0,"dailySpendLimit":0}"#;
                tenant.quota(limits).await;
            }
            Self::ResetDayMoved => {
                for day in [28, 1, 17] {
                    tenant.quota(&format!(r#"{{"customResetDay":{day}}}"#)).await;
                }
            }
            Self::ProjectArchived => done(tenant, Request::new("DELETE", &project)).await,
            Self::OrganizationInactive => {
                let body = r#"{"status":"Inactive"}"#;
                done(tenant, Request::put("/api/organization", body)).await;
            }
            Self::WalletOff => {
                let body = r#"{"isActive":false}"#;
                done(tenant, Request::put("/api/organization/wallet", body)).await;
            }
            Self::ModelGone => {
                let file = stage.served.path("gateway.toml");
                let text = std::fs::read_to_string(&file).expect("the file");
                let text = text.replace("\"steady\"", "\"other\"");
                std::fs::write(&file, text).expect("the folder can be written");
                stage.tenant.post("/api/platform/reload", "").await;
            }
        }
    }
}

/// What is shown of the hold of this call.
fn shown<'a>(holds: &'a [Json], answer: &Answer) -> &'a Json {
    let own: Vec<_> =
        holds.iter().filter(|hold| hold.at("requestLogId").text() == answer.id()).collect();
    assert_eq!(own.len(), 1, "a call has one hold");
    own[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_seen_and_ends_with_its_call_whatever_is_done_meanwhile() {
    let stage = Stage::new(FUNDS, "{}", Place::new).await;
    for (meanwhile, status) in ALL {
        let tenant = stage.tenant.found(&stage.served, FUNDS, "{}").await;
        let mut stays = tenant.begun(MAX_TOKENS).await;
        let leaves = tenant.begun(MAX_TOKENS).await;
        let most =
            GPT_4O_MINI.cost(bound(&crate::openai::chat("steady", MAX_TOKENS, true), MAX_TOKENS));
        meanwhile.happens(&stage, &tenant).await;
        let holds = tenant.holds().await;
        assert_eq!(holds.len(), 2, "{meanwhile:?}");
        for answer in [&stays, &leaves] {
            let hold = shown(&holds, answer);
            assert_eq!(hold.at("amount").nano(), most, "{hold}");
            assert_eq!(hold.at("projectId").text(), tenant.project, "{hold}");
            assert_eq!(hold.at("model").text(), "steady", "{hold}");
        }
        assert_eq!(tenant.wallet().await.at("frozenAmount").nano(), 2 * most, "{meanwhile:?}");
        let new = Told::by(tenant.call_at_once(meanwhile).await).await;
        assert_eq!(new.status, status, "{meanwhile:?}: {new:?}");

        let left = leaves.id();
        drop(leaves);
        stage.upstream.release();
        assert!(stays.rest().await.1, "an open call is honoured: {meanwhile:?}");
        stage.upstream.hold();
        let debit = tenant.debit(&stays.id()).await;
        assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE), "{debit}");
        crate::wait::eventually("no hold is left", async || {
            tenant.holds().await.is_empty().then_some(())
        })
        .await;
        assert!(0 < tenant.debit(&left).await.at("amount").nano(), "{meanwhile:?}");
        tenant.at_rest().await;
    }
}

impl Tenant {
    /// A new call: of the model that is open, where it may be gone; else of one that ends at once.
    async fn call_at_once(&self, meanwhile: Meanwhile) -> Answer {
        let model = if meanwhile == Meanwhile::ModelGone { "steady" } else { "plain" };
        self.call(model, MAX_TOKENS).await
    }
}
