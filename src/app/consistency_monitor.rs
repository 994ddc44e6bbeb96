//! The consistency monitor: compares the live state of a running gateway with the database, and
//! verifies new ledger records. It reports violations and repairs nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::journal::chains::{ChainState, Journal};
use crate::ledger::chain_auditor::report;
use crate::ledger::violation::Violation;
use crate::organization::services::Services;
use crate::store::database::DatabaseError;

/// The pause between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// Checks the live state and the ledger repeatedly.
pub struct ConsistencyMonitor {
    platform: Arc<Services>,
    journal: Arc<Journal>,
    /// The differences found by the previous check.
    previous_differences: BTreeMap<OrganizationId, Difference>,
    reported: HashSet<(&'static str, OrganizationId)>,
}

/// A wallet whose balance differs between live state and database, although the journal is
/// completely projected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    live: Nano,
    stored: Nano,
    /// Where the journal's chains ended at that time.
    ends: Vec<u64>,
}

impl ConsistencyMonitor {
    pub fn new(platform: Arc<Services>, journal: Arc<Journal>) -> Self {
        Self { platform, journal, previous_differences: BTreeMap::new(), reported: HashSet::new() }
    }

    /// Runs until the task is aborted.
    pub async fn run(mut self) {
        loop {
            if let Err(fault) = self.check().await {
                tracing::warn!(%fault, "consistency check failed; retrying");
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn check(&mut self) -> Result<(), DatabaseError> {
        self.compare_holds();
        self.compare_balances().await?;
        self.platform.chain_auditor.check_all(self.platform.database.reader()).await
    }

    /// Checks that the held amount of each wallet is the sum of its open holds.
    fn compare_holds(&mut self) {
        for organization in self.platform.directory.live_state().all_organizations() {
            let (held, sum) = organization.held_amounts();
            if held != sum {
                let expected = format!("{sum}, the sum of its open holds");
                self.report_new("held", organization.id, format!("{held} held"), expected);
            }
        }
    }

    /// Checks that live wallets have the balance in the database, once the journal is completely
    /// projected.
    ///
    /// A call is settled in memory shortly before its entry is appended. A difference is therefore
    /// reported only if the previous check found the same one at the same journal position.
    async fn compare_balances(&mut self) -> Result<(), DatabaseError> {
        let previous = std::mem::take(&mut self.previous_differences);
        // While this lock is held, no recharge is between its commit and its effect on the live
        // state.
        let platform = Arc::clone(&self.platform);
        let _commit_order = platform.commit_order.lock().await;
        let Some(ends) = self.projected_ends() else { return Ok(()) };
        let query = "SELECT organization_id, balance_nano FROM wallets";
        let mut differences = BTreeMap::new();
        for row in sqlx::query(query).fetch_all(platform.database.reader()).await? {
            let organization = OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128());
            let stored = Nano(row.try_get(1)?);
            let live = platform.directory.live_state().organization(organization);
            let Some(live) = live.map(|state| state.lock().wallet.balance()) else { continue };
            if live != stored {
                differences.insert(organization, Difference { live, stored, ends: ends.clone() });
            }
        }
        if self.projected_ends() != Some(ends) {
            return Ok(());
        }
        for (organization, difference) in &differences {
            if previous.get(organization) == Some(difference) {
                let Difference { live, stored, .. } = difference;
                let expected = format!("{stored}, as in the database");
                self.report_new("balance", *organization, format!("balance {live}"), expected);
            }
        }
        self.previous_differences = differences;
        Ok(())
    }

    /// Returns where the journal's chains end, if everything is projected.
    fn projected_ends(&self) -> Option<Vec<u64>> {
        let end = |chain: &ChainState| {
            let end = chain.appended();
            (end == chain.projected()).then_some(end)
        };
        self.journal.chains().iter().map(|chain| end(chain)).collect()
    }

    fn report_new(
        &mut self,
        row: &'static str,
        organization: OrganizationId,
        found: String,
        expected: String,
    ) {
        if self.reported.insert((row, organization)) {
            let (organization, row) = (Some(organization), row.to_owned());
            report(&Violation { table: "live_state", organization, row, found, expected });
        }
    }
}
