//! `wallet`: balance, recharges, refunds and holds.

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
    /// Includes held money.
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
    ParsedString { expected: "a call id (a UUID)", parse: |text| RequestLogId::parse(text).ok() };

body! { WalletChange as "WalletChange" {
    is_active: required("isActive", Bool),
}}

body! { NewRecharge as "NewRecharge" {
    amount: required("amount", MoneyAmount::Positive),
    description: optional("description", DESCRIPTION),
    reference: optional("reference", Text { min: 1, max: 200 }),
}}

body! { NewRefund as "NewRefund" {
    call: required("requestLogId", CALL_ID),
    amount: required("amount", MoneyAmount::Positive),
    description: optional("description", DESCRIPTION),
}}

pub fn routes(routes: Routes) -> Routes {
    let path = "/api/organization/wallet";
    let view_spec = OperationSpec::in_organization(Action::ViewWallet, "Shows the wallet.");
    let change_spec = OperationSpec::in_organization(
        Action::SwitchWallet,
        "Enables or disables the wallet for new calls.",
    );
    let change_spec = change_spec.request_body::<WalletChange>().response::<WalletView>();
    let recharge_spec =
        OperationSpec::in_organization(Action::Recharge, "Adds money to the wallet.");
    let recharge_spec = recharge_spec.request_body::<NewRecharge>().response::<RecordView>();
    let refund_spec =
        OperationSpec::in_organization(Action::Refund, "Refunds a call in full or in part.");
    let refund_spec = refund_spec.request_body::<NewRefund>().response::<RecordView>();
    let holds_spec = OperationSpec::in_organization(
        Action::ViewWallet,
        "Lists the amounts held for calls in flight.",
    );
    let holds_spec = holds_spec.query_params(HOLDS_QUERY).list_response::<HoldView>();
    routes
        .get(path, view, view_spec.response::<WalletView>())
        .put(path, change, change_spec)
        .post("/api/organization/wallet/recharge", recharge, recharge_spec)
        .post("/api/organization/wallet/refund", refund, refund_spec)
        .get("/api/organization/wallet/holds", holds, holds_spec)
}

const HOLDS_QUERY: &[(&str, &str)] =
    &[("page", "Page number, from 1."), ("size", "Rows per page, 1 to 100. Default: 20.")];

async fn view(request: AuthenticatedRequest) -> HandlerResult {
    let org = request.org_context().await?;
    let services = &request.state.services;
    let as_of = services.wait_caught_up().await;
    let wallet = wallet::view(services, &org).await?;
    Ok(AdminResponse::object_as_of(&to_view(&request, &org, &wallet), as_of))
}

async fn change(request: AuthenticatedRequest) -> HandlerResult {
    let change: WalletChange = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = wallet::set_active(&mut mutation.work, &org, change.is_active).await;
    request.finish_mutation(mutation, result.map(|()| AdminResponse::default())).await?;
    let wallet = wallet::view_after_update(&request.state.services, &org).await?;
    Ok(AdminResponse::object(&to_view(&request, &org, &wallet)))
}

async fn recharge(request: AuthenticatedRequest) -> HandlerResult {
    let new: NewRecharge = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = wallet::recharge(&mut mutation.work, &org, &new).await;
    let currency = &request.state.services.settings.currency;
    request
        .finish_mutation(
            mutation,
            result.map(|record| AdminResponse::object(&records::to_view(&record, currency))),
        )
        .await
}

async fn refund(request: AuthenticatedRequest) -> HandlerResult {
    let new: NewRefund = request.body()?;
    let org = request.org_context().await?;
    // Wait for the ledger, because the call may have ended a moment ago.
    request.state.services.wait_caught_up().await;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = wallet::refund(&mut mutation.work, &org, &new).await;
    let currency = &request.state.services.settings.currency;
    request
        .finish_mutation(
            mutation,
            result.map(|record| AdminResponse::object(&records::to_view(&record, currency))),
        )
        .await
}

async fn holds(request: AuthenticatedRequest) -> HandlerResult {
    let org = request.org_context().await?;
    let mut query = request.query();
    let page = query.page();
    query.finish()?;
    let services = &request.state.services;
    let as_of = services.wait_caught_up().await;
    let holds = wallet::holds(services, &org)?;
    let total = i64::try_from(holds.len()).unwrap_or(i64::MAX);
    let node = &services.settings.node;
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

fn to_view(request: &AuthenticatedRequest, org: &OrgContext, wallet: &WalletStatus) -> WalletView {
    let stored = &wallet.stored;
    WalletView {
        organization_id: org.organization.id.to_string(),
        balance: Money(stored.balance),
        frozen_amount: Money(wallet.held),
        available_amount: Money(stored.balance - wallet.held),
        currency: request.state.services.settings.currency.clone(),
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
