//! The whole ledger in one look: every chain, every sum, every pair, every hold.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::domain::ids::OrganizationId;
use crate::ledger::chain::{ALL_RECORDS, Chain, ChainRecord};
use crate::ledger::cross_checks;
use crate::ledger::journal_tail::JournalTail;
use crate::ledger::violation::{Findings, Violation, money};
use crate::store::columns::Subject;
use crate::store::database::DatabaseError;
use crate::store::row_stream::for_each_row;

/// Why the books could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The journal cannot be read.
    #[error("journal: {0}")]
    Journal(#[from] std::io::Error),
}

impl From<sqlx::Error> for VerifyError {
    fn from(fault: sqlx::Error) -> Self {
        Self::Database(fault.into())
    }
}

/// What a look has seen.
#[derive(Debug, Default)]
pub struct Verified {
    /// Wallets.
    pub organizations: usize,
    /// Wallet records.
    pub records: u64,
    /// Calls in the request log that were admitted.
    pub calls: u64,
    /// Calls that hold money, by database and journal.
    pub open_holds: usize,
    /// What they hold, in nano-units.
    pub frozen: i128,
    /// Journal entries that the database does not have yet; `None` without a journal.
    pub unprojected: Option<u64>,
    /// What is wrong.
    pub findings: Findings,
    /// Whether the picture of the database was older than the journal's oldest segment: only then
    /// does a second look help.
    pub is_stale: bool,
}

/// Looks at everything that `connection` sees. It must see one picture: a transaction.
pub async fn verify(
    connection: &mut SqliteConnection,
    journal: &Path,
) -> Result<Verified, VerifyError> {
    let mut verified = Verified::default();
    let findings = &mut verified.findings;
    let mut unprojected = JournalTail::restore(connection, findings).await?;
    // At once: segments are removed some time after they were projected.
    if journal.is_dir() {
        let missing = unprojected.read(journal, findings)?;
        verified.is_stale = !missing.is_empty();
        for segment in missing {
            findings.add(Violation {
                table: "journal",
                organization: None,
                row: segment.path(Path::new("")).display().to_string(),
                found: "no such file".into(),
                expected: "there until it is projected".into(),
            });
        }
        verified.unprojected = Some(unprojected.entries);
    }
    (verified.open_holds, verified.frozen) = unprojected.open_holds();
    let mut wallets = load_wallets(connection).await?;
    verified.organizations = wallets.len();
    verified.records = verify_chains(connection, &mut wallets, findings).await?;
    cross_checks::compare_all(connection, findings).await?;
    unprojected.compare(connection, findings).await?;
    let calls = "SELECT count(*) FROM request_logs WHERE outcome <> 'Refused'";
    let calls: i64 = sqlx::query_scalar(calls).fetch_one(connection).await?;
    verified.calls = calls.unsigned_abs();
    Ok(verified)
}

type Wallets = BTreeMap<OrganizationId, (i64, i64)>;

/// The last seq and the balance of every wallet.
async fn load_wallets(connection: &mut SqliteConnection) -> Result<Wallets, sqlx::Error> {
    let mut wallets = Wallets::new();
    for_each_row(
        connection,
        "SELECT organization_id, last_seq, balance_nano FROM wallets",
        |row| {
            let organization = OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128());
            wallets.insert(organization, (row.try_get(1)?, row.try_get(2)?));
            Ok(())
        },
    )
    .await?;
    Ok(wallets)
}

/// Follows every chain to its end and compares that with wallet and usage; how many records.
async fn verify_chains(
    connection: &mut SqliteConnection,
    wallets: &mut Wallets,
    findings: &mut Findings,
) -> Result<u64, sqlx::Error> {
    let mut usage: HashMap<Subject, i64> = HashMap::new();
    let query = "SELECT subject_id, sum(spend_nano) FROM usage_days GROUP BY subject_id";
    for_each_row(connection, query, |row| {
        usage.insert(row.try_get::<Uuid, _>(0)?.as_u128(), row.try_get(1)?);
        Ok(())
    })
    .await?;
    let (mut records, mut followed) = (0, None::<Chain>);
    for_each_row(connection, ALL_RECORDS, |row| {
        let link = ChainRecord::from_row(row)?;
        records += 1;
        if followed.as_ref().is_none_or(|chain| chain.organization() != link.organization()) {
            let done = followed.replace(Chain::new(link.organization()));
            done.inspect(|chain| finish_chain(chain, wallets, &mut usage, findings));
        }
        if let Some(chain) = &mut followed {
            chain.verify_next(&link, findings);
        }
        Ok(())
    })
    .await?;
    followed.inspect(|chain| finish_chain(chain, wallets, &mut usage, findings));
    for (organization, (last_seq, balance)) in std::mem::take(wallets) {
        Chain::new(organization).compare_wallet(last_seq, balance, findings);
    }
    for (subject, spend) in usage.into_iter().filter(|(_, spend)| *spend != 0) {
        findings.add(Violation {
            table: "usage_days",
            organization: None,
            row: format!("subject {}", Uuid::from_u128(subject)),
            found: format!("spend {} over all days", money(spend.into())),
            expected: "0.00, as it has no Consumes".into(),
        });
    }
    Ok(records)
}

/// Compares a chain that was followed with its wallet and with what its subjects used.
fn finish_chain(
    chain: &Chain,
    wallets: &mut Wallets,
    usage: &mut HashMap<Subject, i64>,
    findings: &mut Findings,
) {
    let organization = chain.organization();
    match wallets.remove(&organization) {
        Some((last_seq, balance)) => chain.compare_wallet(last_seq, balance, findings),
        None => findings.add(Violation {
            table: "wallets",
            organization: Some(organization),
            row: "wallet".into(),
            found: "none, though there are records".into(),
            expected: "one".into(),
        }),
    }
    for subject in chain.subjects() {
        chain.compare_usage(subject, usage.remove(&subject).unwrap_or_default(), findings);
    }
}
