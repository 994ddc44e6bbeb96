//! The chain: each record continues the one before, and the wallet ends where the last one does.

use dashmap::DashMap;
use sqlx::{Row, SqlitePool};

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::store::columns::uuid;
use crate::store::database::DatabaseError;

/// How far a chain was followed, and whether it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainCheck {
    /// When.
    pub checked_at: UnixMs,
    /// Up to which record.
    pub last_seq: i64,
    /// Whether it is unbroken as far as that.
    pub ok: bool,
}

/// What is known of each chain since the start of this process.
#[derive(Debug, Default)]
pub struct ChainChecks(DashMap<OrganizationId, (ChainCheck, Nano)>);

/// How many records one look follows; a long chain takes several.
const RECORDS_A_LOOK: i64 = 10_000;

impl ChainChecks {
    /// Follows the chain on from where the last look ended.
    pub async fn look(
        &self,
        pool: &SqlitePool,
        organization: OrganizationId,
        now: UnixMs,
    ) -> Result<ChainCheck, DatabaseError> {
        let start = ChainCheck { checked_at: now, last_seq: 0, ok: true };
        let known = self.0.get(&organization).map_or((start, Nano::ZERO), |known| *known);
        let (mut check, mut balance) = known;
        let mut tx = pool.begin().await?;
        let rows = sqlx::query(
            "SELECT seq, previous_balance_nano, current_balance_nano FROM wallet_records
             WHERE organization_id = $1 AND $2 < seq ORDER BY seq LIMIT $3",
        )
        .bind(uuid(organization.0))
        .bind(check.last_seq)
        .bind(RECORDS_A_LOOK)
        .fetch_all(&mut *tx)
        .await?;
        let wallet =
            sqlx::query("SELECT last_seq, balance_nano FROM wallets WHERE organization_id = $1")
                .bind(uuid(organization.0))
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        for row in &rows {
            let seq: i64 = row.try_get(0)?;
            check.ok &= seq == check.last_seq + 1 && Nano(row.try_get(1)?) == balance;
            (check.last_seq, balance) = (seq, Nano(row.try_get(2)?));
        }
        let (last_seq, ends_at): (i64, i64) = (wallet.try_get(0)?, wallet.try_get(1)?);
        let more_to_follow = i64::try_from(rows.len()) == Ok(RECORDS_A_LOOK);
        check.ok &= more_to_follow || (last_seq == check.last_seq && Nano(ends_at) == balance);
        check.checked_at = now;
        self.0.insert(organization, (check, balance));
        Ok(check)
    }
}
