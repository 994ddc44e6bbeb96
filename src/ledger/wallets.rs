//! Wallets: the balance at the end of a chain of records, and how money comes in.

use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::domain::time::UnixMs;
use crate::ledger::records::Record;
use crate::store::columns::{at, new_id, uuid};
use crate::store::database::DatabaseError;

/// A wallet as the ledger has it.
#[derive(Debug, Clone, Copy)]
pub struct StoredWallet {
    /// Always the last record's balance.
    pub balance: Nano,
    /// The last record's place in the chain.
    pub last_seq: i64,
    /// Whether new calls may hold money.
    pub is_active: bool,
    /// Whether the operator switched it off: only the operator switches it on again.
    pub off_by_operator: bool,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// Money that comes in.
#[derive(Debug)]
pub struct Posting<'a> {
    /// Recharge or Refund; a Consume comes by the journal only.
    pub kind: RecordKind,
    /// How much.
    pub amount: Nano,
    /// The Consume that a Refund gives back.
    pub consume: Option<&'a Record>,
    /// What stands beside it.
    pub description: Option<&'a str>,
    /// A payment's own number.
    pub reference: Option<&'a str>,
    /// Who makes it, as a JSON object.
    pub actor: &'a str,
}

/// Why money cannot come in.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The balance would pass what a wallet can hold.
    #[error("the balance would pass {BALANCE_MAX}")]
    TooMuch,
    /// The database said no.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for PostError {
    fn from(fault: sqlx::Error) -> Self {
        Self::Database(fault.into())
    }
}

/// The most that a wallet holds: the largest amount that the API can say.
pub const BALANCE_MAX: Nano = Nano::units(9_000_000_000);

/// The wallet of that organization.
pub async fn read(
    executor: impl SqliteExecutor<'_>,
    organization: OrganizationId,
) -> Result<StoredWallet, DatabaseError> {
    let row = sqlx::query("SELECT * FROM wallets WHERE organization_id = $1")
        .bind(uuid(organization.0))
        .fetch_one(executor)
        .await?;
    Ok(StoredWallet {
        balance: Nano(row.try_get("balance_nano")?),
        last_seq: row.try_get("last_seq")?,
        is_active: row.try_get("is_active")?,
        off_by_operator: row.try_get("deactivated_by_operator")?,
        updated_at: at(&row, "updated_at")?,
    })
}

/// Writes the next record and the balance that follows; the record's place in the chain.
///
/// The caller's transaction is the only writer while it is open, so nothing comes between.
pub async fn post(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    posting: &Posting<'_>,
    now: UnixMs,
) -> Result<i64, PostError> {
    assert!(posting.kind != RecordKind::Consume, "a call is debited by the projector");
    let wallet = read(&mut *connection, organization).await?;
    if BALANCE_MAX - wallet.balance.max(Nano::ZERO) < posting.amount {
        return Err(PostError::TooMuch);
    }
    let current = posting.kind.apply(wallet.balance, posting.amount);
    let seq = wallet.last_seq + 1;
    let consume = posting.consume;
    sqlx::query(
        "INSERT INTO wallet_records (organization_id, seq, id, kind, amount_nano,
            previous_balance_nano, current_balance_nano, request_log_id, project_id, api_key_id,
            model, description, reference, actor, overage, late, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0, 0, $15)",
    )
    .bind(uuid(organization.0))
    .bind(seq)
    .bind(uuid(new_id(now)))
    .bind(posting.kind.name())
    .bind(posting.amount.0)
    .bind(wallet.balance.0)
    .bind(current.0)
    .bind(consume.and_then(|record| record.call).map(|id| uuid(id.0)))
    .bind(consume.and_then(|record| record.project).map(|id| uuid(id.0)))
    .bind(consume.and_then(|record| record.key).map(|id| uuid(id.0)))
    .bind(consume.and_then(|record| record.model.as_deref()))
    .bind(posting.description)
    .bind(posting.reference)
    .bind(posting.actor)
    .bind(now.0)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE wallets SET balance_nano = $2, last_seq = $3, updated_at = $4
         WHERE organization_id = $1",
    )
    .bind(uuid(organization.0))
    .bind(current.0)
    .bind(seq)
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(seq)
}

/// Switches it on or off for new calls.
pub async fn set_active(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    active: bool,
    by_operator: bool,
    now: UnixMs,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "UPDATE wallets SET is_active = $2, deactivated_by_operator = $3, updated_at = $4
         WHERE organization_id = $1",
    )
    .bind(uuid(organization.0))
    .bind(active)
    .bind(!active && by_operator)
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(())
}
