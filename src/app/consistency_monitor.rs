//! The watch over the books of a running gateway: the ledger by its own rules, and what is in
//! memory beside it. It repairs nothing: it tells.

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

/// How long after a round the next one begins.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// Looks at everything, round after round.
pub struct ConsistencyMonitor {
    platform: Arc<Services>,
    journal: Arc<Journal>,
    /// What did not agree in the round before.
    previous_differences: BTreeMap<OrganizationId, Difference>,
    reported: HashSet<(&'static str, OrganizationId)>,
}

/// A wallet that is not the same in memory and in the database, though nothing is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    live: Nano,
    stored: Nano,
    /// Where the journal's chains ended then.
    ends: Vec<u64>,
}

impl ConsistencyMonitor {
    /// A watch over that gateway.
    pub fn new(platform: Arc<Services>, journal: Arc<Journal>) -> Self {
        Self { platform, journal, previous_differences: BTreeMap::new(), reported: HashSet::new() }
    }

    /// Goes on until it is aborted.
    pub async fn run(mut self) {
        loop {
            if let Err(fault) = self.check().await {
                tracing::warn!(%fault, "the books could not be looked at; it is tried again");
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn check(&mut self) -> Result<(), DatabaseError> {
        self.compare_holds();
        self.compare_balances().await?;
        self.platform.chain_auditor.check_all(self.platform.database.reader()).await
    }

    /// What a wallet holds is the sum of what its open calls hold, at every moment.
    fn compare_holds(&mut self) {
        for book in self.platform.directory.live_state().all_organizations() {
            let (held, sum) = book.held_amounts();
            if held != sum {
                let expected = format!("{sum}, the sum of its open holds");
                self.report_new("held", book.id, format!("{held} held"), expected);
            }
        }
    }

    /// A wallet in memory has the balance that the database has, once all of the journal is there.
    ///
    /// A call is settled in memory a moment before its entry is appended: what differs is told
    /// only if it did so in the round before, with the same journal.
    async fn compare_balances(&mut self) -> Result<(), DatabaseError> {
        let before = std::mem::take(&mut self.previous_differences);
        // No recharge is between its commit and its book.
        let platform = Arc::clone(&self.platform);
        let _landing = platform.commit_order.lock().await;
        let Some(ends) = self.projected_ends() else { return Ok(()) };
        let query = "SELECT organization_id, balance_nano FROM wallets";
        let mut differences = BTreeMap::new();
        for row in sqlx::query(query).fetch_all(platform.database.reader()).await? {
            let organization = OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128());
            let stored = Nano(row.try_get(1)?);
            let book = platform.directory.live_state().organization(organization);
            let Some(book) = book.map(|book| book.lock().wallet.balance()) else { continue };
            if book != stored {
                differences
                    .insert(organization, Difference { live: book, stored, ends: ends.clone() });
            }
        }
        if self.projected_ends() != Some(ends) {
            return Ok(());
        }
        for (organization, difference) in &differences {
            if before.get(organization) == Some(difference) {
                let Difference { live: book, stored, .. } = difference;
                let expected = format!("{stored}, as in the database");
                self.report_new("balance", *organization, format!("balance {book}"), expected);
            }
        }
        self.previous_differences = differences;
        Ok(())
    }

    /// Where the journal's chains end, if all of it is in the database.
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
            report(&Violation { table: "books", organization, row, found, expected });
        }
    }
}
