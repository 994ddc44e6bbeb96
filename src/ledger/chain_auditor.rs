//! The watch over the chains of a running gateway: each record is followed once, soon after it was
//! written, and at the start all that were there before.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use metrics::counter;
use sqlx::{Row, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::clock;
use crate::domain::ids::OrganizationId;
use crate::domain::time::UnixMs;
use crate::ledger::chain::{Chain, ChainRecord, RECORDS_AFTER};
use crate::ledger::cross_checks;
use crate::ledger::violation::{Findings, Violation};
use crate::store::columns::{Subject, uuid};
use crate::store::database::DatabaseError;
use crate::telemetry::metric;

/// How far a chain was followed, and whether it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainStatus {
    /// When.
    pub checked_at: UnixMs,
    /// Up to which record.
    pub last_seq: i64,
    /// Whether it is unbroken as far as that.
    pub ok: bool,
}

/// What is known of each chain since the start of this process.
#[derive(Debug)]
pub struct ChainAuditor {
    chains: DashMap<OrganizationId, Arc<Mutex<ChainProgress>>>,
    /// When all chains were last followed to their ends.
    completed: std::sync::Mutex<Instant>,
}

/// A chain that is followed while it grows.
#[derive(Debug)]
struct ChainProgress {
    chain: Chain,
    is_unbroken: bool,
    /// Those whose usage has grown since it was last compared.
    unchecked_subjects: HashSet<Subject>,
    /// What was told already: a row is told once a process.
    reported: HashSet<(&'static str, String)>,
}

/// How many records one look follows; a long chain takes several.
const STEP_RECORDS_MAX: usize = 10_000;

/// How long a round pauses after each look, in terms of what the look took: it takes a tenth of
/// one processor at most.
const PAUSE_FACTOR: u32 = 9;

impl Default for ChainAuditor {
    fn default() -> Self {
        Self { chains: DashMap::new(), completed: std::sync::Mutex::new(clock::monotonic_now()) }
    }
}

impl ChainAuditor {
    /// Follows that chain on from where the last look ended.
    pub async fn check(
        &self,
        pool: &SqlitePool,
        organization: OrganizationId,
        now: UnixMs,
    ) -> Result<ChainStatus, DatabaseError> {
        let (followed, _) = self.advance(pool, organization).await?;
        let followed = followed.lock().await;
        let (last_seq, ok) = (followed.chain.seq(), followed.is_unbroken);
        Ok(ChainStatus { checked_at: now, last_seq, ok })
    }

    /// Follows every chain that has grown to its end, in small steps.
    pub async fn check_all(&self, pool: &SqlitePool) -> Result<(), DatabaseError> {
        let query = "SELECT organization_id, last_seq, balance_nano FROM wallets";
        for row in sqlx::query(query).fetch_all(pool).await? {
            let organization = OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128());
            if self.ends_at(organization, row.try_get(1)?, row.try_get(2)?).await {
                continue;
            }
            let mut more = true;
            while more {
                let begun = clock::monotonic_now();
                (_, more) = self.advance(pool, organization).await?;
                tokio::time::sleep(clock::elapsed_since(begun) * PAUSE_FACTOR).await;
            }
        }
        *self.completed.lock().unwrap_or_else(PoisonError::into_inner) = clock::monotonic_now();
        Ok(())
    }

    /// How long ago all chains were last followed to their ends; at first, since the start.
    pub fn age(&self) -> Duration {
        clock::elapsed_since(*self.completed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn progress_of(&self, organization: OrganizationId) -> Arc<Mutex<ChainProgress>> {
        let new = || {
            Arc::new(Mutex::new(ChainProgress {
                chain: Chain::new(organization),
                is_unbroken: true,
                unchecked_subjects: HashSet::new(),
                reported: HashSet::new(),
            }))
        };
        Arc::clone(&self.chains.entry(organization).or_insert_with(new))
    }

    async fn ends_at(&self, organization: OrganizationId, last_seq: i64, balance: i64) -> bool {
        self.progress_of(organization).lock().await.chain.ends_at(last_seq, balance)
    }

    /// Goes on by one step; whether the chain may go on behind it.
    async fn advance(
        &self,
        pool: &SqlitePool,
        organization: OrganizationId,
    ) -> Result<(Arc<Mutex<ChainProgress>>, bool), DatabaseError> {
        let shared = self.progress_of(organization);
        let mut followed = shared.lock().await;
        let ChainProgress { chain, is_unbroken, unchecked_subjects: uncompared, reported: told } =
            &mut *followed;
        // A step that fails midway has followed nothing.
        let (mut ahead, mut findings) = (chain.clone(), Findings::default());
        let mut tx = pool.begin().await?;
        let records = step(&mut tx, &mut ahead, uncompared, &mut findings).await?;
        tx.commit().await?;
        counter!(metric::LEDGER_RECORDS).increment(records as u64);
        *chain = ahead;
        // Usage is not part of the chain.
        *is_unbroken &= findings.violations.iter().all(|found| found.table == "usage_days");
        findings.violations.retain(|found| told.insert((found.table, found.row.clone())));
        findings.violations.iter().for_each(report);
        drop(followed);
        Ok((shared, records == STEP_RECORDS_MAX))
    }
}

/// Follows a chain by one step, within one picture; how many records that were.
async fn step(
    connection: &mut SqliteConnection,
    chain: &mut Chain,
    uncompared: &mut HashSet<Subject>,
    findings: &mut Findings,
) -> Result<usize, DatabaseError> {
    let organization = chain.organization();
    let rows = sqlx::query(RECORDS_AFTER)
        .bind(uuid(organization.0))
        .bind(chain.seq())
        .bind(i64::try_from(STEP_RECORDS_MAX).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let mut calls = HashSet::new();
    for row in &rows {
        let link = ChainRecord::from_row(row)?;
        chain.verify_next(&link, findings);
        calls.extend(link.refunded_call());
        uncompared.extend(link.subjects());
    }
    for call in calls {
        cross_checks::compare_refunds(connection, organization, call, findings).await?;
    }
    if rows.len() == STEP_RECORDS_MAX {
        return Ok(rows.len());
    }
    let wallet =
        sqlx::query("SELECT last_seq, balance_nano FROM wallets WHERE organization_id = $1")
            .bind(uuid(organization.0))
            .fetch_one(&mut *connection)
            .await?;
    chain.compare_wallet(wallet.try_get(0)?, wallet.try_get(1)?, findings);
    for subject in uncompared.iter().copied() {
        let query = "SELECT coalesce(sum(spend_nano), 0) FROM usage_days WHERE subject_id = $1";
        let query = sqlx::query_scalar(query).bind(uuid(subject));
        chain.compare_usage(subject, query.fetch_one(&mut *connection).await?, findings);
    }
    uncompared.clear();
    Ok(rows.len())
}

/// Tells and counts what is wrong.
pub fn report(violation: &Violation) {
    let Violation { table, row, found, expected, .. } = violation;
    let organization = violation.organization.map(|id| id.to_string()).unwrap_or_default();
    tracing::error!(table, organization, row, found, expected, "the ledger is not sound");
    counter!(metric::LEDGER_VIOLATIONS).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::persist::metrics_of;

    #[test]
    fn each_violation_is_counted() {
        let (found, expected) = ("1".to_owned(), "2".to_owned());
        let (organization, row) = (None, "wallet".to_owned());
        let violation = Violation { table: "wallets", organization, row, found, expected };
        let told = metrics_of(|| report(&violation));
        assert!(told.lines().any(|line| line == "meteor_ledger_violations_total 1"), "{told}");
    }
}
