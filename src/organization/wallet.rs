//! The wallet of an organization: balance, recharges, refunds, records and holds.

use serde_json::json;

use crate::accounting::live_state::OpenHold;
use crate::clock;
use crate::crash::crash_point;
use crate::domain::ids::RequestLogId;
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::ledger::chain_auditor::ChainStatus;
use crate::ledger::records::{self, Record, RecordFilter, RecordRange};
use crate::ledger::wallets::{self, NewRecord, StoredWallet};
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::rights::{Action, Forbidden};
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Effect, UnitOfWork};

/// The state of a wallet.
#[derive(Debug, Clone, Copy)]
pub struct WalletStatus {
    /// The balance and the switches in the database.
    pub stored: StoredWallet,
    /// The money that open calls hold.
    pub held: Nano,
    /// How far the ledger chain was verified.
    pub check: ChainStatus,
}

/// A recharge to post.
#[derive(Debug, Clone)]
pub struct NewRecharge {
    /// Greater than zero.
    pub amount: Nano,
    pub description: Option<String>,
    /// The number of the payment.
    pub reference: Option<String>,
}

/// A refund to post.
#[derive(Debug, Clone)]
pub struct NewRefund {
    /// The call whose cost is refunded.
    pub call: RequestLogId,
    /// At most what is left of the call's Consume record.
    pub amount: Nano,
    pub description: Option<String>,
}

/// Matches of a filter are counted up to this number.
pub const COUNTED_MAX: i64 = 10_000;

/// Returns the state of the wallet.
pub async fn view(services: &Services, org: &OrgContext) -> Result<WalletStatus, UseCaseError> {
    org.require(Action::ViewWallet)?;
    load(services, org).await
}

/// Loads the state of the wallet, without an access check: the caller has made it.
///
/// The holds are read before the balance, so that a call that settles in between is missing from
/// neither of the two.
async fn load(services: &Services, org: &OrgContext) -> Result<WalletStatus, UseCaseError> {
    let organization = org.organization.id;
    let state = services.directory.live_state().organization(organization);
    let held = state.map(|state| state.held()).unwrap_or_default();
    let reader = services.database.reader();
    let check = services.chain_auditor.check(reader, organization, clock::wall_now()).await?;
    let stored = wallets::read(reader, organization).await?;
    Ok(WalletStatus { stored, held, check })
}

/// Switches the wallet on or off for new calls; open calls finish. A wallet that the operator
/// switched off can be switched on by the operator only.
pub async fn set_active(
    work: &mut UnitOfWork,
    org: &OrgContext,
    active: bool,
) -> Result<(), UseCaseError> {
    org.require(Action::SwitchWallet)?;
    let (organization, now) = (org.organization.id, work.now());
    let before = wallets::read(work.connection(), organization).await?;
    if before.disabled_by_operator && !org.is_operator() {
        if active {
            return Err(Forbidden::Permission("operator").into());
        }
        return Ok(());
    }
    let by_operator = org.is_operator();
    wallets::set_active(work.connection(), organization, active, by_operator, now).await?;
    work.after_commit(Effect::Organization(organization));
    let change = AuditChange {
        organization: Some(organization),
        action: "wallet.update".into(),
        target: audit_target(org),
        before: Some(json!({"isActive": before.is_active})),
        after: Some(json!({"isActive": active})),
    };
    work.audit(&org.principal.actor(), change).await
}

/// Returns the state of the wallet after [`set_active`].
pub async fn view_after_update(
    services: &Services,
    org: &OrgContext,
) -> Result<WalletStatus, UseCaseError> {
    org.require(Action::SwitchWallet)?;
    load(services, org).await
}

/// Posts a recharge.
pub async fn recharge(
    work: &mut UnitOfWork,
    org: &OrgContext,
    new: &NewRecharge,
) -> Result<Record, UseCaseError> {
    org.require(Action::Recharge)?;
    let actor = actor_json(org);
    let posting = NewRecord {
        kind: RecordKind::Recharge,
        amount: new.amount,
        consume: None,
        description: new.description.as_deref(),
        reference: new.reference.as_deref(),
        actor: &actor,
    };
    let posted = post(work, org, &posting, "wallet.recharge").await;
    crash_point!("recharge-posted");
    posted
}

/// Posts a refund of part or all of what a call cost.
pub async fn refund(
    work: &mut UnitOfWork,
    org: &OrgContext,
    new: &NewRefund,
) -> Result<Record, UseCaseError> {
    org.require(Action::Refund)?;
    let organization = org.organization.id;
    let found = records::consume(work.connection(), organization, new.call).await?;
    let consume = found.ok_or(UseCaseError::NotFound)?;
    let left = consume.amount - consume.refunded.unwrap_or_default();
    if left < new.amount {
        let message = format!("only {left} of the cost of this call can still be refunded");
        return Err(UseCaseError::conflict("refund_exceeds_consume", message));
    }
    let actor = actor_json(org);
    let posting = NewRecord {
        kind: RecordKind::Refund,
        amount: new.amount,
        consume: Some(&consume),
        description: new.description.as_deref(),
        reference: None,
        actor: &actor,
    };
    let posted = post(work, org, &posting, "wallet.refund").await;
    crash_point!("refund-posted");
    posted
}

async fn post(
    work: &mut UnitOfWork,
    org: &OrgContext,
    posting: &NewRecord<'_>,
    action: &'static str,
) -> Result<Record, UseCaseError> {
    let (organization, now) = (org.organization.id, work.now());
    let seq = wallets::post(work.connection(), organization, posting, now).await?;
    work.after_commit(Effect::Credit(organization, posting.amount));
    let found = records::at_seq(&mut *work.connection(), organization, seq).await?;
    let record = found.ok_or_else(|| {
        UseCaseError::Internal("a record is missing right after it was inserted".into())
    })?;
    let change = AuditChange {
        organization: Some(organization),
        action: action.into(),
        target: audit_target(org),
        before: Some(json!({"balance": record.previous.to_string()})),
        after: Some(json!({
            "balance": record.current.to_string(),
            "amount": record.amount.to_string(),
            "recordId": record.id.to_string(),
            "requestLogId": record.call.map(|id| id.to_string()),
        })),
    };
    work.audit(&org.principal.actor(), change).await?;
    Ok(record)
}

/// Returns a range of the records, newest first, and the number of matches, counted up to
/// `COUNTED_MAX` + 1.
pub async fn records(
    services: &Services,
    org: &OrgContext,
    filter: &RecordFilter,
    range: RecordRange,
) -> Result<(Vec<Record>, i64), UseCaseError> {
    org.require(Action::ViewRecords)?;
    let (mut snapshot, organization) =
        (services.database.begin_snapshot().await?, org.organization.id);
    let rows = records::list(&mut snapshot, organization, filter, range).await?;
    let total = records::count(&mut snapshot, organization, filter, COUNTED_MAX + 1).await?;
    Ok((rows, total))
}

/// Writes an export of the records into the audit log.
pub async fn audit_export(work: &mut UnitOfWork, org: &OrgContext) -> Result<(), UseCaseError> {
    org.require(Action::ViewRecords)?;
    let change = AuditChange {
        organization: Some(org.organization.id),
        action: "wallet.export".into(),
        target: audit_target(org),
        before: None,
        after: None,
    };
    work.audit(&org.principal.actor(), change).await
}

/// Returns the holds of open calls, newest first.
pub fn holds(
    services: &Services,
    org: &OrgContext,
) -> Result<Vec<(RequestLogId, OpenHold)>, UseCaseError> {
    org.require(Action::ViewWallet)?;
    let state = services.directory.live_state().organization(org.organization.id);
    let mut holds = state.map(|state| state.holds()).unwrap_or_default();
    holds.reverse();
    Ok(holds)
}

fn actor_json(org: &OrgContext) -> String {
    serde_json::to_string(&org.principal.actor()).unwrap_or_default()
}

fn audit_target(org: &OrgContext) -> AuditTarget {
    AuditTarget {
        kind: "wallet",
        id: org.organization.id.to_string(),
        name: org.organization.name.clone(),
    }
}
