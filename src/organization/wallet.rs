//! The wallet: its balance, what comes in, and what is held of it.

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
use crate::organization::unit_of_work::{AuditChange, Effect, UnitOfWork};

/// A wallet, as it stands.
#[derive(Debug, Clone, Copy)]
pub struct WalletStatus {
    /// As the ledger has it.
    pub stored: StoredWallet,
    /// What open calls hold of it.
    pub held: Nano,
    /// How far its chain was followed.
    pub check: ChainStatus,
}

/// Money paid in.
#[derive(Debug, Clone)]
pub struct NewRecharge {
    /// How much: more than nothing.
    pub amount: Nano,
    /// What stands beside it.
    pub description: Option<String>,
    /// The payment's own number.
    pub reference: Option<String>,
}

/// A call's cost given back.
#[derive(Debug, Clone)]
pub struct NewRefund {
    /// Which call.
    pub call: RequestLogId,
    /// How much: at most what is left of its Consume.
    pub amount: Nano,
    /// What stands beside it.
    pub description: Option<String>,
}

/// The most matches of a filter that are counted.
pub const COUNTED_MAX: i64 = 10_000;

/// The wallet as it stands.
pub async fn view(platform: &Services, seat: &OrgContext) -> Result<WalletStatus, UseCaseError> {
    seat.require(Action::ViewWallet)?;
    load(platform, seat).await
}

/// The wallet, for whoever was let in.
///
/// What is held is read first: a call that ends in between is then missing from neither side.
async fn load(platform: &Services, seat: &OrgContext) -> Result<WalletStatus, UseCaseError> {
    let organization = seat.organization.id;
    let book = platform.directory.live_state().organization(organization);
    let frozen = book.map(|book| book.held()).unwrap_or_default();
    let reader = platform.database.reader();
    let check = platform.chain_auditor.check(reader, organization, clock::wall_now()).await?;
    let stored = wallets::read(reader, organization).await?;
    Ok(WalletStatus { stored, held: frozen, check })
}

/// Switches it on or off for new calls; open ones finish.
pub async fn set_active(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    active: bool,
) -> Result<(), UseCaseError> {
    seat.require(Action::SwitchWallet)?;
    let (organization, now) = (seat.organization.id, work.now());
    let before = wallets::read(work.connection(), organization).await?;
    if before.disabled_by_operator && !seat.is_operator() {
        if active {
            return Err(Forbidden::Permission("operator").into());
        }
        return Ok(());
    }
    let by_operator = seat.is_operator();
    wallets::set_active(work.connection(), organization, active, by_operator, now).await?;
    work.after_commit(Effect::Organization(organization));
    let change = AuditChange {
        organization: Some(organization),
        action: "wallet.update".into(),
        target: audit_target(seat),
        before: Some(json!({"isActive": before.is_active})),
        after: Some(json!({"isActive": active})),
    };
    work.audit(&seat.principal.actor(), change).await
}

/// The wallet inside a change, after it.
pub async fn view_after_update(
    platform: &Services,
    seat: &OrgContext,
) -> Result<WalletStatus, UseCaseError> {
    seat.require(Action::SwitchWallet)?;
    load(platform, seat).await
}

/// Pays in.
pub async fn recharge(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    new: &NewRecharge,
) -> Result<Record, UseCaseError> {
    seat.require(Action::Recharge)?;
    let actor = actor_json(seat);
    let posting = NewRecord {
        kind: RecordKind::Recharge,
        amount: new.amount,
        consume: None,
        description: new.description.as_deref(),
        reference: new.reference.as_deref(),
        actor: &actor,
    };
    let posted = post(work, seat, &posting, "wallet.recharge").await;
    crash_point!("recharge-posted");
    posted
}

/// Gives back part or all of what a call cost.
pub async fn refund(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    new: &NewRefund,
) -> Result<Record, UseCaseError> {
    seat.require(Action::Refund)?;
    let organization = seat.organization.id;
    let found = records::consume(work.connection(), organization, new.call).await?;
    let consume = found.ok_or(UseCaseError::NotFound)?;
    let left = consume.amount - consume.refunded.unwrap_or_default();
    if left < new.amount {
        let message = format!("only {left} is left of what this call cost");
        return Err(UseCaseError::conflict("refund_exceeds_consume", message));
    }
    let actor = actor_json(seat);
    let posting = NewRecord {
        kind: RecordKind::Refund,
        amount: new.amount,
        consume: Some(&consume),
        description: new.description.as_deref(),
        reference: None,
        actor: &actor,
    };
    let posted = post(work, seat, &posting, "wallet.refund").await;
    crash_point!("refund-posted");
    posted
}

async fn post(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    posting: &NewRecord<'_>,
    action: &'static str,
) -> Result<Record, UseCaseError> {
    let (organization, now) = (seat.organization.id, work.now());
    let seq = wallets::post(work.connection(), organization, posting, now).await?;
    work.after_commit(Effect::Credit(organization, posting.amount));
    let written = records::at_seq(&mut *work.connection(), organization, seq).await?;
    let record =
        written.ok_or_else(|| UseCaseError::Internal("a record just written is gone".into()))?;
    let change = AuditChange {
        organization: Some(organization),
        action: action.into(),
        target: audit_target(seat),
        before: Some(json!({"balance": record.previous.to_string()})),
        after: Some(json!({
            "balance": record.current.to_string(),
            "amount": record.amount.to_string(),
            "recordId": record.id.to_string(),
            "requestLogId": record.call.map(|id| id.to_string()),
        })),
    };
    work.audit(&seat.principal.actor(), change).await?;
    Ok(record)
}

/// A stretch of the records, newest first, and how many match.
pub async fn records(
    platform: &Services,
    seat: &OrgContext,
    filter: &RecordFilter,
    stretch: RecordRange,
) -> Result<(Vec<Record>, i64), UseCaseError> {
    seat.require(Action::ViewRecords)?;
    let (mut picture, organization) =
        (platform.database.begin_snapshot().await?, seat.organization.id);
    let rows = records::list(&mut picture, organization, filter, stretch).await?;
    let total = records::count(&mut picture, organization, filter, COUNTED_MAX + 1).await?;
    Ok((rows, total))
}

/// Notes that the records leave the house.
pub async fn audit_export(work: &mut UnitOfWork, seat: &OrgContext) -> Result<(), UseCaseError> {
    seat.require(Action::ViewRecords)?;
    let change = AuditChange {
        organization: Some(seat.organization.id),
        action: "wallet.export".into(),
        target: audit_target(seat),
        before: None,
        after: None,
    };
    work.audit(&seat.principal.actor(), change).await
}

/// What open calls hold, newest first.
pub fn holds(
    platform: &Services,
    seat: &OrgContext,
) -> Result<Vec<(RequestLogId, OpenHold)>, UseCaseError> {
    seat.require(Action::ViewWallet)?;
    let book = platform.directory.live_state().organization(seat.organization.id);
    let mut holds = book.map(|book| book.holds()).unwrap_or_default();
    holds.reverse();
    Ok(holds)
}

fn actor_json(seat: &OrgContext) -> String {
    serde_json::to_string(&seat.principal.actor()).unwrap_or_default()
}

fn audit_target(seat: &OrgContext) -> (&'static str, String, String) {
    ("wallet", seat.organization.id.to_string(), seat.organization.name.clone())
}
