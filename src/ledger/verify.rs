//! Verifies the whole ledger: every chain, every sum, every cross-check, every hold.

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

/// Why the ledger could not be verified.
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

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Verified {
    /// The number of wallets.
    pub organizations: usize,
    /// The number of wallet records.
    pub records: u64,
    /// The number of calls in the request log that were admitted.
    pub calls: u64,
    /// The number of open holds, from database and journal.
    pub open_holds: usize,
    /// The sum of the open holds in nano-units.
    pub frozen: i128,
    /// Journal entries that are not in the database yet; `None` without a journal.
    pub unprojected: Option<u64>,
    pub findings: Findings,
    /// Whether the journal lacks segments that this snapshot of the database needs. Verifying a
    /// newer snapshot can only help in this case.
    pub is_stale: bool,
}

/// Verifies everything that `connection` reads. It must read from one snapshot (a transaction).
pub async fn verify(
    connection: &mut SqliteConnection,
    journal: &Path,
) -> Result<Verified, VerifyError> {
    let mut verified = Verified::default();
    let findings = &mut verified.findings;
    let mut tail = JournalTail::restore(connection, findings).await?;
    // Read the journal first, because segments are removed some time after they were projected.
    if journal.is_dir() {
        let missing = tail.read(journal, findings)?;
        verified.is_stale = !missing.is_empty();
        for segment in missing {
            findings.add(Violation {
                table: "journal",
                organization: None,
                row: segment.path(Path::new("")).display().to_string(),
                found: "no such file".into(),
                expected: "present until it is projected".into(),
            });
        }
        verified.unprojected = Some(tail.entries);
    }
    (verified.open_holds, verified.frozen) = tail.open_holds();
    let mut wallets = load_wallets(connection).await?;
    verified.organizations = wallets.len();
    verified.records = verify_chains(connection, &mut wallets, findings).await?;
    cross_checks::compare_all(connection, findings).await?;
    tail.compare(connection, findings).await?;
    let calls = "SELECT count(*) FROM request_logs WHERE outcome <> 'Refused'";
    let calls: i64 = sqlx::query_scalar(calls).fetch_one(connection).await?;
    verified.calls = calls.unsigned_abs();
    Ok(verified)
}

type Wallets = BTreeMap<OrganizationId, (i64, i64)>;

/// Returns the last seq and the balance of every wallet.
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

/// Verifies every chain and compares it with its wallet and its usage. Returns the number of
/// records.
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
    let (mut records, mut current) = (0, None::<Chain>);
    for_each_row(connection, ALL_RECORDS, |row| {
        let record = ChainRecord::from_row(row)?;
        records += 1;
        if current.as_ref().is_none_or(|chain| chain.organization() != record.organization()) {
            let finished = current.replace(Chain::new(record.organization()));
            finished.inspect(|chain| finish_chain(chain, wallets, &mut usage, findings));
        }
        if let Some(chain) = &mut current {
            chain.verify_next(&record, findings);
        }
        Ok(())
    })
    .await?;
    current.inspect(|chain| finish_chain(chain, wallets, &mut usage, findings));
    for (organization, (last_seq, balance)) in std::mem::take(wallets) {
        Chain::new(organization).compare_wallet(last_seq, balance, findings);
    }
    for (subject, spend) in usage.into_iter().filter(|(_, spend)| *spend != 0) {
        findings.add(Violation {
            table: "usage_days",
            organization: None,
            row: format!("subject {}", Uuid::from_u128(subject)),
            found: format!("spend {} over all days", money(spend.into())),
            expected: "0.00, because it has no Consumes".into(),
        });
    }
    Ok(records)
}

/// Compares a verified chain with its wallet and with the usage of its subjects.
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
            found: "missing, although there are records".into(),
            expected: "one".into(),
        }),
    }
    for subject in chain.subjects() {
        chain.compare_usage(subject, usage.remove(&subject).unwrap_or_default(), findings);
    }
}
