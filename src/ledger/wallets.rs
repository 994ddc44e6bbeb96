//! Wallets: the balance after the last record, and the records that add money.

use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::domain::time::UnixMs;
use crate::ledger::records::Record;
use crate::store::columns::{at, new_id, uuid};
use crate::store::database::DatabaseError;

/// A row of the table `wallets`.
#[derive(Debug, Clone, Copy)]
pub struct StoredWallet {
    /// Always the balance of the last record.
    pub balance: Nano,
    /// The seq of the last record.
    pub last_seq: i64,
    /// Whether new calls may hold money.
    pub is_active: bool,
    /// Whether an operator deactivated the wallet. Then only an operator can activate it.
    pub disabled_by_operator: bool,
    pub updated_at: UnixMs,
}

/// A record that adds money.
#[derive(Debug)]
pub struct NewRecord<'a> {
    /// Recharge or Refund. Consumes are written by the projector only.
    pub kind: RecordKind,
    pub amount: Nano,
    /// The Consume that a Refund refers to.
    pub consume: Option<&'a Record>,
    pub description: Option<&'a str>,
    /// An external reference, such as the number of a payment.
    pub reference: Option<&'a str>,
    /// Who creates the record, as a JSON object.
    pub actor: &'a str,
}

/// Why money cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The balance would exceed the maximum.
    #[error("the balance would exceed {BALANCE_MAX}")]
    BalanceTooLarge,
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for PostError {
    fn from(fault: sqlx::Error) -> Self {
        Self::Database(fault.into())
    }
}

/// The maximum balance: the largest amount that the API can represent.
pub const BALANCE_MAX: Nano = Nano::units(9_000_000_000);

/// Returns the wallet of an organization.
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
        disabled_by_operator: row.try_get("deactivated_by_operator")?,
        updated_at: at(&row, "updated_at")?,
    })
}

/// Appends a record and updates the balance. Returns the seq of the record.
///
/// The caller's transaction is the only writer while it is open, so no other record can come
/// between.
pub async fn post(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    posting: &NewRecord<'_>,
    now: UnixMs,
) -> Result<i64, PostError> {
    assert!(posting.kind != RecordKind::Consume, "a call is debited by the projector");
    let wallet = read(&mut *connection, organization).await?;
    if BALANCE_MAX - wallet.balance.max(Nano::ZERO) < posting.amount {
        return Err(PostError::BalanceTooLarge);
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

/// Activates or deactivates a wallet.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::records::{RecordFilter, RecordRange, at_seq, count, list};
    use crate::ledger::tests::recovery::with_organizations;

    const PAYER: OrganizationId = OrganizationId(1);

    fn posting(kind: RecordKind, amount: Nano) -> NewRecord<'static> {
        let (consume, description) = (None, None);
        NewRecord { kind, amount, consume, description, reference: Some("r-7"), actor: "{}" }
    }

    #[tokio::test]
    async fn a_posted_record_extends_the_chain_and_updates_the_balance() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_organizations(&folder.path().join("gateway.db")).await;
        let mut tx = database.begin().await.expect("a transaction");
        for (seq, kind, amount) in [
            (1, RecordKind::Recharge, 100),
            (2, RecordKind::Refund, 50),
            (3, RecordKind::Recharge, 7),
        ] {
            let posted = post(&mut tx, PAYER, &posting(kind, Nano(amount)), UnixMs(9)).await;
            assert_eq!(posted.expect("posted"), seq);
        }
        let wallet = read(&mut *tx, PAYER).await.expect("a wallet");
        assert_eq!((wallet.balance, wallet.last_seq), (Nano(157), 3));
        assert_eq!((wallet.is_active, wallet.updated_at), (true, UnixMs(9)));
        let second = at_seq(&mut *tx, PAYER, 2).await.expect("read").expect("a record");
        assert_eq!((second.kind, second.amount), (RecordKind::Refund, Nano(50)));
        assert_eq!((second.previous, second.current), (Nano(100), Nano(150)));
        assert_eq!((second.reference.as_deref(), second.created_at), (Some("r-7"), UnixMs(9)));
        assert!(at_seq(&mut *tx, PAYER, 4).await.expect("read").is_none());

        let refunds = RecordFilter { kind: Some(RecordKind::Refund), ..RecordFilter::default() };
        let recharges =
            RecordFilter { kind: Some(RecordKind::Recharge), ..RecordFilter::default() };
        for (filter, newest_first) in
            [(RecordFilter::default(), &[3, 2, 1][..]), (refunds, &[2]), (recharges, &[3, 1])]
        {
            let stretch = RecordRange { before: None, offset: 0, limit: 10 };
            let records = list(&mut tx, PAYER, &filter, stretch).await.expect("records");
            let seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
            assert_eq!(seqs, newest_first);
            let counted = count(&mut tx, PAYER, &filter, 10).await.expect("a count");
            assert_eq!(usize::try_from(counted), Ok(newest_first.len()));
        }
    }

    #[tokio::test]
    async fn a_balance_cannot_exceed_the_maximum() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_organizations(&folder.path().join("gateway.db")).await;
        let mut tx = database.begin().await.expect("a transaction");
        let remaining = BALANCE_MAX - Nano(5);
        for (amount, fits) in [(Nano(5), true), (remaining + Nano(1), false), (remaining, true)] {
            let recharge = posting(RecordKind::Recharge, amount);
            let posted = post(&mut tx, PAYER, &recharge, UnixMs(9)).await;
            assert_eq!(posted.is_ok(), fits, "{amount}");
            assert!(fits || matches!(posted, Err(PostError::BalanceTooLarge)));
        }
    }

    #[tokio::test]
    async fn only_deactivation_by_an_operator_is_marked() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = with_organizations(&folder.path().join("gateway.db")).await;
        let mut tx = database.begin().await.expect("a transaction");
        for (active, by_operator, marked) in
            [(false, true, true), (true, true, false), (false, false, false), (true, false, false)]
        {
            set_active(&mut tx, PAYER, active, by_operator, UnixMs(9)).await.expect("switched");
            let wallet = read(&mut *tx, PAYER).await.expect("a wallet");
            assert_eq!((wallet.is_active, wallet.disabled_by_operator), (active, marked));
        }
    }
}
