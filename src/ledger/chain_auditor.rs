//! Verifies the record chains of a running gateway: all records at startup, and new records soon
//! after they were written.

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

/// The result of verifying a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainStatus {
    pub checked_at: UnixMs,
    /// The last record that was verified.
    pub last_seq: i64,
    /// Whether the chain is unbroken up to that record.
    pub ok: bool,
}

/// The verification state of all chains since the process started.
#[derive(Debug)]
pub struct ChainAuditor {
    chains: DashMap<OrganizationId, Arc<Mutex<ChainProgress>>>,
    /// When all chains were last verified to their ends.
    completed: std::sync::Mutex<Instant>,
}

/// The verification state of one chain.
#[derive(Debug)]
struct ChainProgress {
    chain: Chain,
    is_unbroken: bool,
    /// Subjects whose usage has changed since it was last compared.
    unchecked_subjects: HashSet<Subject>,
    /// Rows that were reported; each row is reported once per process.
    reported: HashSet<(&'static str, String)>,
}

/// The most records that one step verifies; a long chain takes several steps.
const STEP_RECORDS_MAX: usize = 10_000;

/// The pause after each step, as a multiple of the step's duration: verification uses at most a
/// tenth of one processor.
const PAUSE_FACTOR: u32 = 9;

impl Default for ChainAuditor {
    fn default() -> Self {
        Self { chains: DashMap::new(), completed: std::sync::Mutex::new(clock::monotonic_now()) }
    }
}

impl ChainAuditor {
    /// Verifies the records of a chain that were added since the last check.
    pub async fn check(
        &self,
        pool: &SqlitePool,
        organization: OrganizationId,
        now: UnixMs,
    ) -> Result<ChainStatus, DatabaseError> {
        let (progress, _) = self.advance(pool, organization).await?;
        let progress = progress.lock().await;
        let (last_seq, ok) = (progress.chain.seq(), progress.is_unbroken);
        Ok(ChainStatus { checked_at: now, last_seq, ok })
    }

    /// Verifies every chain that has grown to its end, in small steps.
    pub async fn check_all(&self, pool: &SqlitePool) -> Result<(), DatabaseError> {
        let query = "SELECT organization_id, last_seq, balance_nano FROM wallets";
        for row in sqlx::query(query).fetch_all(pool).await? {
            let organization = OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128());
            if self.ends_at(organization, row.try_get(1)?, row.try_get(2)?).await {
                continue;
            }
            let mut more = true;
            while more {
                let started = clock::monotonic_now();
                (_, more) = self.advance(pool, organization).await?;
                tokio::time::sleep(clock::elapsed_since(started) * PAUSE_FACTOR).await;
            }
        }
        *self.completed.lock().unwrap_or_else(PoisonError::into_inner) = clock::monotonic_now();
        Ok(())
    }

    /// Returns how long ago all chains were last verified to their ends; before the first time, the
    /// time since startup.
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

    /// Verifies one step. Returns true if the chain may have more records.
    async fn advance(
        &self,
        pool: &SqlitePool,
        organization: OrganizationId,
    ) -> Result<(Arc<Mutex<ChainProgress>>, bool), DatabaseError> {
        let entry = self.progress_of(organization);
        let mut progress = entry.lock().await;
        let ChainProgress { chain, is_unbroken, unchecked_subjects, reported } = &mut *progress;
        // Work on a copy, so that a step that fails midway leaves no trace.
        let (mut ahead, mut findings) = (chain.clone(), Findings::default());
        let mut tx = pool.begin().await?;
        let records = step(&mut tx, &mut ahead, unchecked_subjects, &mut findings).await?;
        tx.commit().await?;
        counter!(metric::LEDGER_RECORDS).increment(records as u64);
        *chain = ahead;
        // Usage is not part of the chain.
        *is_unbroken &= findings.violations.iter().all(|found| found.table == "usage_days");
        findings.violations.retain(|found| reported.insert((found.table, found.row.clone())));
        findings.violations.iter().for_each(report);
        drop(progress);
        Ok((entry, records == STEP_RECORDS_MAX))
    }
}

/// Verifies one step of a chain within one snapshot. Returns the number of records read.
async fn step(
    connection: &mut SqliteConnection,
    chain: &mut Chain,
    unchecked_subjects: &mut HashSet<Subject>,
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
        let record = ChainRecord::from_row(row)?;
        chain.verify_next(&record, findings);
        calls.extend(record.refunded_call());
        unchecked_subjects.extend(record.subjects());
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
    for subject in unchecked_subjects.iter().copied() {
        let query = "SELECT coalesce(sum(spend_nano), 0) FROM usage_days WHERE subject_id = $1";
        let query = sqlx::query_scalar(query).bind(uuid(subject));
        chain.compare_usage(subject, query.fetch_one(&mut *connection).await?, findings);
    }
    unchecked_subjects.clear();
    Ok(rows.len())
}

/// Logs and counts a violation.
pub fn report(violation: &Violation) {
    let Violation { table, row, found, expected, .. } = violation;
    let organization = violation.organization.map(|id| id.to_string()).unwrap_or_default();
    tracing::error!(table, organization, row, found, expected, "ledger violation found");
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
        let metrics = metrics_of(|| report(&violation));
        assert!(
            metrics.lines().any(|line| line == "meteor_ledger_violations_total 1"),
            "{metrics}"
        );
    }
}
