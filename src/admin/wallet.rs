//! `wallet`: the balance, what comes in, and what is held.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Listed, Reply};
use crate::admin::asked::Asked;
use crate::admin::fields::body;
use crate::admin::kind::{Amount, DESCRIPTION, Flag, Parsed, Text};
use crate::admin::operation::{Doc, Operations};
use crate::admin::records::{self, RecordShape};
use crate::admin::scalar::{At, Money};
use crate::domain::ids::RequestLogId;
use crate::organization::access::Seat;
use crate::organization::rights::Right;
use crate::organization::wallet::{self, NewRecharge, NewRefund, Wallet};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationWallet)]
struct WalletShape {
    organization_id: String,
    /// Held money is still in it.
    balance: Money,
    frozen_amount: Money,
    available_amount: Money,
    currency: String,
    is_active: bool,
    last_seq: i64,
    ledger_check: LedgerCheckShape,
    updated_at: At,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LedgerCheck)]
struct LedgerCheckShape {
    checked_at: At,
    last_seq: i64,
    ok: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Hold)]
struct HoldShape {
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
    since: At,
    node: String,
}

struct WalletChange {
    is_active: bool,
}

const CALL: Parsed<RequestLogId> =
    Parsed("the id of a call, a UUID", |text| RequestLogId::parse(text).ok());

body! { WalletChange as "WalletChange" {
    is_active: required("isActive", Flag),
}}

body! { NewRecharge as "NewRecharge" {
    amount: required("amount", Amount::Positive),
    description: optional("description", DESCRIPTION),
    reference: optional("reference", Text(1, 200)),
}}

body! { NewRefund as "NewRefund" {
    call: required("requestLogId", CALL),
    amount: required("amount", Amount::Positive),
    description: optional("description", DESCRIPTION),
}}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let path = "/api/organization/wallet";
    let view_doc = Doc::of(Right::ViewWallet, "Shows the wallet.");
    let change_doc = Doc::of(Right::SwitchWallet, "Switches the wallet on or off for new calls.");
    let change_doc = change_doc.takes::<WalletChange>().one::<WalletShape>();
    let recharge_doc = Doc::of(Right::Recharge, "Pays in.");
    let recharge_doc = recharge_doc.takes::<NewRecharge>().one::<RecordShape>();
    let refund_doc = Doc::of(Right::Refund, "Gives back part or all of what a call cost.");
    let refund_doc = refund_doc.takes::<NewRefund>().one::<RecordShape>();
    let holds_doc = Doc::of(Right::ViewWallet, "Lists what is held, and for which call.");
    let holds_doc = holds_doc.query(HOLDS).list::<HoldShape>();
    operations
        .add(&Method::GET, path, view, view_doc.one::<WalletShape>())
        .add(&Method::PUT, path, change, change_doc)
        .add(&Method::POST, "/api/organization/wallet/recharge", recharge, recharge_doc)
        .add(&Method::POST, "/api/organization/wallet/refund", refund, refund_doc)
        .add(&Method::GET, "/api/organization/wallet/holds", holds, holds_doc)
}

const HOLDS: &[(&str, &str)] =
    &[("page", "From 1."), ("size", "Rows a page: 1 to 100, 20 by default.")];

async fn view(asked: Asked) -> Reply {
    let seat = asked.seat().await?;
    let platform = &asked.visit.state.platform;
    let as_of = platform.fresh().await;
    let wallet = wallet::view(platform, &seat).await?;
    Ok(Answer::one_as_of(&shape(&asked, &seat, &wallet), as_of))
}

async fn change(asked: Asked) -> Reply {
    let change: WalletChange = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = wallet::set_active(&mut begun.work, &seat, change.is_active).await;
    asked.finish(begun, done.map(|()| Answer::default())).await?;
    let wallet = wallet::changed(&asked.visit.state.platform, &seat).await?;
    Ok(Answer::one(&shape(&asked, &seat, &wallet)))
}

async fn recharge(asked: Asked) -> Reply {
    let new: NewRecharge = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = wallet::recharge(&mut begun.work, &seat, &new).await;
    let currency = &asked.visit.state.platform.settings.currency;
    asked.finish(begun, done.map(|record| Answer::one(&records::shape(&record, currency)))).await
}

async fn refund(asked: Asked) -> Reply {
    let new: NewRefund = asked.visit.body()?;
    let seat = asked.seat().await?;
    // The call may have ended a moment ago.
    asked.visit.state.platform.fresh().await;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = wallet::refund(&mut begun.work, &seat, &new).await;
    let currency = &asked.visit.state.platform.settings.currency;
    asked.finish(begun, done.map(|record| Answer::one(&records::shape(&record, currency)))).await
}

async fn holds(asked: Asked) -> Reply {
    let seat = asked.seat().await?;
    let mut query = asked.visit.query();
    let page = query.page();
    query.finish()?;
    let platform = &asked.visit.state.platform;
    let as_of = platform.fresh().await;
    let holds = wallet::holds(platform, &seat)?;
    let total = i64::try_from(holds.len()).unwrap_or(i64::MAX);
    let (skip, take) = (usize::try_from(page.offset()), usize::try_from(page.limit()));
    let shown = holds.into_iter().skip(skip.unwrap_or(usize::MAX)).take(take.unwrap_or(0));
    let node = &platform.settings.node;
    let rows: Vec<HoldShape> = shown
        .map(|(call, hold)| HoldShape {
            kind: "Call",
            request_log_id: Some(call.to_string()),
            project_id: Some(hold.project.to_string()),
            api_key_id: Some(hold.key.to_string()),
            model: Some(hold.model.to_string()),
            amount: Money(hold.amount),
            tokens: Some(hold.tokens),
            since: At(hold.since),
            node: node.clone(),
        })
        .collect();
    Ok(Answer::list(&rows, Listed { total, page, next: None, total_is_minimum: false, as_of }))
}

fn shape(asked: &Asked, seat: &Seat, wallet: &Wallet) -> WalletShape {
    let stored = &wallet.stored;
    WalletShape {
        organization_id: seat.organization.id.to_string(),
        balance: Money(stored.balance),
        frozen_amount: Money(wallet.frozen),
        available_amount: Money(stored.balance - wallet.frozen),
        currency: asked.visit.state.platform.settings.currency.clone(),
        is_active: stored.is_active,
        last_seq: stored.last_seq,
        ledger_check: LedgerCheckShape {
            checked_at: At(wallet.check.checked_at),
            last_seq: wallet.check.last_seq,
            ok: wallet.check.ok,
        },
        updated_at: At(stored.updated_at),
    }
}
