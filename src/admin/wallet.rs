//! `wallet`: the balance, what comes in, and what is held.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{Bool, DESCRIPTION, MoneyAmount, ParsedString, Text};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::records::{self, RecordView};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult, ListMeta};
use crate::admin::scalar::{Money, Rfc3339};
use crate::domain::ids::RequestLogId;
use crate::organization::access::OrgContext;
use crate::organization::rights::Action;
use crate::organization::wallet::{self, NewRecharge, NewRefund, WalletStatus};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationWallet)]
struct WalletView {
    organization_id: String,
    /// Held money is still in it.
    balance: Money,
    frozen_amount: Money,
    available_amount: Money,
    currency: String,
    is_active: bool,
    last_seq: i64,
    ledger_check: LedgerCheckView,
    updated_at: Rfc3339,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LedgerCheck)]
struct LedgerCheckView {
    checked_at: Rfc3339,
    last_seq: i64,
    ok: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Hold)]
struct HoldView {
    kind: &'static str,
    #[schema(required)]
    request_log_id: Option<String>,
    #[schema(required)]
    project_id: Option<String>,
    #[schema(required)]
    api_key_id: Option<String>,
    #[schema(required)]
    model: Option<String>,
    amount: Money,
    #[schema(required)]
    tokens: Option<i64>,
    since: Rfc3339,
    node: String,
}

struct WalletChange {
    is_active: bool,
}

const CALL_ID: ParsedString<RequestLogId> =
    ParsedString("the id of a call, a UUID", |text| RequestLogId::parse(text).ok());

body! { WalletChange as "WalletChange" {
    is_active: required("isActive", Bool),
}}

body! { NewRecharge as "NewRecharge" {
    amount: required("amount", MoneyAmount::Positive),
    description: optional("description", DESCRIPTION),
    reference: optional("reference", Text(1, 200)),
}}

body! { NewRefund as "NewRefund" {
    call: required("requestLogId", CALL_ID),
    amount: required("amount", MoneyAmount::Positive),
    description: optional("description", DESCRIPTION),
}}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let path = "/api/organization/wallet";
    let view_doc = OperationSpec::in_organization(Action::ViewWallet, "Shows the wallet.");
    let change_doc = OperationSpec::in_organization(
        Action::SwitchWallet,
        "Switches the wallet on or off for new calls.",
    );
    let change_doc = change_doc.request_body::<WalletChange>().response::<WalletView>();
    let recharge_doc = OperationSpec::in_organization(Action::Recharge, "Pays in.");
    let recharge_doc = recharge_doc.request_body::<NewRecharge>().response::<RecordView>();
    let refund_doc = OperationSpec::in_organization(
        Action::Refund,
        "Gives back part or all of what a call cost.",
    );
    let refund_doc = refund_doc.request_body::<NewRefund>().response::<RecordView>();
    let holds_doc = OperationSpec::in_organization(
        Action::ViewWallet,
        "Lists what is held, and for which call.",
    );
    let holds_doc = holds_doc.query_params(HOLDS_QUERY).list_response::<HoldView>();
    operations
        .add(&Method::GET, path, view, view_doc.response::<WalletView>())
        .add(&Method::PUT, path, change, change_doc)
        .add(&Method::POST, "/api/organization/wallet/recharge", recharge, recharge_doc)
        .add(&Method::POST, "/api/organization/wallet/refund", refund, refund_doc)
        .add(&Method::GET, "/api/organization/wallet/holds", holds, holds_doc)
}

const HOLDS_QUERY: &[(&str, &str)] =
    &[("page", "From 1."), ("size", "Rows a page: 1 to 100, 20 by default.")];

async fn view(asked: AuthenticatedRequest) -> HandlerResult {
    let seat = asked.org_context().await?;
    let platform = &asked.request.state.services;
    let as_of = platform.wait_caught_up().await;
    let wallet = wallet::view(platform, &seat).await?;
    Ok(AdminResponse::object_as_of(&to_view(&asked, &seat, &wallet), as_of))
}

async fn change(asked: AuthenticatedRequest) -> HandlerResult {
    let change: WalletChange = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = wallet::set_active(&mut begun.work, &seat, change.is_active).await;
    asked.finish_mutation(begun, done.map(|()| AdminResponse::default())).await?;
    let wallet = wallet::view_after_update(&asked.request.state.services, &seat).await?;
    Ok(AdminResponse::object(&to_view(&asked, &seat, &wallet)))
}

async fn recharge(asked: AuthenticatedRequest) -> HandlerResult {
    let new: NewRecharge = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = wallet::recharge(&mut begun.work, &seat, &new).await;
    let currency = &asked.request.state.services.settings.currency;
    asked
        .finish_mutation(
            begun,
            done.map(|record| AdminResponse::object(&records::to_view(&record, currency))),
        )
        .await
}

async fn refund(asked: AuthenticatedRequest) -> HandlerResult {
    let new: NewRefund = asked.request.body()?;
    let seat = asked.org_context().await?;
    // The call may have ended a moment ago.
    asked.request.state.services.wait_caught_up().await;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = wallet::refund(&mut begun.work, &seat, &new).await;
    let currency = &asked.request.state.services.settings.currency;
    asked
        .finish_mutation(
            begun,
            done.map(|record| AdminResponse::object(&records::to_view(&record, currency))),
        )
        .await
}

async fn holds(asked: AuthenticatedRequest) -> HandlerResult {
    let seat = asked.org_context().await?;
    let mut query = asked.request.query();
    let page = query.page();
    query.finish()?;
    let platform = &asked.request.state.services;
    let as_of = platform.wait_caught_up().await;
    let holds = wallet::holds(platform, &seat)?;
    let total = i64::try_from(holds.len()).unwrap_or(i64::MAX);
    let node = &platform.settings.node;
    let rows: Vec<HoldView> = page
        .cut(holds)
        .map(|(call, hold)| HoldView {
            kind: "Call",
            request_log_id: Some(call.to_string()),
            project_id: Some(hold.project.to_string()),
            api_key_id: Some(hold.key.to_string()),
            model: Some(hold.model.to_string()),
            amount: Money(hold.amount),
            tokens: Some(hold.tokens),
            since: Rfc3339(hold.since),
            node: node.clone(),
        })
        .collect();
    Ok(AdminResponse::list(
        &rows,
        ListMeta { total, page, next: None, total_is_minimum: false, as_of },
    ))
}

fn to_view(asked: &AuthenticatedRequest, seat: &OrgContext, wallet: &WalletStatus) -> WalletView {
    let stored = &wallet.stored;
    WalletView {
        organization_id: seat.organization.id.to_string(),
        balance: Money(stored.balance),
        frozen_amount: Money(wallet.held),
        available_amount: Money(stored.balance - wallet.held),
        currency: asked.request.state.services.settings.currency.clone(),
        is_active: stored.is_active,
        last_seq: stored.last_seq,
        ledger_check: LedgerCheckView {
            checked_at: Rfc3339(wallet.check.checked_at),
            last_seq: wallet.check.last_seq,
            ok: wallet.check.ok,
        },
        updated_at: Rfc3339(stored.updated_at),
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::tests::{TestApi, TestResponse};
    use crate::domain::ids::{OrganizationId, ProjectId};
    use crate::domain::money::Nano;
    use crate::store::columns::{new_id, uuid};

    const WALLET: &str = "/api/organization/wallet";
    const RECHARGE: &str = "/api/organization/wallet/recharge";
    const REFUND: &str = "/api/organization/wallet/refund";
    const RECORDS: &str = "/api/organization/wallet/records";

    /// Writes what the projector writes for a call that cost 10.50; its id.
    async fn consume(scene: &TestApi) -> String {
        let now = crate::clock::wall_now();
        let call = new_id(now);
        let project = ProjectId::parse(&scene.project().await).expect("an id");
        let organization = OrganizationId::parse(&scene.organization).expect("an id");
        let mut tx = scene.services.database.begin().await.expect("a transaction");
        sqlx::query(
            "INSERT INTO wallet_records (organization_id, seq, id, kind, amount_nano,
                previous_balance_nano, current_balance_nano, request_log_id, project_id, model,
                settled_by, overage, late, created_at)
             SELECT organization_id, last_seq + 1, $2, 'Consume', 10500000000, balance_nano,
                balance_nano - 10500000000, $3, $4, 'gpt-4o', 'usage', 0, 0, $5
             FROM wallets WHERE organization_id = $1",
        )
        .bind(uuid(organization.0))
        .bind(uuid(new_id(now)))
        .bind(uuid(call))
        .bind(uuid(project.0))
        .bind(now.0)
        .execute(&mut *tx)
        .await
        .expect("a record");
        sqlx::query(
            "UPDATE wallets SET last_seq = last_seq + 1, balance_nano = balance_nano - 10500000000
             WHERE organization_id = $1",
        )
        .bind(uuid(organization.0))
        .execute(&mut *tx)
        .await
        .expect("a balance");
        tx.commit().await.expect("committed");
        crate::domain::ids::RequestLogId(call).to_string()
    }

    fn keyed(scene: &TestApi, key: &str, body: &str) -> axum::http::Request<axum::body::Body> {
        let mut request = scene.request("POST", RECHARGE, body);
        request.headers_mut().insert("idempotency-key", key.parse().expect("a header"));
        request
    }

    fn balance(told: &TestResponse) -> &str {
        let (_, rest) = told.text.split_once("\"balance\":").expect("a balance");
        rest.split(',').next().expect("a number")
    }

    #[tokio::test]
    async fn money_comes_in_exactly_and_the_books_know_at_once() {
        let scene = TestApi::new().await;
        let first = scene.get(WALLET).await;
        assert_eq!(balance(&first), "100.00", "{}", first.text);
        assert_eq!(first.data("ledgerCheck")["ok"], true);
        let body = r#"{"amount":0.000000001,"reference":"inv-1"}"#;
        let record = scene.post(RECHARGE, body).await;
        assert!(record.text.contains("\"currentBalance\":100.000000001"), "{}", record.text);
        assert_eq!(record.text_of("description"), "User recharge");
        assert_eq!(record.data("seq"), 2);
        assert_eq!(record.data("actor")["kind"], "Token");
        assert!(record.json["data"].as_object().expect("one").contains_key("requestLogId"));
        let text = scene.get("/api/organization/wallet?money=string").await;
        assert_eq!(text.text_of("balance"), "100.000000001");
        let organization = OrganizationId::parse(&scene.organization).expect("an id");
        let book =
            scene.services.directory.live_state().organization(organization).expect("a book");
        let expected = Nano::units(100) + Nano(1);
        assert_eq!(book.lock().wallet.balance(), expected, "neither lost nor funded twice");
        for amount in ["0", "-1", "1e3", "0.0000000001", "9000000000.01", "null", "true", "\" 1\""]
        {
            let told = scene.post(RECHARGE, &format!(r#"{{"amount":{amount}}}"#)).await;
            told.expect_error(400);
            assert_eq!(told.json["error"]["param"], "/amount", "{amount}");
        }
        let most = scene.post(RECHARGE, r#"{"amount":9000000000}"#).await;
        assert_eq!(most.expect_error(409), "balance_too_large");
    }

    #[tokio::test]
    async fn a_repeated_request_is_done_once() {
        let scene = TestApi::new().await;
        let first = scene.send(keyed(&scene, "one", r#"{"amount":5}"#)).await;
        assert!(!first.headers.contains_key("idempotent-replayed"));
        for _ in 0..2 {
            let again = scene.send(keyed(&scene, "one", r#"{"amount":5}"#)).await;
            assert_eq!((again.status, &again.text), (200, &first.text));
            assert_eq!(again.headers["idempotent-replayed"], "true");
        }
        let other = scene.send(keyed(&scene, "one", r#"{"amount":6}"#)).await;
        assert_eq!(other.expect_error(422), "idempotency_mismatch");
        let mut abreast = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (scene, body) = (scene.with_token(&scene.token), r#"{"amount":1}"#);
            abreast.spawn(async move { scene.send(keyed(&scene, "two", body)).await.status });
        }
        let done = abreast.join_all().await;
        assert!(done.iter().all(|status| [200, 409].contains(status)), "{done:?}");
        assert_eq!(balance(&scene.get(WALLET).await), "106.00");
        let refused = scene.send(keyed(&scene, "three", r#"{"amount":9000000000}"#)).await;
        let again = scene.send(keyed(&scene, "three", r#"{"amount":9000000000}"#)).await;
        assert_eq!((again.status, again.text), (409, refused.text), "a no is kept as well");
        assert_eq!(again.headers["idempotent-replayed"], "true");
        let empty = scene.send(keyed(&scene, "", r#"{"amount":1}"#)).await;
        assert_eq!(empty.expect_error(400), "malformed");
    }

    #[tokio::test]
    async fn a_refund_gives_back_no_more_than_was_consumed() {
        let scene = TestApi::new().await;
        let call = consume(&scene).await;
        let body = |amount: &str| format!(r#"{{"requestLogId":"{call}","amount":{amount}}}"#);
        let record = scene.post(REFUND, &body("5.00")).await;
        assert_eq!(record.text_of("type"), "Refund");
        assert_eq!(record.text_of("requestLogId"), call);
        assert_eq!(record.text_of("description"), "Error call refund");
        assert_eq!(record.text_of("model"), "gpt-4o");
        let more = scene.post(REFUND, &body("5.500000001")).await;
        assert_eq!(more.expect_error(409), "refund_exceeds_consume");
        assert_eq!(scene.post(REFUND, &body("5.50")).await.status, 200);
        assert_eq!(
            scene.post(REFUND, &body("0.01")).await.expect_error(409),
            "refund_exceeds_consume"
        );
        let unknown = crate::domain::ids::RequestLogId(7).to_string();
        let unknown = format!(r#"{{"requestLogId":"{unknown}","amount":1}}"#);
        assert_eq!(scene.post(REFUND, &unknown).await.expect_error(404), "not_found");
        let list = scene.get(&format!("{RECORDS}?type=Consume")).await;
        assert!(list.text.contains("\"refundedAmount\":10.50"), "{}", list.text);
        let wallet = scene.get(WALLET).await;
        assert_eq!(balance(&wallet), "100.00");
        assert_eq!(wallet.data("lastSeq"), 4);
        assert_eq!(wallet.data("ledgerCheck")["ok"], true);
    }

    #[tokio::test]
    async fn records_are_listed_filtered_and_exported() {
        let scene = TestApi::new().await;
        for amount in 1..=5 {
            let body = format!(r#"{{"amount":{amount},"description":"=A{amount}"}}"#);
            scene.post(RECHARGE, &body).await;
        }
        let call = consume(&scene).await;
        let first = scene.get(&format!("{RECORDS}?size=3")).await;
        assert_eq!(first.json["total"], 7);
        let seqs = |told: &TestResponse| -> Vec<i64> {
            let rows = told.json["data"].as_array().expect("a list");
            rows.iter().map(|row| row["seq"].as_i64().expect("a number")).collect()
        };
        assert_eq!(seqs(&first), [7, 6, 5]);
        scene.post(RECHARGE, r#"{"amount":9}"#).await;
        let cursor = first.json["nextCursor"].as_str().expect("more").to_owned();
        let next = scene.get(&format!("{RECORDS}?size=4&cursor={cursor}")).await;
        assert_eq!(seqs(&next), [4, 3, 2, 1], "none twice, none skipped");
        assert!(next.json["nextCursor"].is_null() && next.text.contains("nextCursor"));
        assert_eq!(seqs(&scene.get(&format!("{RECORDS}?page=2&size=3")).await), [5, 4, 3]);
        let filtered = scene.get(&format!("{RECORDS}?requestLogId={call}")).await;
        assert_eq!((seqs(&filtered), filtered.json["total"].as_i64()), (vec![7], Some(1)));
        let later = scene.get(&format!("{RECORDS}?from=2100-01-01")).await;
        assert_eq!(later.json["total"], 0);
        let deep = scene.get(&format!("{RECORDS}?page=200&size=100")).await;
        assert_eq!(deep.expect_error(400), "use_cursor");
        assert_eq!(
            scene.get(&format!("{RECORDS}?cursor=x")).await.expect_error(400),
            "invalid_cursor"
        );
        assert_eq!(
            scene.get(&format!("{RECORDS}?type=Gift")).await.expect_error(400),
            "unknown_word"
        );
        let csv = scene.get(&format!("{RECORDS}/export?type=Recharge")).await;
        let lines: Vec<&str> = csv.text.lines().collect();
        assert_eq!(lines.len(), 1 + 7, "{}", csv.text);
        assert!(lines[0].starts_with("seq,id,type,amount,"));
        assert!(lines[2].starts_with("6,rec_") && lines[2].contains(",'=A5,"), "{}", lines[2]);
    }

    #[tokio::test]
    async fn what_the_operator_switched_off_only_the_operator_switches_on() {
        let scene = TestApi::new().await;
        let token = r#"{"name":"o","kind":"Organization","scopes":["wallet.read","wallet.write"]}"#;
        let token = scene.post("/api/auth/tokens", token).await.text_of("token");
        let admin = scene.with_token(&token);
        let (off, on) = (r#"{"isActive":false}"#, r#"{"isActive":true}"#);
        assert_eq!(admin.put(WALLET, off).await.data("isActive"), false);
        assert_eq!(admin.put(WALLET, on).await.data("isActive"), true);
        assert_eq!(scene.put(WALLET, off).await.data("isActive"), false);
        let told = admin.put(WALLET, on).await;
        assert_eq!(told.expect_error(403), "missing_permission");
        assert_eq!(told.json["error"]["param"], "operator");
        let organization = OrganizationId::parse(&scene.organization).expect("an id");
        let book =
            scene.services.directory.live_state().organization(organization).expect("a book");
        assert!(!book.lock().wallet.is_active(), "new calls are refused at once");
        assert_eq!(admin.post(RECHARGE, r#"{"amount":1}"#).await.status, 200);
        assert_eq!(scene.put(WALLET, on).await.data("isActive"), true);
        scene.put("/api/organization", r#"{"selfFunding":false}"#).await;
        let told = admin.post(RECHARGE, r#"{"amount":1}"#).await;
        assert_eq!(told.expect_error(403), "funding_by_operator");
        assert_eq!(scene.post(RECHARGE, r#"{"amount":1}"#).await.status, 200);
    }
}
