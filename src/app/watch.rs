//! The watch over the books of a running gateway: the ledger by its own rules, and what is in
//! memory beside it. It repairs nothing: it tells.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use crate::domain::ids::OrganizationId;
use crate::domain::money::Nano;
use crate::journal::keeper::{ChainState, Journal};
use crate::ledger::violation::Violation;
use crate::ledger::watch::report;
use crate::organization::platform::Platform;
use crate::store::database::DatabaseError;

/// How long after a round the next one begins.
const ROUND: Duration = Duration::from_secs(3);

/// Looks at everything, round after round.
pub struct Watch {
    platform: Arc<Platform>,
    journal: Arc<Journal>,
    /// What did not agree in the round before.
    differed: BTreeMap<OrganizationId, Difference>,
    told: HashSet<(&'static str, OrganizationId)>,
}

/// A wallet that is not the same in memory and in the database, though nothing is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    book: Nano,
    stored: Nano,
    /// Where the journal's chains ended then.
    ends: Vec<u64>,
}

impl Watch {
    /// A watch over that gateway.
    pub fn new(platform: Arc<Platform>, journal: Arc<Journal>) -> Self {
        Self { platform, journal, differed: BTreeMap::new(), told: HashSet::new() }
    }

    /// Goes on until it is aborted.
    pub async fn run(mut self) {
        loop {
            if let Err(fault) = self.round().await {
                tracing::warn!(%fault, "the books could not be looked at; it is tried again");
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn round(&mut self) -> Result<(), DatabaseError> {
        self.compare_holds();
        self.compare_balances().await?;
        self.platform.chains.round(self.platform.database.reader()).await
    }

    /// What a wallet holds is the sum of what its open calls hold, at every moment.
    fn compare_holds(&mut self) {
        for book in self.platform.directory.books().all_organizations() {
            let (held, sum) = book.held_twice();
            if held != sum {
                let expected = format!("{sum}, the sum of its open holds");
                self.tell("held", book.id, format!("{held} held"), expected);
            }
        }
    }

    /// A wallet in memory has the balance that the database has, once all of the journal is there.
    ///
    /// A call is settled in memory a moment before its entry is appended: what differs is told
    /// only if it did so in the round before, with the same journal.
    async fn compare_balances(&mut self) -> Result<(), DatabaseError> {
        let before = std::mem::take(&mut self.differed);
        // No recharge is between its commit and its book.
        let platform = Arc::clone(&self.platform);
        let _landing = platform.landing.lock().await;
        let Some(ends) = self.ends_at_rest() else { return Ok(()) };
        let query = "SELECT organization_id, balance_nano FROM wallets";
        let mut differences = BTreeMap::new();
        for row in sqlx::query(query).fetch_all(platform.database.reader()).await? {
            let organization = OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128());
            let stored = Nano(row.try_get(1)?);
            let book = platform.directory.books().organization(organization);
            let Some(book) = book.map(|book| book.lock().wallet.balance()) else { continue };
            if book != stored {
                differences.insert(organization, Difference { book, stored, ends: ends.clone() });
            }
        }
        if self.ends_at_rest() != Some(ends) {
            return Ok(());
        }
        for (organization, difference) in &differences {
            if before.get(organization) == Some(difference) {
                let Difference { book, stored, .. } = difference;
                let expected = format!("{stored}, as in the database");
                self.tell("balance", *organization, format!("balance {book}"), expected);
            }
        }
        self.differed = differences;
        Ok(())
    }

    /// Where the journal's chains end, if all of it is in the database.
    fn ends_at_rest(&self) -> Option<Vec<u64>> {
        let end = |chain: &ChainState| {
            let end = chain.appended();
            (end == chain.projected()).then_some(end)
        };
        self.journal.chains().iter().map(|chain| end(chain)).collect()
    }

    fn tell(
        &mut self,
        row: &'static str,
        organization: OrganizationId,
        found: String,
        expected: String,
    ) {
        if self.told.insert((row, organization)) {
            let (organization, row) = (Some(organization), row.to_owned());
            report(&Violation { table: "books", organization, row, found, expected });
        }
    }
}
