//! The wallet: its balance, what comes in, and what is held of it.

use serde_json::json;

use crate::accounting::books::OpenHold;
use crate::clock;
use crate::crash::crash_point;
use crate::domain::ids::RequestLogId;
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::ledger::records::{self, Filter, Record, Stretch};
use crate::ledger::wallets::{self, Posting, StoredWallet};
use crate::ledger::watch::ChainCheck;
use crate::organization::access::Seat;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::rights::{Missing, Right};
use crate::organization::work::{Change, Effect, Work};

/// A wallet, as it stands.
#[derive(Debug, Clone, Copy)]
pub struct Wallet {
    /// As the ledger has it.
    pub stored: StoredWallet,
    /// What open calls hold of it.
    pub frozen: Nano,
    /// How far its chain was followed.
    pub check: ChainCheck,
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
pub async fn view(platform: &Platform, seat: &Seat) -> Result<Wallet, Denied> {
    seat.may(Right::ViewWallet)?;
    read(platform, seat).await
}

/// The wallet, for whoever was let in.
///
/// What is held is read first: a call that ends in between is then missing from neither side.
async fn read(platform: &Platform, seat: &Seat) -> Result<Wallet, Denied> {
    let organization = seat.organization.id;
    let book = platform.directory.books().organization(organization);
    let frozen = book.map(|book| book.frozen()).unwrap_or_default();
    let reader = platform.database.reader();
    let check = platform.chains.look(reader, organization, clock::now()).await?;
    let stored = wallets::read(reader, organization).await?;
    Ok(Wallet { stored, frozen, check })
}

/// Switches it on or off for new calls; open ones finish.
pub async fn set_active(work: &mut Work, seat: &Seat, active: bool) -> Result<(), Denied> {
    seat.may(Right::SwitchWallet)?;
    let (organization, now) = (seat.organization.id, work.now());
    let before = wallets::read(work.connection(), organization).await?;
    if before.off_by_operator && !seat.is_operator() {
        if active {
            return Err(Missing::Permission("operator").into());
        }
        return Ok(());
    }
    let by_operator = seat.is_operator();
    wallets::set_active(work.connection(), organization, active, by_operator, now).await?;
    work.then(Effect::Organization(organization));
    let change = Change {
        organization: Some(organization),
        action: "wallet.update".into(),
        target: target(seat),
        before: Some(json!({"isActive": before.is_active})),
        after: Some(json!({"isActive": active})),
    };
    work.audit(&seat.principal.actor(), change).await
}

/// The wallet inside a change, after it.
pub async fn changed(platform: &Platform, seat: &Seat) -> Result<Wallet, Denied> {
    seat.may(Right::SwitchWallet)?;
    read(platform, seat).await
}

/// Pays in.
pub async fn recharge(work: &mut Work, seat: &Seat, new: &NewRecharge) -> Result<Record, Denied> {
    seat.may(Right::Recharge)?;
    let actor = actor(seat);
    let posting = Posting {
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
pub async fn refund(work: &mut Work, seat: &Seat, new: &NewRefund) -> Result<Record, Denied> {
    seat.may(Right::Refund)?;
    let organization = seat.organization.id;
    let found = records::consume(work.connection(), organization, new.call).await?;
    let consume = found.ok_or(Denied::NotFound)?;
    let left = consume.amount - consume.refunded.unwrap_or_default();
    if left < new.amount {
        let message = format!("only {left} is left of what this call cost");
        return Err(Denied::conflict("refund_exceeds_consume", message));
    }
    let actor = actor(seat);
    let posting = Posting {
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
    work: &mut Work,
    seat: &Seat,
    posting: &Posting<'_>,
    action: &'static str,
) -> Result<Record, Denied> {
    let (organization, now) = (seat.organization.id, work.now());
    let seq = wallets::post(work.connection(), organization, posting, now).await?;
    work.then(Effect::Fund(organization, posting.amount));
    let written = records::at_seq(&mut *work.connection(), organization, seq).await?;
    let record = written.ok_or_else(|| Denied::Failed("a record just written is gone".into()))?;
    let change = Change {
        organization: Some(organization),
        action: action.into(),
        target: target(seat),
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
    platform: &Platform,
    seat: &Seat,
    filter: &Filter,
    stretch: Stretch,
) -> Result<(Vec<Record>, i64), Denied> {
    seat.may(Right::ViewRecords)?;
    let (mut picture, organization) = (platform.database.picture().await?, seat.organization.id);
    let rows = records::list(&mut picture, organization, filter, stretch).await?;
    let total = records::count(&mut picture, organization, filter, COUNTED_MAX + 1).await?;
    Ok((rows, total))
}

/// Notes that the records leave the house.
pub async fn note_export(work: &mut Work, seat: &Seat) -> Result<(), Denied> {
    seat.may(Right::ViewRecords)?;
    let change = Change {
        organization: Some(seat.organization.id),
        action: "wallet.export".into(),
        target: target(seat),
        before: None,
        after: None,
    };
    work.audit(&seat.principal.actor(), change).await
}

/// What open calls hold, newest first.
pub fn holds(platform: &Platform, seat: &Seat) -> Result<Vec<(RequestLogId, OpenHold)>, Denied> {
    seat.may(Right::ViewWallet)?;
    let book = platform.directory.books().organization(seat.organization.id);
    let mut holds = book.map(|book| book.holds()).unwrap_or_default();
    holds.reverse();
    Ok(holds)
}

fn actor(seat: &Seat) -> String {
    serde_json::to_string(&seat.principal.actor()).unwrap_or_default()
}

fn target(seat: &Seat) -> (&'static str, String, String) {
    ("wallet", seat.organization.id.to_string(), seat.organization.name.clone())
}
